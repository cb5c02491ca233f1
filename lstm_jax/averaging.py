"""Averages of the parameters over training, kept and scored beside the parameters themselves.

`ema` is the mean of all updates so far until that many are 1 / (1 - decay), and from then on moves
by 1 - decay an update: an exponential moving average without the bias of a start at zero.

`triggered` follows the parameters until the validation loss has stalled, and is the plain mean of
all updates from then on (NT-ASGD: Merity, Keskar and Socher 2018, algorithm 1).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lstm_jax.config import TrainConfig
from lstm_jax.model import ModelParams

DECAY, PATIENCE = 0.999, 5  # where the config names none
WAITING = -1  # the count of an average that has not begun


class Average(NamedTuple):
    """An average of parameters."""

    params: ModelParams
    count: Array  # of updates that it is over; WAITING: it follows the latest


def init_average(params: ModelParams, config: TrainConfig) -> Average | None:
    """The average before the first update; None where the config wants none."""
    if config.average == "none":
        return None
    # A copy: parameters and average are donated, and a buffer can be donated only once.
    copy = jax.tree.map(jnp.copy, params)
    return Average(copy, jnp.asarray(0 if config.average == "ema" else WAITING))


def update_average(average: Average, params: ModelParams, config: TrainConfig) -> Average:
    """The average once an update has led to `params`."""
    decay = 1.0
    if config.average == "ema":
        decay = DECAY if config.average_decay is None else config.average_decay
    waiting = average.count < 0
    count = jnp.where(waiting, average.count, average.count + 1)
    weight = jnp.where(waiting, 1.0, jnp.maximum(1 - decay, 1 / count))
    return Average(optax.incremental_update(params, average.params, weight), count)


def is_waiting(average: Average) -> bool:
    """Whether a triggered average has not begun, and is the latest parameters."""
    return int(average.count) < 0


def should_begin(average: Average, losses: Sequence[float], config: TrainConfig) -> bool:
    """Whether a waiting average begins now: the last validation loss is above the best of those
    before the latest `average_patience`."""
    patience = PATIENCE if config.average_patience is None else config.average_patience
    earlier = losses[: max(len(losses) - 1 - patience, 0)]
    return is_waiting(average) and bool(earlier) and losses[-1] > min(earlier)


def begin(average: Average) -> Average:
    """The average at the moment it begins: the next update is its first."""
    return average._replace(count=jnp.zeros_like(average.count))
