"""DropConnect on the recurrent weights: some of U is left out for a whole sequence.

Each weight is kept with probability 1 - rate and divided by it, one choice for all lanes and time
steps (Wan et al. 2013; on U of an LSTM: the weight-dropped LSTM of Merity, Keskar and Socher 2018).
The masks are multiplied into the parameters before the model sees them, so that any gradient
serves. They are multiplied into the gradient afterwards, as the chain rule has it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.cells import cell_of
from lstm_jax.data.batches import Batch
from lstm_jax.gradients import GradFn
from lstm_jax.loss import Aux
from lstm_jax.model import Carry, Masks, ModelParams

# For each layer the masks of its recurrent weights by name, already divided by the keep rate.
WeightMasks = tuple[dict[str, Array], ...]


def sample_weight_masks(key: Array, params: ModelParams, rate: float) -> WeightMasks | None:
    """The masks of a rate, by `draw_weight_masks`; None where it is 0."""
    return draw_weight_masks(key, params, 1 - rate if rate else None)


def draw_weight_masks(
    key: Array, params: ModelParams, chance: Array | float | None
) -> WeightMasks | None:
    """Draws the masks of every layer's recurrent weights, each kept with that chance; None: all."""
    if chance is None:
        return None

    def sample(key: Array, layer: Any) -> dict[str, Array]:
        names = cell_of(layer).recurrent
        keys = [key, *(jax.random.fold_in(key, n) for n in range(1, len(names)))]
        leaves = {name: getattr(layer, name) for name in names}
        return {
            name: jax.random.bernoulli(k, chance, leaf.shape).astype(leaf.dtype)
            / jnp.asarray(chance, leaf.dtype)
            for k, (name, leaf) in zip(keys, leaves.items(), strict=True)
        }

    keys = jax.random.split(key, len(params.layers))
    return tuple(map(sample, keys, params.layers))


def drop_weights(params: ModelParams, masks: WeightMasks) -> ModelParams:
    """The parameters, or their gradient, with every recurrent weight multiplied by its mask."""
    layers = zip(params.layers, masks, strict=True)
    return params._replace(
        layers=tuple(
            layer._replace(**{name: getattr(layer, name) * m for name, m in drawn.items()})
            for layer, drawn in layers
        )
    )


def with_weight_drop(value_and_grad: GradFn, masks: WeightMasks | None) -> GradFn:
    """The loss and gradient of a model whose recurrent weights are dropped by the masks."""
    if masks is None:
        return value_and_grad

    def dropped(
        params: ModelParams, carry: Carry, batch: Batch, dropout: Masks | None
    ) -> tuple[tuple[Array, Aux], ModelParams]:
        loss_and_aux, grads = value_and_grad(drop_weights(params, masks), carry, batch, dropout)
        return loss_and_aux, drop_weights(grads, masks)

    return dropped
