"""The memory blocks of 1997 against loops over lanes, steps and units, and their truncated gradient
against the paper's own algorithm, which carries derivatives forward in time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.cell import Marks
from lstm_jax.cells.memory_blocks import (
    MEMORY_BLOCKS,
    MemoryBlockParams,
    MemoryBlockState,
    init_memory_blocks,
)
from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import Batch
from lstm_jax.errors import UserError
from lstm_jax.gradients import GRADIENTS
from lstm_jax.heads import sigmoid_squared
from lstm_jax.layer import unroll
from lstm_jax.masks import sample_masks
from lstm_jax.model import ModelParams, Readout, init_carry, init_model, named_leaves
from tests.loops import D, affine, compare, make_inputs, random
from tests.oracle import sigmoid

N, S = 2, 2
C, G = N * S, 2 * N + N * S
T, K = 6, 3  # steps and outputs of the paper's algorithm


def make_params(rng):
    return MemoryBlockParams(*(random(rng, *s) for s in ((D, G), (C, G), (2 * N, G), (G,))))


def memory_blocks(params):
    """Section 4 of the paper, unit by unit: what every unit puts out is read by all at the next."""
    W, U, U_gates, b = (np.array(leaf) for leaf in params)

    def step(y_c, s, y_in, y_out, x, *_):
        sums = zip(affine(x, W), affine(y_c, U), affine([*y_in, *y_out], U_gates), b, strict=True)
        net = [sum(map(float, parts)) for parts in sums]
        new_in, new_out = [sigmoid(z) for z in net[:N]], [sigmoid(z) for z in net[N : 2 * N]]
        new_c, new_s = [], []
        for block in range(N):
            for cell in range(block * S, block * S + S):
                g = 4 * sigmoid(net[2 * N + cell]) - 2
                new_s.append(s[cell] + new_in[block] * g)
                new_c.append(new_out[block] * (2 * sigmoid(new_s[cell]) - 1))
        return new_c, new_s, new_in, new_out

    return step


def inputs_of(rng, ids):
    return make_inputs(rng, ids, MemoryBlockState, (C, C, N, N))


@pytest.mark.parametrize("ids", [False, True])
def test_unrolled_it_is_the_loop(ids, x64, rng):
    params = make_params(rng)
    compare(unroll, params, memory_blocks(params), inputs_of(rng, ids))


def with_params(change):
    return lambda params, *args, **options: unroll(change(params), *args, **options)


def swapped(leaf, order):
    """The gates of two blocks, and their cells, in another order."""
    return leaf[..., np.array(order)]


MUTANTS = {
    "input and output gates swapped": with_params(
        lambda p: jax.tree.map(partial(swapped, order=[2, 3, 0, 1, 4, 5, 6, 7]), p)
    ),
    "the input gates of the other block": with_params(
        lambda p: jax.tree.map(partial(swapped, order=[1, 0, 2, 3, 4, 5, 6, 7]), p)
    ),
    "cells of two blocks swapped": with_params(
        lambda p: jax.tree.map(partial(swapped, order=[0, 1, 2, 3, 4, 6, 5, 7]), p)
    ),
    "gates that are read by nothing": with_params(lambda p: p._replace(U_gates=0 * p.U_gates)),
    "gates read in another order": with_params(
        lambda p: p._replace(U_gates=jnp.roll(p.U_gates, N, axis=0))
    ),
    "no mask": lambda *args, mask_BxD, **options: unroll(*args, **options),
    "no resets": lambda *args, resets_TxB, **options: unroll(*args, **options),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_another_layer(mutant, x64, rng):
    params = make_params(rng)
    with pytest.raises(AssertionError):
        compare(mutant, params, memory_blocks(params), inputs_of(rng, ids=True))


def paper_updates(params, x_TxD, targets_TxK, counts_T):
    """Appendix A.1: each weight's update at rate 1, the sum of the contributions of all steps.

    What is stored of the past is ds/dw alone, carried from step to step. The numbers are those of
    the paper's equations. Of every unit l the weights from all units m are one row.
    """
    layer, readout = params.layers[0], params.readout
    # From inputs, cells, gates and the bias unit, which puts out 1.
    w = np.concatenate([layer.W, layer.U, layer.U_gates, layer.b[None]]).T
    w_k, b_k = np.array(readout.W).T, np.array(readout.b)
    s, y_c, y_in, y_out = np.zeros(C), np.zeros(C), np.zeros(N), np.zeros(N)
    ds_in, ds_c = np.zeros((N, S, w.shape[1])), np.zeros((N, S, w.shape[1]))
    dw, dw_k, db_k = np.zeros_like(w), np.zeros_like(w_k), np.zeros_like(b_k)
    for t in range(len(x_TxD)):
        y = np.concatenate([x_TxD[t], y_c, y_in, y_out, [1.0]])
        net = w @ y  # (7) to (9)
        y_in, y_out = np.zeros(N), np.zeros(N)
        for j in range(N):
            y_in[j], y_out[j] = sigmoid(net[j]), sigmoid(net[N + j])
            for v in range(S):
                c = j * S + v
                f = sigmoid(net[2 * N + c])
                g, slope = 4 * f - 2, 4 * f * (1 - f)
                s[c] += y_in[j] * g
                y_c[c] = y_out[j] * (2 * sigmoid(s[c]) - 1)
                ds_in[j, v] += g * y_in[j] * (1 - y_in[j]) * y  # (25)
                ds_c[j, v] += slope * y_in[j] * y  # (27)
        if not counts_T[t]:
            continue
        y_k = [sigmoid(w_k[k] @ y_c + b_k[k]) for k in range(K)]
        e_k = [p * (1 - p) * (target - p) for p, target in zip(y_k, targets_TxK[t], strict=True)]
        for k in range(K):  # (19), (22)
            dw_k[k] += e_k[k] * y_c
            db_k[k] += e_k[k]
        for j in range(N):
            for v in range(S):
                c = j * S + v
                f = sigmoid(s[c])
                arrives = sum(w_k[k, c] * e_k[k] for k in range(K))
                # (21), (22)
                dw[N + j] += y_out[j] * (1 - y_out[j]) * (2 * f - 1) * arrives * y
                e_s = y_out[j] * 2 * f * (1 - f) * arrives  # (23)
                dw[j] += e_s * ds_in[j, v]  # (26)
                dw[2 * N + c] += e_s * ds_c[j, v]  # (28)
    rows = np.split(dw.T, np.cumsum([D, C, 2 * N]))
    return ModelParams(None, (MemoryBlockParams(*rows[:3], rows[3][0]),), Readout(dw_k.T, db_k))


@pytest.fixture
def problem(x64, rng):
    params = ModelParams(None, (make_params(rng),), Readout(random(rng, C, K), random(rng, K)))
    counts_Tx1 = np.zeros((T, 1), bool)
    counts_Tx1[[1, 3, 5]] = True
    return params, Batch(random(rng, T, 1, D), random(rng, T, 1, K), jnp.asarray(counts_Tx1))


def distances(gradient, problem):
    """Of a gradient from the paper's updates, leaf by leaf; its mean is over three targets."""
    params, batch = problem
    _, found = GRADIENTS[gradient](sigmoid_squared)(params, init_carry(params, 1), batch, None)
    numbers = (np.array(a)[:, 0] for a in (batch.inputs, batch.targets, batch.mask))
    updates = named_leaves(paper_updates(params, *numbers))
    return {
        name: float(np.abs(leaf + updates[name] / 3).max())
        for name, leaf in named_leaves(found).items()
    }


