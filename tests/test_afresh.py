"""Lanes begun afresh: which are reset, how often, and what a training step makes of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.data.batches import Batch
from lstm_jax.hyperparameters import Hyperparameters
from lstm_jax.train import init_train_state, make_train_step, sample_resets
from tests.run.test_loop import Stop, stop_after
from tests.small import CONFIG, assert_same_run, run_in

V, T, B = 5, 4, 16
KEY = jax.random.key(0)


@pytest.fixture
def batch(rng):
    """Two lanes are reset as it is, one of them before the first step."""
    ids = rng.integers(V, size=(T + 1, B)).astype(np.uint8)
    resets = np.zeros((T, B), bool)
    resets[0, 3] = resets[2, 5] = True
    return Batch(*map(jnp.asarray, (ids[:-1], ids[1:])), resets=jnp.asarray(resets))


def test_rate_0_is_the_very_same_batch(batch):
    assert sample_resets(KEY, batch, None) is batch


def test_rate_1_resets_every_lane_before_its_first_step_and_nothing_else(batch):
    found = sample_resets(KEY, batch, 1.0)
    wanted = np.array(batch.resets)
    wanted[0] = True
    np.testing.assert_array_equal(found.resets, wanted)
    assert found._replace(resets=None) == batch._replace(resets=None)
    bare = sample_resets(KEY, batch._replace(resets=None), 1.0)
    np.testing.assert_array_equal(bare.resets, [[True] * B] + [[False] * B] * (T - 1))


def test_the_rate_is_the_share_of_lanes_and_keeps_the_resets_that_were_there(batch):
    rate, keys = 0.3, jax.random.split(KEY, 400)
    found = np.array(jax.vmap(lambda key: sample_resets(key, batch, rate).resets)(keys))
    assert found[:, 0, 3].all() and found[:, 2, 5].all()
    assert found[:, 1:].sum() == len(keys)  # of the one that was there
    drawn = np.delete(found[:, 0], 3, axis=1)
    deviation = np.sqrt(rate * (1 - rate) / drawn.size)
    assert abs(drawn.mean() - rate) < 5 * deviation < 0.05
    # Anew each time, and lane by lane.
    assert abs(drawn.mean(axis=0) - rate).max() < 0.12
    assert drawn.sum(axis=1).std() > 1
    together = (drawn[:, 0] & drawn[:, 1]).mean()
    assert together == pytest.approx(rate**2, abs=0.08)


SMALL = CONFIG.replace(
    {
        "model.num_layers": 1,
        "model.dropout": 0.0,
        "train.batch_size": B,
        "train.steps": 12,
    }
)


@pytest.fixture
def carried(rng):
    """A state in the middle of a text."""
    with jax.numpy_dtype_promotion("standard"):
        state = init_train_state(SMALL, V)
    carry = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(-1, 1, leaf.shape), leaf.dtype), state.carry
    )
    return state._replace(carry=carry)


def step_of(rate):
    config = SMALL.replace({"train.reset_rate": rate})
    return partial(jax.jit(make_train_step(config)), Hyperparameters.of(config))


def test_a_step_at_rate_1_is_the_step_from_the_zero_state(batch, carried, standard_promotion):
    zero = carried._replace(carry=jax.tree.map(jnp.zeros_like, carried.carry))
    state, info = step_of(1.0)(carried, batch)
    plain = step_of(0.0)
    wanted_state, wanted = plain(zero, batch)
    assert float(info.loss) == pytest.approx(float(wanted.loss), rel=1e-6)
    assert float(info.grad_norm) == pytest.approx(float(wanted.grad_norm), rel=1e-5)
    for found, of_zero in zip(
        *map(jax.tree.leaves, (state.carry, wanted_state.carry)), strict=True
    ):
        np.testing.assert_allclose(found, of_zero, atol=1e-6)
    assert abs(float(plain(carried, batch)[1].loss) - float(wanted.loss)) > 1e-4


def test_other_lanes_at_every_step(batch, carried, standard_promotion):
    """Nothing but the step's number differs; and the lanes that it draws are bound to it."""
    step = step_of(0.5)
    losses = [
        float(step(carried._replace(step=jnp.asarray(n, jnp.int32)), batch)[1].loss)
        for n in (0, 1, 2, 3, 0, 1, 2, 3)
    ]
    assert losses[:4] == losses[4:] and len(set(losses)) == 4


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, standard_promotion):
    config = SMALL.replace({"train.batch_size": 3, "train.reset_rate": 0.5})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with run_in(whole, config) as run:
        run.train()
    with run_in(killed, config) as run, pytest.raises(Stop):
        stop_after(run, 3)
        run.train()
    with run_in(killed, config) as again:
        assert again.step == 6
        again.train()
    assert_same_run(killed, whole)
