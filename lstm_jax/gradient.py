"""Gradients of the sequence loss, by name. Nothing downstream knows which one ran."""

from collections.abc import Callable
from functools import partial

import jax
from jax import Array

from lstm_jax import bptt
from lstm_jax.data.batches import Batch
from lstm_jax.loss import Aux, sequence_loss
from lstm_jax.model import Carry, LMParams, Masks

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

# The truncated rule once more, by JAX and a stop_gradient: what the one by hand is checked against.
truncated_autodiff: GradFn = jax.value_and_grad(
    partial(sequence_loss, truncated=True), has_aux=True
)
