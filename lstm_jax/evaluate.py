"""Scoring a split, in nats per character, by two protocols.

`stream`: the state is carried across the split, every character but the first is predicted once.
To use a machine well the split is read in `evaluate.lanes` pieces side by side, and each piece but
the first reads `evaluate.warmup` unscored characters beforehand; lanes=1 is the strict protocol.

`windows`: the split is cut into windows of `evaluate.window_length` predicted characters, and each
starts from the zero state. That is the condition a model with a fixed context is scored in
(nanoGPT), here over the whole split instead of a sample of it.
"""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from lstm_jax.config import EvaluateConfig
from lstm_jax.data.batches import Batch, cut_segments
from lstm_jax.loss import sequence_loss
from lstm_jax.model import Carry, LMParams, init_carry
from lstm_jax.parallel import Placement, lane_mesh


class Evaluation(NamedTuple):
    """Mean nats per character by each protocol."""

    stream: float
    windows: float


@partial(jax.jit, donate_argnums=1)
def _score(params: LMParams, carry: Carry, batch: Batch) -> tuple[Array, Array, Carry]:
    loss, aux = sequence_loss(params, carry, batch)
    return loss, aux.count, aux.carry


def mean_loss(params: LMParams, segments: Iterable[Batch]) -> float:
    """Mean nats per counted character over segments run in order, the carry handed on."""
    carry, scores = None, []
    for batch in segments:
        if carry is None:  # all segments are of one shape
            B, H = batch.inputs.shape[1], params.readout.W.shape[0]
            placement = Placement.of(lane_mesh(B, H))
            params = jax.device_put(params, placement.replicated)
            carry = jax.device_put(init_carry(params, B), placement.carry)
        loss, count, carry = _score(params, carry, jax.device_put(batch, placement.batch))
        scores.append((loss, count))
    losses, counts = np.array(jax.device_get(scores), np.float64).T
    return float(losses @ counts / counts.sum())


def segment_length(params: LMParams) -> int:
    """Steps of a segment of up to 128 lanes whose logits stay within 128 MB."""
    return max(1, min(256, 2**18 // params.readout.W.shape[1]))


def stream_segments(
    ids: np.ndarray, config: EvaluateConfig, max_time: int = 256
) -> Iterable[Batch]:
    """The segments of the `stream` protocol."""
    length = -(-(len(ids) - 1) // config.lanes)
    return cut_segments(ids, length, warmup=config.warmup, max_time=max_time)


def window_segments(
    ids: np.ndarray, config: EvaluateConfig, max_time: int = 256
) -> Iterable[Batch]:
    """The segments of the `windows` protocol."""
    return cut_segments(ids, config.window_length, max_time=max_time)


def evaluate(params: LMParams, ids: np.ndarray, config: EvaluateConfig) -> Evaluation:
    """The loss of a model on a split, by both protocols."""
    T = segment_length(params)
    return Evaluation(
        stream=mean_loss(params, stream_segments(ids, config, T)),
        windows=mean_loss(params, window_segments(ids, config, T)),
    )
