"""The sequence loss: mean nats per predicted character."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.model import Carry, LMParams, Masks, apply
from lstm_jax.precision import at_least_float32


class Aux(NamedTuple):
    """What comes out of a sequence besides its loss."""

    carry: Carry  # the state after the last step
    count: Array  # how many characters the mean was taken over


def bits(nats: float) -> float:
    """Bits per character from nats per character."""
    return nats / math.log(2)


def count_targets(batch: Batch) -> Array:
    """How many targets of a batch count."""
    return jnp.asarray(batch.targets.size) if batch.mask is None else jnp.sum(batch.mask)


def target_losses(logits_TxBxV: Array, targets_TxB: Array) -> Array:
    """Softmax cross-entropy of every target, TxB, in nats and in float32 at least."""
    logits_TxBxV = logits_TxBxV.astype(at_least_float32(logits_TxBxV.dtype))
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits_TxBxV, targets_TxB)


def sequence_loss(
    params: LMParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
    *,
    count: Array | None = None,
    truncated: bool = False,
) -> tuple[Array, Aux]:
    """Softmax cross-entropy of a batch of sequences: the mean over its counted targets, in nats
    and in float32 at least.

    The carry is an argument that nobody differentiates: this is where backpropagation through
    time is cut. `truncated` changes the derivative only (see `layer.unroll`). A batch in which no
    target counts has loss 0. Of a batch that is a part of a longer one, `count` is how many targets
    count in the whole: the parts' losses then add up to the whole's mean.
    """
    logits_TxBxV, carry = apply(
        params, carry, batch.inputs, masks, batch.resets, truncated=truncated
    )
    nll_TxB = target_losses(logits_TxBxV, batch.targets)
    if batch.mask is None and count is None:
        return jnp.mean(nll_TxB), Aux(carry, jnp.asarray(nll_TxB.size))
    counted_TxB = nll_TxB if batch.mask is None else jnp.where(batch.mask, nll_TxB, 0)
    count, total = count_targets(batch) if count is None else count, jnp.sum(counted_TxB)
    return total / jnp.maximum(count, 1).astype(total.dtype), Aux(carry, count)
