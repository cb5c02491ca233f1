"""A batch divided among devices: the same loss and gradient as on one, in a process with four."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.gradients.lanes import weigh
from lstm_jax.run.checkpoint import Checkpoints
from lstm_jax.train import init_train_state

ROOT = Path(__file__).parent.parent.parent
ON_FOUR_DEVICES = """
import json
import sys
from dataclasses import replace
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)
import numpy as np
from experiments.support.training import lanes_in_words
from lstm_jax.gradients import lanes as parallel
from lstm_jax.verification.cases import Case, make_problem
from lstm_jax.run.checkpoint import Checkpoints
from lstm_jax.run.description import Description
from lstm_jax.config import Config, ModelConfig
from lstm_jax.data.batches import Batch, stack_batches
from lstm_jax.gradients import GRADIENTS
from lstm_jax.heads import softmax
from lstm_jax.model import Interface, Masks
from lstm_jax.gradients.accumulation import in_parts
from lstm_jax.gradients.lanes import lane_mesh, over_lanes
from lstm_jax.hyperparameters import Hyperparameters, Program
from lstm_jax.run.many import devices_of, many_steps, stack, take
from lstm_jax.train import init_train_state, make_dispatch
from lstm_jax.verification.compare import UNOPTIMIZED

def largest(tree, other):
    errors = jax.tree.map(lambda a, b: float(np.abs(np.subtract(a, b)).max()), tree, other)
    return max(jax.tree.leaves(errors))

parallel.UNITS_PER_LANE = 8
found = {"sizes": [lane_mesh(B, 8).size for B in (1, 3, 4, 6, 8)]}
found["few lanes"] = lane_mesh(8, 32).size
found["large"] = lane_mesh(4096, parallel.CORES_APART_BELOW).size
found["in words"] = [
    lanes_in_words(Config().replace({"train.batch_size": B, "model.hidden_size": H, **changes}))
    for B, H, changes in ((8, 8, {}), (6, 8, {}), (8, 32, {}), (9, 512, {}),
                          (16, 8, {"train.accumulate": 2}))
]
model = ModelConfig(hidden_size=6, num_layers=2, dropout=0.3, input_dropout=0.3)
def run(gradient, problem):
    return jax.jit(gradient, compiler_options=UNOPTIMIZED)(*problem)
complicated = {"masked": True, "resets": True, "carry": True}
problem = make_problem(Case(model, 7, 8, **complicated))
# With zoneout, whose masks have an axis more, and lanes of unequal length.
zoneout = replace(model, zoneout_cell=0.4, zoneout_hidden=0.3)
zoned = make_problem(Case(zoneout, 7, 8, lengths=True, **complicated))
assert zoned.masks.zoneout[1].h.shape == (7, 8, 6)
for name, of_head in GRADIENTS.items():
    gradient = of_head(softmax)
    whole = run(gradient, zoned)
    in_pieces = of_head(softmax._replace(most_outputs=3 * 2 * 11))  # of three steps, on a device
    divided = run(over_lanes(in_pieces, lane_mesh(8, 6)), zoned)
    found[name] = largest(divided, whole)
same_for_all = jax.tree.map(lambda z: np.full((1, 1, 1), 0.3), zoned.masks.zoneout)
mean = zoned._replace(masks=zoned.masks._replace(zoneout=same_for_all))
whole = run(GRADIENTS["bptt"](softmax), mean)
found["mean"] = largest(run(over_lanes(GRADIENTS["bptt"](softmax), lane_mesh(8, 6)), mean), whole)
params, carry, batch, masks = problem
unequal = batch._replace(mask=batch.mask & (np.arange(8) < 5))  # some devices count nothing
problem = (params, carry, unequal, masks)
divided = run(over_lanes(GRADIENTS["bptt"](softmax), lane_mesh(8, 6)), problem)
found["unequal"] = largest(divided, run(GRADIENTS["bptt"](softmax), problem))
found["in parts"] = largest(
    run(over_lanes(in_parts(GRADIENTS["bptt"](softmax), 2), lane_mesh(8, 6)), zoned),
    run(GRADIENTS["bptt"](softmax), zoned))
found["broken"] = largest(divided, whole)  # another loss, which the comparison has to see

config = Config().replace({"train.batch_size": 8, "train.sequence_length": 7,
                           "model.hidden_size": 6, "model.dropout": 0.3})
