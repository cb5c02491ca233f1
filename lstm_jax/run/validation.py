"""Validation: what the task measures of a run's parameters, and of their average."""

from collections.abc import Sequence
from typing import Any

from lstm_jax.averaging import Average, begin, is_waiting, should_begin
from lstm_jax.config import TrainConfig
from lstm_jax.errors import UserError, shorten
from lstm_jax.model import Masks, ModelParams
from lstm_jax.run.metrics import AVERAGE, measured
from lstm_jax.tasks import Task
from lstm_jax.train import TrainState


def validate(task: Task, state: TrainState, masks: Masks | None) -> dict[str, float]:
    """What a task measures, by its names in `metrics.jsonl`: `val_` before them, and `_average`
    behind those of the average."""
    scores = measure(task, state.params, masks)
    if (average := state.average) is None:
        return scores
    averaged = scores if is_waiting(average) else measure(task, average.params, masks)
    return scores | {name + AVERAGE: value for name, value in averaged.items()}


def measure(task: Task, params: ModelParams, masks: Masks | None) -> dict[str, float]:
    """What a task measures of parameters; UserError for a name that no file could be read with."""
    scores = {f"val_{name}": float(n) for name, n in task.evaluate(params, masks).items()}
    if wrong := scores.keys() - measured(scores).keys() or [
        n for n in scores if n.endswith(AVERAGE)
    ]:
        raise UserError(
            f"{shorten(min(wrong).removeprefix('val_'))} is no name of what a task measures: take "
            f"letters, digits and _, at most 60 in all, and not {AVERAGE} at the end"
        )
    return scores


def begin_where_stalled(
    average: Average, lines: Sequence[dict[str, Any]], config: TrainConfig
) -> Average:
    """A triggered average, begun where what is minimised has stalled up to the last line."""
    scores = [measured(line) for line in lines]
    if not scores[-1]:
        return average
    first = next(iter(scores[-1]))  # of the parameters: their average follows them so far
    losses = [measures[first] for measures in scores if first in measures]
    return begin(average) if should_begin(average, losses, config) else average
