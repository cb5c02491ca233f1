"""Schedules by their formulas; optimizers by their update rules in NumPy."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstm_jax.config import OptimizerConfig
from lstm_jax.optimizer import Numbers, make_optimizer, make_schedule, skip_nonfinite

pytestmark = pytest.mark.usefixtures("standard_promotion")

STEPS = 10


def rates(**config):
    config = OptimizerConfig(learning_rate=2.0, **config)
    schedule = make_schedule(config, Numbers.of(config, STEPS))
    return [float(schedule(jnp.asarray(step))) for step in range(STEPS)]


def test_schedules():
    assert rates(schedule="constant") == [2.0] * STEPS
    np.testing.assert_allclose(
        rates(schedule="constant", warmup_steps=4), [0.5, 1, 1.5, 2] + [2] * 6, rtol=1e-6
    )
    cosine = [1 + math.cos(math.pi * t / STEPS) for t in range(STEPS)]
    np.testing.assert_allclose(rates(schedule="cosine"), cosine, rtol=1e-5)
    floor = [0.2 + 1.8 * (1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)]
    np.testing.assert_allclose(
        rates(schedule="cosine", warmup_steps=2, final_ratio=0.1), [1.0, 2.0, *floor], rtol=1e-5
    )


@pytest.mark.parametrize("warmup", [STEPS, STEPS + 5])
def test_a_run_may_end_while_it_warms_up(warmup):
    ramp = [2 * (step + 1) / warmup for step in range(STEPS)]
    np.testing.assert_allclose(rates(schedule="cosine", warmup_steps=warmup), ramp, rtol=1e-6)


def updates(config, gradients):
    """Parameter after each step, from 1.0."""
    optimizer = make_optimizer(config, Numbers.of(config, STEPS))
    param = jnp.ones(1)
    state, found = optimizer.init(param), []
    for gradient in gradients:
        update, state = optimizer.update(jnp.full(1, gradient), state, param)
        param = param + update
        found.append(float(param[0]))
    return found


GRADIENTS = [0.3, -0.2, 0.5]


def adam(decay=0.0):
    param, m, v, found = 1.0, 0.0, 0.0, []
    for t, g in enumerate(GRADIENTS, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        step = m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.99**t)) + 1e-8)
        param -= 0.1 * (step + decay * param)
        found.append(param)
    return found


def sgd(momentum):
    param, velocity, found = 1.0, 0.0, []
    for g in GRADIENTS:
        velocity = momentum * velocity + g
        param -= 0.1 * velocity
        found.append(param)
    return found


def rmsprop(decay):
    param, square, found = 1.0, 0.0, []
    for g in GRADIENTS:
        square = decay * square + (1 - decay) * g * g
        param -= 0.1 * g / math.sqrt(square + 1e-8)
        found.append(param)
    return found


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({"name": "adam", "b2": 0.99}, adam()),
        ({"name": "adamw", "b2": 0.99, "weight_decay": 0.3}, adam(0.3)),
        ({"name": "sgd"}, sgd(0.0)),
        ({"name": "sgd", "momentum": 0.9}, sgd(0.9)),
        ({"name": "rmsprop", "decay": 0.8}, rmsprop(0.8)),
    ],
)
def test_update_rules(options, wanted):
    config = OptimizerConfig(learning_rate=0.1, schedule="constant", clip_norm=0, **options)
    np.testing.assert_allclose(updates(config, GRADIENTS), wanted, rtol=1e-5)


def test_the_global_norm_is_clipped():
    config = OptimizerConfig(name="sgd", learning_rate=1, schedule="constant", clip_norm=0.25)
    np.testing.assert_allclose(updates(config, [0.2, 5.0]), [0.8, 0.55], rtol=1e-6)


def test_an_update_that_is_not_finite_is_skipped_though_loss_and_gradient_are():
    """The rule itself overflows; and its state stays as it was."""
    optimizer = skip_nonfinite(optax.chain(optax.trace(0.5), optax.scale(1e30)))
    params, loss = jnp.ones(2), jnp.float32(1)
    state = optimizer.init(params)
    for gradient, update, skipped in ([1e-12, 0], [1e18, 0], 0), ([1e10, 0], [0, 0], 1):
        updates, state = optimizer.update(jnp.array(gradient), state, params, loss=loss)
        np.testing.assert_allclose(updates, update, rtol=1e-6)
        assert (int(state.skipped), int(state.in_a_row)) == (skipped, skipped)
        np.testing.assert_array_equal(state.inner[0].trace, np.float32([1e-12, 0]))
