"""Gradients of the sequence loss, by name. Nothing downstream knows which one ran."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.gradients import bptt
from lstm_jax.heads import Head
from lstm_jax.loss import Aux, sequence_loss
from lstm_jax.model import Carry, Masks, ModelParams, run_stack

# (params, carry, batch, masks) -> ((loss, aux), gradient of the loss by params)
GradFn = Callable[[ModelParams, Carry, Batch, Masks | None], tuple[tuple[Array, Aux], ModelParams]]


@cache  # one function for each head, so that its compiled programs are found again
def by_jax(head: Head, *, truncated: bool = False) -> GradFn:
    """JAX's reverse mode through the textbook scan."""
    return jax.value_and_grad(partial(sequence_loss, head=head, truncated=truncated), has_aux=True)


@cache
def by_hand(head: Head, *, truncated: bool = False) -> GradFn:
    """Derived by hand: `bptt`."""
    return partial(bptt.value_and_grad, head=head, truncated=truncated)


# Functions of the head that give a gradient.
GRADIENTS: dict[str, Callable[[Head], GradFn]] = {
    "autodiff": by_jax,
    # The same gradient.
    "bptt": by_hand,
    # The error goes back in time through the cell state alone.
    "truncated": partial(by_hand, truncated=True),
}


class BlockGradient(NamedTuple):
    """A gradient in the two passes that `remat` takes over the parts of a sequence.

    forward: (params, carry, batch, masks) -> the carry after the last step.
    backward: (params, carry, batch, masks, dcarry, count) ->
      ((loss, aux), gradient by params, gradient by the carry). `dcarry` is the gradient that
      arrives at the final carry; `count` is how many targets the whole's mean is taken over.
    """

    forward: Callable[[ModelParams, Carry, Batch, Masks | None], Carry]
    backward: Callable[..., tuple[tuple[Array, Aux], ModelParams, Carry]]


def forward_by_jax(
    params: ModelParams, carry: Carry, batch: Batch, masks: Masks | None = None
) -> Carry:
    """The `forward` of autodiff's blocks: the model's own."""
    return run_stack(params, carry, batch.inputs, masks, batch.resets, batch.live)[1]


def backward_by_jax(
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None,
    dcarry: Carry,
    count: Array,
    *,
    head: Head,
    truncated: bool = False,
) -> tuple[tuple[Array, Aux], ModelParams, Carry]:
    """The `backward` of autodiff's blocks: the carry is differentiated too, on both sides."""

    def loss_and_carry(params: ModelParams, carry: Carry) -> tuple[tuple[Array, Carry], Array]:
        loss, aux = sequence_loss(
            params, carry, batch, masks, head=head, count=count, truncated=truncated
        )
        return (loss, aux.carry), aux.count

    (loss, final), pull_back, count = jax.vjp(loss_and_carry, params, carry, has_aux=True)
    dparams, dstart = pull_back((jnp.ones_like(loss), dcarry))
    return (loss, Aux(final, count)), dparams, dstart


def block_by_jax(head: Head) -> BlockGradient:
    """A block's passes by JAX."""
    return BlockGradient(forward_by_jax, partial(backward_by_jax, head=head))


def block_by_hand(head: Head, *, truncated: bool = False) -> BlockGradient:
    """A block's passes by hand."""
    backward = partial(bptt.backpropagate, head=head, truncated=truncated)
    return BlockGradient(bptt.final_carry, backward)


BLOCK_GRADIENTS: dict[str, Callable[[Head], BlockGradient]] = {
    "autodiff": block_by_jax,
    "bptt": block_by_hand,
    "truncated": partial(block_by_hand, truncated=True),
}
