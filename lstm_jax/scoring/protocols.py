"""Scoring a split, in nats per character, by two protocols.

`stream`: the state is carried across the split, every character but the first is predicted once.
To use a machine well the split is read in `evaluate.lanes` pieces side by side. Each piece but the
first reads `evaluate.warmup` unscored characters beforehand; lanes=1 is the strict protocol.

`windows`: the split is cut into windows of `evaluate.window_length` predicted characters, and each
starts from the zero state. That is the condition a model with a fixed context is scored in
(nanoGPT), here over the whole split instead of a sample of it.

Where the split falls into documents (`batches.Documents`), the state also starts afresh at each, by
both protocols: they count the same targets as without.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data.batches import MAX_LANES, MAX_TIME, Batch, Ids, cut_segments
from lstm_jax.errors import UserError
from lstm_jax.gradients.lanes import Placement, lane_mesh
from lstm_jax.heads import softmax
from lstm_jax.loss import target_losses
from lstm_jax.meshes import put, whole
from lstm_jax.model import Carry, Masks, ModelParams, hidden_sizes, init_carry, run_stack
from lstm_jax.options import Section, option


@dataclass(frozen=True)
class EvaluateConfig(Section):
    """How a split is scored."""

    prefix = "evaluate."
    window_length: int = option(
        256,
        "`windows`: characters predicted from each zero state",
        low=1,
        high=2**24,
        decides="validation",
    )
    lanes: int = option(
        64,
        "`stream`: pieces of the split read side by side; 1: strictly one after another",
        low=1,
        high=2**20,
        decides="validation",
    )
    warmup: int = option(
        1024,
        "`stream`: unscored characters that each piece but the first reads beforehand",
        low=0,
        high=2**24,
        decides="validation",
    )


class Evaluation(NamedTuple):
    """Mean nats per character by each protocol."""

    stream: float
    windows: float


def in_words(
    config: EvaluateConfig, plural: str = "characters", documents: bool = False
) -> dict[str, str]:
    """What each protocol does, for people; `documents`: the text is divided into such."""
    pieces = f"as {config.lanes} pieces, each warmed up on the {config.warmup:,} {plural} before"
    afresh = "; each document starts from zero" if documents else ""
    return {
        "stream": "the state is carried through the text, read "
        + (pieces if config.lanes > 1 else "strictly in order")
        + afresh,
        "windows": f"the state starts from zero every {config.window_length:,} {plural}{afresh}",
    }


@jax.jit
def _score(
    params: ModelParams, carry: Carry, batch: Batch, masks: Masks | None
) -> tuple[Array, Carry]:
    """The loss of every target, TxB, and the carry."""
    h_TxBxH, carry = run_stack(params, carry, batch.inputs, masks, batch.resets, batch.live)
    return target_losses(params, h_TxBxH, jnp.asarray(batch.targets), softmax), carry


def score(
    params: ModelParams, segments: Iterable[Batch], masks: Masks | None = None
) -> Iterator[np.ndarray]:
    """Yields the losses of each segment's counted characters, nats; the carry is handed on.

    Args:
      masks: what stands for the drawn ones where nothing is random (`masks.evaluation_masks`).
    """
    carry, scored = None, None
    for batch in segments:
        if carry is None:  # all segments are of one shape
            B, H = batch.inputs.shape[1], max(hidden_sizes(params))
            placement = Placement.of(lane_mesh(B, H))
            params, masks = put((params, masks), placement.replicated)
            carry = put(init_carry(whole(params), B), placement.carry)
        losses_TxB, carry = _score(params, carry, put(batch, placement.batch), masks)
        if scored is not None:  # one segment late: the device goes on meanwhile
            yield counted(*scored)
        scored = losses_TxB, batch
    if scored is not None:
        yield counted(*scored)


def counted(losses_TxB: Array, batch: Batch) -> np.ndarray:
    """The losses of the targets that count."""
    losses = np.asarray(whole(losses_TxB))
    return losses.ravel() if batch.mask is None else losses[np.asarray(batch.mask)]


def mean_loss(params: ModelParams, segments: Iterable[Batch], masks: Masks | None = None) -> float:
    """Mean nats per counted character over segments run in order."""
    parts = [(part.sum(dtype=np.float64), len(part)) for part in score(params, segments, masks)]
    total, count = np.sum(parts, axis=0)
    return float(total / count)


def stream_segments(ids: Ids, config: EvaluateConfig, max_time: int = MAX_TIME) -> Iterable[Batch]:
    """The segments of the `stream` protocol."""
    length = -(-(len(ids) - 1) // config.lanes)
    return cut_segments(ids, length, warmup=config.warmup, max_time=max_time)


def check_lanes(length: int, config: EvaluateConfig) -> None:
    """Refuses lanes that would cost more steps than the strict protocol, for a split that long.

    Up to MAX_LANES lanes cannot: they are read side by side. More are read in groups, each of which
    takes its warm-up again, so lanes that are short beside it read the split many times.
    """
    targets = length - 1
    piece = math.ceil(targets / config.lanes)
    groups = math.ceil(math.ceil(targets / piece) / MAX_LANES)
    steps = groups * min(config.warmup + piece, targets)
    if groups > 1 and steps > targets:
        raise UserError(
            f"evaluate.lanes={config.lanes} with evaluate.warmup={config.warmup} takes {steps:,} "
            f"steps, and the {targets:,} of evaluate.lanes=1 are exact: take fewer of either"
        )


def window_segments(ids: Ids, config: EvaluateConfig, max_time: int = MAX_TIME) -> Iterable[Batch]:
    """The segments of the `windows` protocol."""
    return cut_segments(ids, config.window_length, max_time=max_time)


def evaluate(
    params: ModelParams, ids: Ids, config: EvaluateConfig, masks: Masks | None = None
) -> Evaluation:
    """The loss of a model on a split, by both protocols; `masks` as `score` takes them."""
    return Evaluation(
        stream=mean_loss(params, stream_segments(ids, config), masks),
        windows=mean_loss(params, window_segments(ids, config), masks),
    )
