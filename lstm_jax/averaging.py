"""Averages of the parameters over training, kept and scored beside the parameters themselves.

`ema` is the mean of all updates so far until that many are 1 / (1 - decay). From then on it moves
by 1 - decay per update: an exponential moving average without the bias of a start at zero.

`triggered` follows the parameters until the validation loss has stalled, and is the plain mean of
all updates from then on (NT-ASGD: Merity, Keskar and Socher 2018, algorithm 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lstm_jax.model import ModelParams
from lstm_jax.options import Section, option

WAITING = -1  # the count of an average that has not begun


@dataclass(frozen=True)
class AverageOptions(Section):
    """Which average is kept; a part of the training's options."""

    prefix = "train."

    average: str = option(
        "none",
        "an average of the parameters, scored beside them: exponential moving, or triggered by a "
        "validation loss that has stalled",
        choices=("none", "ema", "triggered"),
    )
    average_decay: float = option(
        0.999, "ema: what an update leaves of the average", low=0, high=0.999999
    )
    average_patience: int = option(
        5,
        "triggered: how many of the losses before the last are not looked at for a better one",
        low=0,
        high=2**31 - 1,
    )

    def unread(self) -> dict[str, str]:
        readers = {"average_decay": "ema", "average_patience": "triggered"}
        return {
            name: f"needs train.average={kind}: give both, or neither"
            for name, kind in readers.items()
            if self.average != kind
        }


class Average(NamedTuple):
    """An average of parameters."""

    params: ModelParams
    # Of updates that it is over; WAITING: it follows the latest.
    count: Array  # type: ignore[assignment]  # a tuple has a method of that name


def init_average(params: ModelParams, config: AverageOptions) -> Average | None:
    """The average before the first update; None where the config wants none."""
    if config.average == "none":
        return None
    # A copy: parameters and average are donated, and a buffer can be donated only once.
    copy = jax.tree.map(jnp.copy, params)
    return Average(copy, jnp.asarray(0 if config.average == "ema" else WAITING))


def update_average(average: Average, params: ModelParams, config: AverageOptions) -> Average:
    """The average once an update has led to `params`."""
    decay = config.average_decay if config.average == "ema" else 1.0
    waiting = average.count < 0
    count = jnp.where(waiting, average.count, average.count + 1)
    weight = jnp.where(waiting, 1.0, jnp.maximum(1 - decay, 1 / count))
    return Average(optax.incremental_update(params, average.params, weight), count)


def is_waiting(average: Average) -> bool:
    """Whether a triggered average has not begun, and is the latest parameters."""
    return int(average.count) < 0


def should_begin(average: Average, losses: Sequence[float], config: AverageOptions) -> bool:
    """Whether a waiting average begins now: the last validation loss is above the best of those
    before the latest `average_patience`."""
    earlier = losses[: max(len(losses) - 1 - config.average_patience, 0)]
    return is_waiting(average) and bool(earlier) and losses[-1] > min(earlier)


def begin(average: Average) -> Average:
    """The average at the moment it begins: the next update is its first."""
    return average._replace(count=jnp.zeros_like(average.count))
