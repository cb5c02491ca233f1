"""Several models as one: the mean of their probabilities."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lstm_jax.data.batches import Batch, Ids
from lstm_jax.model import Masks, ModelParams
from lstm_jax.scoring.protocols import (
    EvaluateConfig,
    Evaluation,
    score,
    stream_segments,
    window_segments,
)


def evaluate_ensemble(
    models: Sequence[tuple[ModelParams, Masks | None]], ids: Ids, config: EvaluateConfig
) -> Evaluation:
    """The loss of several models of one alphabet whose distributions are averaged, by both
    protocols."""

    def mean(segments: Callable[..., Iterable[Batch]]) -> float:
        each = (
            np.concatenate([*score(params, segments(ids, config), masks)])
            for params, masks in models
        )
        return float(mix(each).mean())

    return Evaluation(stream=mean(stream_segments), windows=mean(window_segments))


def mix(each: Iterable[np.ndarray]) -> np.ndarray:
    """The loss of each character where the models' probabilities of it are averaged.

    Args:
      each: every model's losses of the N characters, taken one after another.
    """
    log_total_N, models = np.array(-np.inf), 0
    for losses_N in each:
        log_total_N = np.logaddexp(log_total_N, -losses_N.astype(np.float64))
        models += 1
    return math.log(models) - log_total_N
