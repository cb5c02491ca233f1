"""Gradients of the sequence loss, by name. Nothing downstream knows which one ran."""

from collections.abc import Callable

import jax
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.loss import Aux, sequence_loss
from lstm_jax.model import Carry, LMParams, Masks

# (params, carry, batch, masks) -> ((loss, aux), gradient of the loss by params)
GradFn = Callable[[LMParams, Carry, Batch, Masks | None], tuple[tuple[Array, Aux], LMParams]]

GRADIENTS: dict[str, GradFn] = {
    "autodiff": jax.value_and_grad(sequence_loss, has_aux=True),
}
