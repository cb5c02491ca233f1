"""Monte Carlo dropout: the mean prediction of networks drawn as training draws them.

`evaluate` scores one network with nothing left out, which stands for all those that training drew
by leaving units and weights out. Here some of them are drawn, each reads the whole split, and their
probabilities are averaged. It is Gal and Ghahramani 2016, "A theoretically grounded application of
dropout in recurrent neural networks". There is one set of parameters, and nothing to tune: the
rates are those of training. It costs a reading of the split for every draw.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jax import Array

from lstm_jax.data.batches import Batch, Ids
from lstm_jax.errors import UserError
from lstm_jax.gradients.weight_drop import drop_weights, sample_weight_masks
from lstm_jax.masks import sample_masks
from lstm_jax.model import Masks, ModelParams
from lstm_jax.model_config import ModelConfig
from lstm_jax.scoring.ensemble import mix
from lstm_jax.scoring.protocols import (
    EvaluateConfig,
    Evaluation,
    score,
    stream_segments,
    window_segments,
)


def sample_network(
    key: Array, params: ModelParams, config: ModelConfig, batch_size: int, sequence_length: int
) -> tuple[ModelParams, Masks | None]:
    """One of the networks: its weights, the same for all lanes, and the masks of each lane."""
    key_units, key_weights = jax.random.split(key)
    masks = sample_masks(key_units, params, config, batch_size, sequence_length)
    weights = sample_weight_masks(key_weights, params, config.weight_drop)
    return (params if weights is None else drop_weights(params, weights)), masks


def check_drops(config: ModelConfig) -> None:
    """Raises UserError where training leaves nothing out."""
    names = ("dropout", "input_dropout", "embedding_dropout", "weight_drop")
    if not any(getattr(config, name) for name in (*names, "zoneout_cell", "zoneout_hidden")):
        raise UserError(
            "this model was trained with nothing dropped, so that every draw is the same: leave "
            "--draws out"
        )


def evaluate_monte_carlo(
    params: ModelParams,
    ids: Ids,
    model: ModelConfig,
    config: EvaluateConfig,
    draws: int,
    report: Callable[[float], None] = lambda _: None,
) -> Evaluation:
    """The loss on a split of the mean of `draws` networks' predictions, by both protocols.

    The draws are the same in every call. Each lane keeps its masks throughout the split.

    Args:
      model: what training drops.
      report: is told after every draw which share of the work is done.
    """

    def each(segments: Callable[..., Iterable[Batch]], done: int) -> Iterator[np.ndarray]:
        shape = next(iter(segments(ids, config))).inputs.shape
        for k in range(draws):
            drawn, masks = sample_network(jax.random.key(k), params, model, shape[1], shape[0])
            yield np.concatenate([*score(drawn, segments(ids, config), masks)])
            report((done + k + 1) / (2 * draws))

    return Evaluation(
        stream=float(mix(each(stream_segments, 0)).mean()),
        windows=float(mix(each(window_segments, draws)).mean()),
    )
