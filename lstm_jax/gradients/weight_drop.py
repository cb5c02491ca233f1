"""DropConnect on the recurrent weights: some of U is left out for a whole sequence.

Each weight is kept with probability 1 - rate and divided by it, one choice for all lanes and time
steps (Wan et al. 2013; on U of an LSTM: the weight-dropped LSTM of Merity, Keskar and Socher 2018).
The masks are multiplied into the parameters before the model sees them, so that any gradient
serves, and into the gradient afterwards, as the chain rule has it.
"""

import jax
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.gradients import GradFn
from lstm_jax.loss import Aux
from lstm_jax.model import Carry, Masks, ModelParams

WeightMasks = tuple[Array, ...]  # one a layer, HxG, already divided by the keep rate


def sample_weight_masks(key: Array, params: ModelParams, rate: float) -> WeightMasks | None:
    """Draws the masks of every layer's U; None where the rate is 0."""
    if not rate:
        return None
    keys = jax.random.split(key, len(params.layers))
    return tuple(
        jax.random.bernoulli(key, 1 - rate, layer.U.shape).astype(layer.U.dtype) / (1 - rate)
        for key, layer in zip(keys, params.layers, strict=True)
    )


def drop(params: ModelParams, masks: WeightMasks) -> ModelParams:
    """The parameters, or their gradient, with every U multiplied by its mask."""
    layers = zip(params.layers, masks, strict=True)
    return params._replace(layers=tuple(layer._replace(U=layer.U * m) for layer, m in layers))


def with_weight_drop(value_and_grad: GradFn, masks: WeightMasks | None) -> GradFn:
    """The loss and gradient of a model whose recurrent weights are dropped by the masks."""
    if masks is None:
        return value_and_grad

    def dropped(
        params: ModelParams, carry: Carry, batch: Batch, dropout: Masks | None
    ) -> tuple[tuple[Array, Aux], ModelParams]:
        found, grads = value_and_grad(drop(params, masks), carry, batch, dropout)
        return found, drop(grads, masks)

    return dropped