def test_its_truncated_gradient_is_that_of_the_papers_own_algorithm(problem):
    assert max(distances("truncated", problem).values()) < 1e-15


def test_the_full_gradient_is_another_one(problem):
    """But for the weights to the outputs, so that the comparison sees what is truncated."""
    apart = distances("bptt", problem)
    assert min(apart[name] for name in apart if "layers" in name) > 1e-4
    assert max(apart[name] for name in apart if "readout" in name) < 1e-15


def primitives(jaxpr, found=None):
    """The names of all operations, those of loops and branches included."""
    found = set() if found is None else found
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                primitives(value.jaxpr, found)
    return found


@pytest.mark.parametrize("truncated", [True, False])
def test_under_the_truncated_rule_no_step_backward_has_a_product(truncated, rng):
    params, (state, x, _, _) = make_params(rng), inputs_of(rng, ids=False)
    passes, marks = MEMORY_BLOCKS.by_hand["rows"], Marks()
    final, h, residuals = passes.forward(params, state, x, None, marks)

    def backward(e, dfinal):
        return passes.backward(params, residuals, None, marks, e, dfinal, truncated=truncated)

    loops = [
        equation.params["jaxpr"].jaxpr
        for equation in jax.make_jaxpr(backward)(h, final).jaxpr.eqns
        if equation.primitive.name == "scan"
    ]
    assert len(loops) == 1 and ("dot_general" in primitives(loops[0])) != truncated


def test_initial_parameters():
    D, C, S = 9, 64, 4
    params = init_memory_blocks(jax.random.key(0), D, C, block_size=S)
    G, gates = 96, 32
    assert [leaf.shape for leaf in params] == [(D, G), (C, G), (gates, G), (G,)]
    assert not params.b.any()
    for weights in params[:3]:
        assert 0.95 * C**-0.5 < np.abs(weights).max() <= C**-0.5
        assert abs(np.std(weights) - C**-0.5 / 3**0.5) < 0.005 and abs(weights.mean()) < 0.01
    assert len({float(leaf[0, 0]) for leaf in params[:3]}) == 3  # drawn apart
    other = init_memory_blocks(jax.random.key(1), D, C, block_size=S)
    assert all((a != b).any() for a, b in zip(params[:3], other, strict=False))
    wide = init_memory_blocks(jax.random.key(0), D, C, block_size=S, input_bound=4.0)
    assert 3.8 < np.abs(wide.W).max() <= 4
    np.testing.assert_array_equal(wide.U, params.U)
    state = MEMORY_BLOCKS.init_state(params, 3)
    assert [leaf.shape for leaf in state] == [(3, C), (3, C), (3, C // S), (3, C // S)]
    assert not any(leaf.any() for leaf in state) and MEMORY_BLOCKS.widths(params) == (D, C)


def test_zoneout_is_drawn_for_each_field_by_its_width(rng):
    config = ModelConfig(cell="memory_blocks", hidden_size=C, block_size=S, zoneout_cell=0.5)

    def draw(key):
        return sample_masks(key, init_model(key, config, 5), config, 3, T)

    (stay,) = jax.eval_shape(draw, jax.random.key(0)).zoneout
    assert [leaf.shape[2] for leaf in stay] == [C, C, N, N]
    params, (state, x, _, _) = make_params(rng), inputs_of(rng, ids=False)
    wide = MemoryBlockState(*(jnp.zeros((1, 1, n)) for n in (C, C, C, N)))
    with pytest.raises(ValueError, match=r"^[^\n]*does not fit[^\n]*$"):
        unroll(params, state, x, zoneout=wide)


def test_cells_that_fill_no_blocks_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^model.block_size=4 needs [^\n]* one has 6$"):
        init_memory_blocks(jax.random.key(0), 3, 6, block_size=4)
