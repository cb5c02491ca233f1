"""The gradients of every variant of the model against central differences; which backward may."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.passes import COLUMNS
from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import Batch
from lstm_jax.gradients import BLOCK_GRADIENTS, GRADIENTS, bptt, by_jax, remat
from lstm_jax.heads import softmax
from lstm_jax.masks import sample_masks
from lstm_jax.model import init_carry, init_model
from lstm_jax.verification.compare import UNOPTIMIZED

V, T, B, H = 5, 7, 2, 4
ROOT = Path(__file__).parent.parent.parent

VARIANTS = {
    "coupled": {"cell": "coupled"},
    "layer_norm": {"cell": "layer_norm"},
    "mogrifier": {"cell": "mogrifier", "mogrifier_rounds": 3},
    "mogrifier, rank 2": {"cell": "mogrifier", "mogrifier_rounds": 4, "mogrifier_rank": 2},
    "mogrifier, embedding": {"cell": "mogrifier", "mogrifier_rounds": 3, "embedding_size": 3},
    "tied": {"readout": "tied", "embedding_size": H},
    "tied, projection": {"readout": "tied", "embedding_size": 3},
    "low rank": {"readout_rank": 2},
    "skips": {"num_layers": 2, "skip": "weighted", "dropout": 0.3},
    "zoneout": {"num_layers": 2, "zoneout_hidden": 0.3, "zoneout_cell": 0.5},
}
# Of `loss.sequence_loss`, with whose values it is compared: compiled once for a variant.
autodiff = jax.jit(GRADIENTS["autodiff"](softmax), compiler_options=UNOPTIMIZED)
DROPPED_SYMBOLS = {"embedding_size": 3, "embedding_dropout": 0.5, "dropout": 0.3}


def make_problem(rng, model):
    """Random parameters, a nonzero carry, targets that do not count, resets, drawn masks."""
    config = ModelConfig(**{"hidden_size": H} | model)
    params = jax.eval_shape(lambda: init_model(jax.random.key(0), config, V))
    carry = jax.eval_shape(lambda: init_carry(params, B))
    params, carry = jax.tree.map(
        lambda leaf: jnp.asarray(0.7 * rng.normal(size=leaf.shape)), (params, carry)
    )
    ids, resets, counts = rng.integers(V, size=(T + 1, B)), np.zeros((T, B)), np.ones((T, B))
    resets[2, 1] = resets[4, 0] = 1
    counts[1, 0] = counts[-1, 1] = 0
    batch = Batch(*map(jnp.asarray, (ids[:-1], ids[1:], counts > 0, resets > 0)))
    masks = jax.jit(lambda: sample_masks(jax.random.key(3), params, config, B, T))()
    return params, carry, batch, masks


def run(function, problem):
    return jax.jit(function, compiler_options=UNOPTIMIZED)(*problem)


def assert_is_the_slope(gradient, problem, rng, coordinates=2):
    """Five-point differences of the loss at random coordinates of every leaf."""
    leaves, tree = jax.tree.flatten(problem[0])
    leaves = [np.array(leaf) for leaf in leaves]
    for number, (leaf, d) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
        assert d.shape == leaf.shape and float(jnp.abs(d).max()) > 1e-6
        for place in rng.choice(leaf.size, min(coordinates, leaf.size), replace=False):

            def at(step, number=number, place=place, leaf=leaf):
                moved = leaf.copy()
                moved.flat[place] += step
                params = tree.unflatten([*leaves[:number], moved, *leaves[number + 1 :]])
                return float(autodiff(params, *problem[1:])[0][0])

            e = 1e-3
            slope = (8 * (at(e) - at(-e)) - (at(2 * e) - at(-2 * e))) / (12 * e)
            error = abs(float(d.ravel()[place]) - slope)
            assert error <= 1e-7 * float(jnp.abs(d).max()), (number, place, error)


def largest(found, wanted):
    """The largest difference between two trees."""
    errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found, wanted)
    return max(jax.tree.leaves(errors))


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS)
def test_the_gradient_is_the_slope_of_the_loss(model, x64, rng):
    problem = make_problem(rng, model)
    _, gradient = autodiff(*problem)
    assert_is_the_slope(gradient, problem, rng)


@pytest.mark.parametrize("name", ["coupled", "zoneout"])
def test_the_differences_notice_the_truncated_rule(name, x64, rng):
    problem = make_problem(rng, VARIANTS[name])
    _, gradient = run(by_jax(softmax, truncated=True), problem)
    with pytest.raises(AssertionError):
        assert_is_the_slope(gradient, problem, rng, coordinates=5)


def test_in_blocks_zoneout_is_that_of_the_whole(x64, rng):
    """Blocks of 3, 3 and 1 steps, each with its own steps of the masks."""
    params, carry, batch, masks = problem = make_problem(rng, VARIANTS["zoneout"])
    late = jax.tree.map(lambda stay: jnp.roll(stay, 3, axis=0), masks.zoneout)
    mutant = (params, carry, batch, masks._replace(zoneout=late))
    found = run(remat.make_gradient("autodiff", 3), problem)
    assert remat.make_gradient("autodiff", 0) is GRADIENTS["autodiff"](softmax)
    assert largest(found, autodiff(*problem)) < 1e-13
    assert largest(found, autodiff(*mutant)) > 1e-3


def test_by_hand_dropped_symbols_have_the_gradient_of_autodiff(x64, rng):
    params, carry, batch, masks = problem = make_problem(rng, DROPPED_SYMBOLS)
    assert (masks.embedding == 0).any() and (masks.embedding == 2).any()
    by_hand, by_columns = run(
        lambda *p: (GRADIENTS["bptt"](softmax)(*p), bptt.value_and_grad(*p, layout=COLUMNS)),
        problem,
    )
    by_jax = autodiff(*problem)
    assert largest(by_hand, by_jax) < 1e-14 and largest(by_columns, by_jax) < 1e-14
    assert_is_the_slope(by_hand[1], problem, rng, coordinates=6)
    _, undropped = run(
        GRADIENTS["bptt"](softmax), (params, carry, batch, masks._replace(embedding=None))
    )
    with pytest.raises(AssertionError):
        assert_is_the_slope(undropped, problem, rng, coordinates=6)


BY_HAND = ["tied", "tied, projection", "low rank", "zoneout"]


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand_a_variant_has_the_gradient_of_autodiff(name, x64, rng):
    problem = make_problem(rng, VARIANTS[name])
    by_hand, by_columns = run(
        lambda *p: (GRADIENTS["bptt"](softmax)(*p), bptt.value_and_grad(*p, layout=COLUMNS)),
        problem,
    )
    by_jax = autodiff(*problem)
    assert largest(by_hand, by_jax) < 1e-14 and largest(by_columns, by_jax) < 1e-14


@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - {"skips", *BY_HAND}))
def test_by_hand_there_is_no_gradient_of_a_variant(name, x64, rng):
    problem = make_problem(rng, VARIANTS[name])
    for function in (
        GRADIENTS["bptt"](softmax),
        GRADIENTS["truncated"](softmax),
        remat.make_gradient("bptt", 3),
        BLOCK_GRADIENTS["bptt"](softmax).forward,
    ):
        with pytest.raises(TypeError, match="take autodiff"):
            function(*problem)


ON_TWO_DEVICES = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
import numpy as np
from lstm_jax.gradients import lanes
from lstm_jax.gradients import GRADIENTS
from lstm_jax.heads import softmax
from tests.verification.test_variant_gradients import (
    DROPPED_SYMBOLS, autodiff, largest, make_problem, run)
mesh = lanes.lane_mesh(2, 4)
model = DROPPED_SYMBOLS | {"zoneout_hidden": 0.3, "zoneout_cell": 0.5}
params, carry, batch, masks = problem = make_problem(np.random.default_rng(0), model)
swapped = masks._replace(zoneout=jax.tree.map(lambda stay: stay[:, ::-1], masks.zoneout))
divided = run(lanes.over_lanes(GRADIENTS["autodiff"](softmax), mesh), problem)
divided = jax.tree.map(np.asarray, divided)
found = {"devices": mesh.size}
for name, drawn in (("same", masks), ("swapped", swapped)):
    whole = jax.tree.map(np.asarray, autodiff(params, carry, batch, drawn))
    found[name] = largest(divided, whole)
print(json.dumps(found))
"""


def test_each_device_takes_its_lanes_of_the_masks():
    command = [sys.executable, "-c", ON_TWO_DEVICES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 2
    assert found["same"] < 1e-13
    assert found["swapped"] > 1e-3
