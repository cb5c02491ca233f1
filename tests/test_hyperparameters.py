"""What is data to the compiled program: the same program for all values, the numbers of each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstm_jax.config import Config, OptimizerConfig
from lstm_jax.data.batches import Streams
from lstm_jax.hyperparameters import AS_DATA, Hyperparameters, structure_of
from lstm_jax.optimizer import Numbers, make_schedule
from lstm_jax.train import init_train_state, make_dispatch, make_train_step

pytestmark = pytest.mark.usefixtures("standard_promotion")

V = 5
SMALL = {
    "model.hidden_size": 4,
    "model.embedding_size": 4,
    "model.num_layers": 2,
    "optimizer.name": "rmsprop",
    "train.batch_size": 2,
    "train.sequence_length": 3,
}
# Two values of everything that is data, but for adamw's weight decay, which rmsprop does not read.
VALUES = {name: (0.1, 0.2) for name in AS_DATA} | {
    "train.seed": (0, 7),
    "train.steps": (10, 20),
    "optimizer.warmup_steps": (0, 5),
}
del VALUES["optimizer.weight_decay"]


def config_of(which, **changes):
    return Config().replace(SMALL | {name: pair[which] for name, pair in VALUES.items()} | changes)


def test_one_program_serves_all_values(rng):
    """Down to its text: a number that got into it as a constant would stand there."""
    batch = Streams(rng.integers(V, size=50).astype(np.uint8), 2, 3).batch_at(0)

    def text(config):
        state = jax.eval_shape(lambda: init_train_state(config, V))
        step = jax.jit(make_train_step(config))
        return step.lower(Hyperparameters.of(config), state, batch).as_text()

    one, other = config_of(0), config_of(1)
    assert text(one) == text(other)
    assert make_dispatch(one) is make_dispatch(other)
    decays = [Config().replace({"optimizer.weight_decay": decay}) for decay in (0.0, 0.1)]
    assert structure_of(decays[0]) == structure_of(decays[1])


@pytest.mark.parametrize(
    "change",
    [
        *({f"model.{kind}": 0.0} for kind in ("dropout", "weight_drop", "zoneout_cell")),
        {"optimizer.clip_norm": 0.0},
        {"optimizer.momentum": None},
        {"train.reset_rate": 0.0},
        {"train.gradient": "autodiff", "model.hidden_size": 5},
    ],
)
def test_what_changes_the_program_does_not_share_it(change):
    assert structure_of(config_of(0)) != structure_of(config_of(0, **change))


@pytest.mark.parametrize(
    "peak, warmup, steps, floor",
    [(0.007, 100, 900, 0.0), (0.0123, 7, 777, 0.3), (0.002, 0, 200, 0.0), (0.03, 33, 600, 0.05)],
)
@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_the_schedules_are_optaxs_to_the_last_bit(peak, warmup, steps, floor, kind):
    """Where optax's numbers are constants of the program; so are the losses of any run."""
    after = optax.constant_schedule(peak)
    if kind == "cosine":
        after = optax.cosine_decay_schedule(peak, steps - warmup, floor)
    ramp = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    oracle = optax.join_schedules([ramp, after], [warmup])
    config = OptimizerConfig(
        learning_rate=peak,
        warmup_steps=warmup,
        schedule=kind,
        final_ratio=floor if kind == "cosine" else 0.0,
    )
    counts = jnp.arange(steps + 5)
    wanted = jax.jit(lambda counts: jax.lax.map(oracle, counts))(counts)
    rates = jax.jit(lambda n, counts: jax.lax.map(make_schedule(config, n), counts))
    np.testing.assert_array_equal(rates(Numbers.of(config, steps), counts), wanted)
