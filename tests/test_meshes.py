"""Layers and models on two devices, by JAX's defaults: the same as on one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ON_TWO_DEVICES = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import numpy as np
from functools import partial
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec as P
from lstm_jax.gradients import bptt
from lstm_jax.gradients.bptt_layer import bptt_layer
from lstm_jax.cells import CELLS
from lstm_jax.cells.passes import COLUMNS, ROWS
from lstm_jax.verification.cases import Case, make_problem
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.cells.passes import COLUMNS, ROWS
from lstm_jax.config import ModelConfig
from lstm_jax.gradients import GRADIENTS
from lstm_jax.heads import softmax
from lstm_jax.layer import unroll
from lstm_jax.model import init_carry
from lstm_jax.verification.compare import UNOPTIMIZED

T, B, D, H = 6, 4, 3, 5
rng, mesh, jit = np.random.default_rng(0), jax.make_mesh((2,), ("d",)), partial(
    jax.jit, compiler_options=UNOPTIMIZED)
EVERYWHERE, LANES, LATER_LANES = P(), P("d"), P(None, "d")

def put(tree, spec):
    return jax.device_put(tree, NamedSharding(mesh, spec))

def largest(tree, other):
    errors = jax.tree.map(lambda a, b: float(np.abs(np.subtract(a, b)).max()), tree, other)
    return max(jax.tree.leaves(errors))

def loss(layer, params, state, x, resets):
    final, h_TxBxH = layer(params, state, x, resets)
    return jnp.sum(jnp.sin(h_TxBxH)) + jnp.sum(final.h**2) + jnp.sum(jnp.cos(3 * final.c))

def textbook(params, state, x, resets):
    return unroll(params, state, x, resets_TxB=resets)

params = LSTMParams(*(rng.normal(size=s) for s in ((D, 4 * H), (H, 4 * H), (4 * H,))))
states = {"split": LSTMState(*rng.normal(size=(2, B, H))),
          "replicated": LSTMState(*np.zeros((2, B, H)))}
resets = rng.random((T, B)) < 0.3
inputs = {"vectors": rng.normal(size=(T, B, D)), "ids": rng.integers(D, size=(T, B))}
layers = {"unroll": textbook, "bptt_layer": bptt_layer}
specs = {"split": LANES, "replicated": EVERYWHERE}
found = {}
for read, x in inputs.items():
    by = (0, 1, 2) if read == "vectors" else (0, 1)
    for lies, state in states.items():
        def results(layer, *args):
            return layer(*args), jax.value_and_grad(partial(loss, layer), by)(*args)
        wanted = jit(partial(results, textbook))(params, state, x, resets)
        split = (put(params, EVERYWHERE), put(state, specs[lies]), put(x, LATER_LANES),
                 put(resets, LATER_LANES))
        if not found:  # other resets, which the comparison has to see
            other = jit(partial(results, textbook))(*split[:3], ~split[3])
            found["broken"] = largest(other, wanted)
        for name, layer in layers.items():
            found[f"explicit {name} {read} {lies}"] = largest(
                jit(partial(results, layer))(*split), wanted)

        def on_a_device(layer, params, state, x, resets):  # B / 2 lanes
            if lies == "replicated":
                state = jax.tree.map(lambda s: s[: B // 2], state)
            value, grads = jax.value_and_grad(partial(loss, layer), by)(params, state, x, resets)
            return lax.psum(value, "d"), grads[0], *grads[2:]
        for name, layer in layers.items():
            mapped = jax.shard_map(
                partial(on_a_device, layer), mesh=mesh,
                in_specs=(EVERYWHERE, specs[lies], LATER_LANES, LATER_LANES),
                out_specs=(EVERYWHERE, EVERYWHERE, LATER_LANES)[: len(by)])
            value, grads = wanted[1]
            found[f"shard_map {name} {read} {lies}"] = largest(
                jit(mapped)(*split), (value, grads[0], *grads[2:]))

# Only the state, one part of it, or the resets are split, the rest lies on every device.
state = LSTMState(*rng.normal(size=(2, B, H)))
args, by = (params, state, inputs["vectors"], resets), (0, 1, 2)
wanted = jit(partial(results, textbook))(*args)
whole = [put(arg, EVERYWHERE) for arg in args]
for name, place, part in (("state", 1, put(state, LANES)), ("resets", 3, put(resets, LATER_LANES)),
                          ("h", 1, whole[1]._replace(h=put(state.h, LANES)))):
    split = [*whole[:place], part, *whole[place + 1:]]
    by = (0, 1, 2)
    found[f"only {name}"] = largest(jit(partial(results, bptt_layer))(*split), wanted)

# Other cells, backwards through lanes of unequal length.
x, lengths = inputs["vectors"], np.array([6, 2, 5, 1])
specs = (EVERYWHERE, LANES, LATER_LANES, LATER_LANES, LANES)
for cell, leaves in (("gru", ((D, 3 * H), (H, 3 * H), (3 * H,), (H,))),
                     ("peephole", ((D, 4 * H), (H, 4 * H), (4 * H,), (H,), (H,), (H,)))):
    params = CELLS[cell].params(*(rng.normal(size=s) for s in leaves))
    state = CELLS[cell].state(*(rng.normal(size=(B, H)) for _ in CELLS[cell].state._fields))
    def loss_and_gradients(layer, params, state, x, resets, lengths):
        def loss(params, state, x):
            final, h_TxBxH = layer(params, state, x, resets_TxB=resets, lengths_B=lengths,
                                   reverse=True)
            return jnp.sum(jnp.sin(h_TxBxH)) + sum(jnp.sum(jnp.cos(3 * s)) for s in final)
        return jax.value_and_grad(loss, (0, 1, 2))(params, state, x)
    def on_a_device(layer, *args):
        value, grads = loss_and_gradients(layer, *args)
        return lax.psum(value, "d"), grads
    args = (params, state, x, resets, lengths)
    wanted = jit(partial(loss_and_gradients, unroll))(*args)
    split = [put(arg, spec) for arg, spec in zip(args, specs, strict=True)]
    for name, layer in (("unroll", unroll), ("bptt_layer", bptt_layer)):
        found[f"explicit {name} {cell}"] = largest(
            jit(partial(loss_and_gradients, layer))(*split), wanted)
        mapped = jax.shard_map(partial(on_a_device, layer), mesh=mesh, in_specs=specs,
                               out_specs=(EVERYWHERE, specs[:3]))
        found[f"shard_map {name} {cell}"] = largest(jit(mapped)(*split), wanted)

rows, columns = (partial(bptt.value_and_grad, layout=lay) for lay in (ROWS, COLUMNS))
autodiff = GRADIENTS["autodiff"](softmax)
for embedding in (0, 3):
    model = ModelConfig(hidden_size=6, num_layers=2, embedding_size=embedding, dropout=0.3,
                        input_dropout=0.3, embedding_dropout=0.3 if embedding else 0.0)
    # Ids are read out in pieces of two steps.
    case = Case(model, T, B, masked=True, resets=True, carry=True,
                read_out_steps=None if embedding else 2)
    problem, head = make_problem(case), case.scored_by
    split = [put(part, spec) for part, spec in zip(
        problem, (EVERYWHERE, LANES, LATER_LANES, LANES), strict=True)]
    wanted = jit(autodiff)(*problem)
    for name, f in (("autodiff", GRADIENTS["autodiff"](head)), ("rows", partial(rows, head=head)),
                    ("columns", partial(columns, head=head))):
        found[f"model {name} {embedding}"] = largest(jit(f)(*split), wanted)

# The state as `init_carry` makes it, which lies on every device: on the mesh, and made inside.
params, _, batch, masks = problem
start = init_carry(params, B)
wanted = jit(autodiff)(params, start, batch, masks)
for name, f in (("autodiff", autodiff), ("rows", rows), ("columns", columns)):
    split = [put(part, spec) for part, spec in zip(
        (params, start, batch, masks), (EVERYWHERE, EVERYWHERE, LATER_LANES, LANES), strict=True)]
    found[f"model {name} replicated"] = largest(jit(f)(*split), wanted)
    def on_a_device(f, params, batch, masks):
        (loss, aux), _ = f(params, init_carry(params, B // 2), batch, masks)
        return lax.psum(loss * aux.count, "d") / lax.psum(aux.count, "d")
    mapped = jax.shard_map(partial(on_a_device, f), mesh=mesh,
                           in_specs=(EVERYWHERE, LATER_LANES, LANES), out_specs=EVERYWHERE)
    found[f"model {name} made inside"] = largest(jit(mapped)(split[0], *split[2:]), wanted[0][0])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    command = [sys.executable, "-c", ON_TWO_DEVICES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", ["explicit", "shard_map"])
@pytest.mark.parametrize("layer", ["unroll", "bptt_layer"])
@pytest.mark.parametrize("read", ["vectors", "ids"])
@pytest.mark.parametrize("state", ["split", "replicated"])
def test_a_layer_by_jaxs_defaults(way, layer, read, state, found):
    """Forward, loss and gradients, with Explicit axes and inside `shard_map`."""
    assert found[f"{way} {layer} {read} {state}"] < 1e-12
    assert found["broken"] > 1e-3


@pytest.mark.parametrize("what", ["state", "resets", "h"])
def test_a_layer_of_which_a_part_is_split(what, found):
    assert found[f"only {what}"] < 1e-12


@pytest.mark.parametrize("way", ["explicit", "shard_map"])
@pytest.mark.parametrize("layer", ["unroll", "bptt_layer"])
@pytest.mark.parametrize("cell", ["gru", "peephole"])
def test_another_cell_backwards_through_lanes_of_unequal_length(way, layer, cell, found):
    assert found[f"{way} {layer} {cell}"] < 1e-12


@pytest.mark.parametrize("gradient", ["autodiff", "rows", "columns"])
@pytest.mark.parametrize("what", [0, 3, "replicated", "made inside"])
def test_a_model_by_jaxs_defaults(gradient, what, found):
    """On an Explicit mesh, of ids in pieces or of embeddings; with a zero state that is not split;
    and with one that is made inside `shard_map`."""
    assert found[f"model {gradient} {what}"] < 1e-13
