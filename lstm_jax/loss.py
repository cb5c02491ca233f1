"""The sequence loss: the mean over the targets that count, by the head of the task."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.data.batches import Batch, as_array
from lstm_jax.heads import Head, softmax
from lstm_jax.model import Carry, Masks, ModelParams, output_size, read_out, run_stack
from lstm_jax.pieces import cut, steps_at_once


class Aux(NamedTuple):
    """What comes out of a sequence besides its loss."""

    carry: Carry  # the state after the last step
    # How many targets the mean was taken over.
    count: Array  # type: ignore[assignment]  # a tuple has a method of that name


def bits(nats: float) -> float:
    """Bits from nats."""
    return nats / math.log(2)


def counted(batch: Batch) -> Array | None:
    """TxB, True where a target counts, which padding never does; None: everywhere.

    Raises TypeError for weights, of which a mean would have to be taken otherwise.
    """
    for name, marks_TxB in (("mask", batch.mask), ("live", batch.live)):
        if marks_TxB is not None and marks_TxB.dtype != bool:
            raise TypeError(
                f"a batch's {name} is True or False for each step, not {marks_TxB.dtype}"
            )
    if batch.mask is None or batch.live is None:
        return as_array(batch.live if batch.mask is None else batch.mask)
    return jnp.asarray(batch.mask & batch.live)


def known_targets(batch: Batch) -> Array:
    """The targets, with 0 in place of numbers that do not count: what is missing may be NaN."""
    mask_TxB, targets = counted(batch), jnp.asarray(batch.targets)
    if mask_TxB is None or not jnp.issubdtype(targets.dtype, jnp.floating):
        return targets
    return jnp.where(mask_TxB[..., None], targets, 0)


def count_targets(batch: Batch) -> Array:
    """How many targets of a batch count."""
    T, B = batch.targets.shape[:2]
    mask_TxB = counted(batch)
    return jnp.asarray(T * B) if mask_TxB is None else jnp.sum(mask_TxB)


def target_losses(params: ModelParams, h_TxBxH: Array, targets: Array, head: Head) -> Array:
    """The head's loss of every target, TxB, where the readout reads h.

    In pieces of time, each made again for its derivative, where the outputs are too many for one.
    """

    def losses(h_TxBxH: Array, targets: Array) -> Array:
        return head.losses(read_out(params, h_TxBxH), targets)

    T, B = h_TxBxH.shape[:2]
    length = steps_at_once(T, B, output_size(params), head.most_outputs)
    if length == T:
        return losses(h_TxBxH, targets)
    remade = jax.checkpoint(losses, prevent_cse=False)
    pieces, last = cut((h_TxBxH, targets), length)
    losses_NxLxB = lax.map(lambda piece: remade(*piece), pieces)
    return jnp.concatenate([losses_NxLxB.reshape(-1, B), remade(*last)])


def sequence_loss(
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
    *,
    head: Head = softmax,
    count: Array | None = None,
    truncated: bool = False,
) -> tuple[Array, Aux]:
    """The head's loss of a batch of sequences: the mean over its counted targets.

    Differentiated by the parameters alone, it is backpropagation through time, truncated where the
    carry comes in (Williams and Peng 1990). A batch in which no target counts has loss 0.

    Args:
      carry: a state per layer, such as `init_carry` makes or the batch before has left.
      batch: inputs and targets, time first; `Batch` says what else.
      masks: what is dropped; None: nothing.
      head: what a loss is (`HEADS`).
      count: of a batch that is a part of a longer one, how many targets count in the whole: the
        parts' losses then add up to the whole's mean. None: those of the batch.
      truncated: changes the derivative only (see `layer.unroll`).

    Returns:
      The loss, a number of float32 at least, in the head's unit (softmax: nats), and `Aux`: the
      carry after the last step, and the count.

    Raises ValueError for targets that do not fit the outputs, and TypeError for a mask that is not
    of booleans.

        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> config = lstm_jax.ModelConfig(hidden_size=5)
        >>> params = lstm_jax.init_model(jax.random.key(0), config, 4)  # an alphabet of 4 symbols
        >>> ids_TxB = jnp.zeros((7, 2), int)
        >>> carry = lstm_jax.init_carry(params, 2)
        >>> loss, aux = lstm_jax.sequence_loss(params, carry, lstm_jax.Batch(ids_TxB, ids_TxB))
        >>> loss.shape, int(aux.count), aux.carry[0].h.shape
        ((), 14, (2, 5))
    """
    h_TxBxH, carry = run_stack(
        params, carry, batch.inputs, masks, batch.resets, batch.live, truncated=truncated
    )
    losses_TxB = target_losses(params, h_TxBxH, known_targets(batch), head)
    mask_TxB = counted(batch)
    if mask_TxB is None and count is None:
        return jnp.mean(losses_TxB), Aux(carry, jnp.asarray(losses_TxB.size))
    counted_TxB = losses_TxB if mask_TxB is None else jnp.where(mask_TxB, losses_TxB, 0)
    count, total = count_targets(batch) if count is None else count, jnp.sum(counted_TxB)
    return total / jnp.maximum(count, 1).astype(total.dtype), Aux(carry, count)
