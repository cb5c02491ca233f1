"""Gradients of the sequence loss, by name. Nothing downstream knows which one ran."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.gradients import bptt
from lstm_jax.loss import Aux, sequence_loss
from lstm_jax.model import Carry, LMParams, Masks, apply

# (params, carry, batch, masks) -> ((loss, aux), gradient of the loss by params)
GradFn = Callable[[LMParams, Carry, Batch, Masks | None], tuple[tuple[Array, Aux], LMParams]]

GRADIENTS: dict[str, GradFn] = {
    # JAX's reverse mode through the textbook scan.
    "autodiff": jax.value_and_grad(sequence_loss, has_aux=True),
    # Derived by hand; the same gradient.
    "bptt": bptt.value_and_grad,
    # Derived by hand; the error goes back in time through the cell state alone.
    "truncated": partial(bptt.value_and_grad, truncated=True),
}


class BlockGrad(NamedTuple):
    """A gradient in the two passes that `blocks` takes over the parts of a sequence.

    forward: (params, carry, batch, masks) -> the carry after the last step.
    backward: (params, carry, batch, masks, dcarry, count) ->
      ((loss, aux), gradient by params, gradient by the carry), where `dcarry` is the gradient that
      arrives at the final carry and `count` how many targets the mean of the whole is taken over.
    """

    forward: Callable[[LMParams, Carry, Batch, Masks | None], Carry]
    backward: Callable[..., tuple[tuple[Array, Aux], LMParams, Carry]]


def forward_by_jax(
    params: LMParams, carry: Carry, batch: Batch, masks: Masks | None = None
) -> Carry:
    """The `forward` of autodiff's blocks: the model's own."""
    return apply(params, carry, batch.inputs, masks, batch.resets)[1]


def backward_by_jax(
    params: LMParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None,
    dcarry: Carry,
    count: Array,
    *,
    truncated: bool = False,
) -> tuple[tuple[Array, Aux], LMParams, Carry]:
    """The `backward` of autodiff's blocks: the carry is differentiated too, on both sides."""

    def loss_and_carry(params: LMParams, carry: Carry) -> tuple[tuple[Array, Carry], Array]:
        loss, aux = sequence_loss(params, carry, batch, masks, count=count, truncated=truncated)
        return (loss, aux.carry), aux.count

    (loss, final), pull_back, count = jax.vjp(loss_and_carry, params, carry, has_aux=True)
    dparams, dstart = pull_back((jnp.ones_like(loss), dcarry))
    return (loss, Aux(final, count)), dparams, dstart


BLOCK_GRADIENTS: dict[str, BlockGrad] = {
    "autodiff": BlockGrad(forward_by_jax, backward_by_jax),
    "bptt": BlockGrad(bptt.final_carry, bptt.block_value_and_grad),
    "truncated": BlockGrad(bptt.final_carry, partial(bptt.block_value_and_grad, truncated=True)),
}

# The truncated rule once more, by JAX and a stop_gradient: what the one by hand is checked against.
truncated_autodiff: GradFn = jax.value_and_grad(
    partial(sequence_loss, truncated=True), has_aux=True
)
