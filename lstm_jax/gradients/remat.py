"""Long sequences in little memory: a gradient taken in blocks of steps.

A backward needs what its forward computed at every step, T times some ten blocks of BxH. Here the
forward keeps the carry at the start of each block of k steps alone; then, from the last block to
the first, a block is run forward once more, now with all that its backward needs, and backward. So
memory holds T/k carries and the residuals of k steps, least of both together where k is about
sqrt(T), for one more forward pass. Recomputation of this kind is Chen et al. 2016; the gradient is
the same, and nothing of backpropagation is truncated: the gradient by a block's first carry is what
arrives at the final carry of the block before.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.data.batches import Batch
from lstm_jax.gradients import BLOCK_GRADIENTS, GRADIENTS, BlockGradient, GradFn
from lstm_jax.heads import Head, softmax
from lstm_jax.loss import Aux, count_targets
from lstm_jax.model import Carry, Masks, ModelParams
from lstm_jax.pieces import cut


def make_gradient(name: str, remat_every: int = 0, head: Head = softmax) -> GradFn:
    """One of GRADIENTS; sequences longer than `remat_every` (0: none) in blocks of so many steps.

    The last block has what is left, 1 to `remat_every` steps.
    """
    whole, block = GRADIENTS[name](head), BLOCK_GRADIENTS[name](head)
    if not remat_every:
        return whole

    def value_and_grad(
        params: ModelParams, carry: Carry, batch: Batch, masks: Masks | None = None
    ) -> tuple[tuple[Array, Aux], ModelParams]:
        if batch.inputs.shape[0] <= remat_every:
            return whole(params, carry, batch, masks)
        return in_blocks(block, remat_every, params, carry, batch, masks)

    return value_and_grad


class Part(NamedTuple):
    """What runs over time of a sequence, or of a block of it."""

    batch: Batch
    zoneout: tuple[Any, ...] | None  # the one part of the masks that does


def in_blocks(
    block: BlockGradient,
    length: int,
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
) -> tuple[tuple[Array, Aux], ModelParams]:
    """The loss of `loss.sequence_loss` and its gradient. The scans stand for these loops:

    for n in range(N):                     # the last block apart
        starts[n], carry = carry, forward(params, carry, blocks[n])
    loss, dparams, dcarry = backward(params, carry, last, zeros)
    for n in reversed(range(N)):
        loss_n, dparams_n, dcarry = backward(params, starts[n], blocks[n], dcarry)
        loss, dparams = loss + loss_n, dparams + dparams_n
    """
    T = batch.inputs.shape[0]
    zoneout = jax.tree.map(  # one rate for all steps is cut, too
        lambda k: jnp.broadcast_to(k, (T, *k.shape[1:])), masks and masks.zoneout
    )
    blocks, last = cut(Part(batch, zoneout), length)
    count = count_targets(batch)

    def masks_of(part: Part) -> Masks | None:
        return masks and masks._replace(zoneout=part.zoneout)

    def forward(carry: Carry, part: Part) -> tuple[Carry, Carry]:
        return block.forward(params, carry, part.batch, masks_of(part)), carry

    def backward_block(start: Carry, part: Part, dcarry: Carry) -> Any:
        return block.backward(params, start, part.batch, masks_of(part), dcarry, count)

    def backward(
        later: tuple[Array, ModelParams, Carry], inputs: tuple[Carry, Part]
    ) -> tuple[tuple[Array, ModelParams, Carry], None]:
        (loss_later, dparams_later, dcarry), (start, part) = later, inputs
        (loss, _), dparams, dstart = backward_block(start, part, dcarry)
        dparams = jax.tree.map(jnp.add, dparams_later, dparams)
        return (loss_later + loss, dparams, dstart), None

    carry, starts = lax.scan(forward, carry, blocks)
    zeros = jax.tree.map(jnp.zeros_like, carry)
    (loss, aux), *d = backward_block(carry, last, zeros)
    (loss, dparams, _), _ = lax.scan(backward, (loss, *d), (starts, blocks), reverse=True)
    return (loss, aux), dparams