plain = Batch(batch.inputs, batch.targets, resets=batch.resets)
checkpoints = Checkpoints(Path(sys.argv[1]))
description = Description(config, {}, Interface.of(11), "float64")
state = init_train_state(config, 11)
state = state._replace(carry=jax.tree.map(lambda s: s + 1, state.carry))
assert len(state.carry[0].h.sharding.device_set) == 4
checkpoints.save(state, description, {})
checkpoints.close()
def trained():
    dispatch, batches = make_dispatch(config), stack_batches([plain] * 3)
    state = init_train_state(config, 11)
    for _ in range(2):
        state, infos = dispatch(Hyperparameters.of(config), state, batches)
    return jax.tree.map(np.asarray, (state.params, state.carry, infos)), dispatch._cache_size()
four, found["compiled"] = trained()
configs = [config.replace({"train.seed": seed, "optimizer.learning_rate": 0.01 * (seed + 1)})
           for seed in range(4)]
stacked = stack([Hyperparameters.of(c) for c in configs])
states = stack([init_train_state(c, 11) for c in configs])
steps = many_steps(Program.of(config), softmax, devices_of(4))
apart, _ = steps(stacked, states, stack([stack_batches([plain] * 3)] * 4))
assert len(apart.params.readout.W.sharding.device_set) == 4
parallel.CORES_APART_BELOW = 0
one, _ = trained()
found["trained"] = largest(four, one)
dispatch = make_dispatch(config)
alone = [dispatch(Hyperparameters.of(c), init_train_state(c, 11), stack_batches([plain] * 3))[0]
         for c in configs]
found["runs"] = largest(apart.params, stack([state.params for state in alone]))
found["of others"] = largest(take(apart.params, 0), take(apart.params, 1))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Where the process with four devices saves a checkpoint."""
    return tmp_path_factory.mktemp("four")


@pytest.fixture(scope="module")
def found(workdir):
    command = [sys.executable, "-c", ON_FOUR_DEVICES, str(workdir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_lanes_are_divided_evenly(found):
    assert found["sizes"] == [1, 3, 4, 3, 4]
    assert found["few lanes"] == 2  # 8 lanes at 4 each
    assert found["large"] == 1


def test_a_run_says_how_its_lanes_are_divided_and_why_not_among_more(found):
    assert found["in words"] == [
        "8 on 4 devices, 2 each",
        "6 on 3 of 4 devices, 2 each (6 lanes are not divided evenly)",
        "8 on 2 of 4 devices, 4 each (with 32 units one takes 4 lanes or more)",
        "9 on 1 of 4 devices (from 512 units on, XLA shares the products out)",
        "16 in 2 parts on 4 devices, 2 each",
    ]


@pytest.mark.parametrize("name", ["autodiff", "bptt", "truncated", "mean", "in parts"])
def test_the_gradient_is_that_of_one_device(name, found):
    """Also where each device reads out in pieces, and the one device does not."""
    assert found[name] < 1e-14


def test_devices_weigh_as_many_targets_as_they_count(found):
    assert found["unequal"] < 1e-14
    assert found["broken"] > 1e-3


def test_the_weight_of_a_part_is_finite_in_float16():
    means = {"loss": jnp.float32(2.0), "gradient": jnp.ones(3, jnp.float16)}
    found = weigh(means, jnp.asarray(70_000), jnp.asarray(140_000))
    assert found["loss"] == 1 and found["loss"].dtype == jnp.float32
    np.testing.assert_array_equal(found["gradient"], np.full(3, 0.5, np.float16))
    assert found["gradient"].dtype == jnp.float16


def test_training_is_that_of_one_device_and_compiles_once(found):
    assert found["trained"] < 1e-12
    assert found["compiled"] == 1


def test_a_run_on_each_device_is_that_of_a_run_alone(found):
    assert found["runs"] < 1e-12
    assert found["of others"] > 1e-3


def test_what_four_devices_saved_one_restores(found, workdir, x64):
    checkpoints = Checkpoints(workdir)
    state, description = checkpoints.restore(0)
    checkpoints.close()
    wanted = init_train_state(description.config, 11)
    wanted = wanted._replace(carry=jax.tree.map(lambda s: s + 1, wanted.carry))
    jax.tree.map(np.testing.assert_array_equal, state, wanted)
    for leaf in jax.tree.leaves(state):
        assert leaf.devices() == {jax.local_devices()[0]}
