"""What is dropped: the masks of dropout and zoneout, and what stands for them in scoring.

Randomness enters as data, and the model only multiplies by it. So every backward, and every oracle,
can be given the very same masks.
"""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from lstm_jax.cells import CELLS, cell_of
from lstm_jax.model import Masks, ModelParams, hidden_sizes, init_carry
from lstm_jax.model_config import ModelConfig


class Chances(NamedTuple):
    """The chance of a one in each mask: numbers, or scalars; None: there is no such mask.

    Of what is dropped it is 1 - rate. Of zoneout, whose ones stay what they were, it is the rate.
    """

    input: Any
    layers: Any
    embedding: Any
    weights: Any
    zoneout: Any

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        rates = config.input_dropout, config.dropout, config.embedding_dropout, config.weight_drop
        keeps = (1 - rate if rate else None for rate in rates)
        return cls._make([*keeps, zoneout_rates(config)])


def sample_masks(
    key: Array, params: ModelParams, config: ModelConfig, batch_size: int, sequence_length: int
) -> Masks | None:
    """The masks of a config, by `draw_masks`."""
    return draw_masks(key, params, Chances.of(config), batch_size, sequence_length)


def draw_masks(
    key: Array, params: ModelParams, chances: Chances, batch_size: int, sequence_length: int
) -> Masks | None:
    """Draws a mask for each place where something is dropped, one row per lane.

    `input_dropout` acts on what the first layer reads: embeddings, vectors, or whole symbols of an
    alphabet without an embedding. `dropout` acts between layers and on the output,
    `embedding_dropout` on whole symbols before the embedding (Gal and Ghahramani 2016, section 4).
    """
    if not jax.tree.leaves(chances._replace(weights=None)):
        return None
    L, dtype, zoneout = len(params.layers), params.readout.b.dtype, chances.zoneout

    def sample(key: Array, chance: Any, width: int) -> Array | None:
        if chance is None:
            return None
        keep_BxD = jax.random.bernoulli(key, chance, (batch_size, width))
        return keep_BxD.astype(dtype) / jnp.asarray(chance, dtype)

    key_embedding, *keys = jax.random.split(key, 1 + (L + 1) + L)
    dropout_keys, zoneout_keys = keys[: L + 1], keys[L + 1 :]
    each_chance = [chances.input] + [chances.layers] * L
    widths = [cell_of(layer).widths(layer)[0] for layer in params.layers]
    *layers, readout = map(sample, dropout_keys, each_chance, [*widths, hidden_sizes(params)[-1]])
    drawn = None
    if zoneout is not None:
        states = jax.eval_shape(lambda: init_carry(params, batch_size))
        each = zip(zoneout_keys, states, strict=True)
        drawn = tuple(
            sample_zoneout(key, zoneout, state, sequence_length, dtype) for key, state in each
        )
    V = 0 if params.embedding is None else params.embedding.shape[0]
    return Masks(tuple(layers), readout, sample(key_embedding, chances.embedding, V), drawn)


def sample_zoneout(key: Array, rates: Any, state: Any, T: int, dtype: DTypeLike) -> Any:
    """Draws which units of one layer's state stay what they were: 1 or 0, for each of T steps."""
    keys = jax.random.split(key, len(rates))
    return type(rates)(
        *(
            jax.random.bernoulli(key, rate, (T, *field.shape)).astype(dtype)
            for key, rate, field in zip(keys, rates, state, strict=True)
        )
    )


def mean_zoneout(rates: Any) -> Any:
    """What `sample_zoneout` draws on average, the same for all: 1x1x1."""
    return type(rates)(*(jnp.full((1, 1, 1), rate) for rate in rates))


def zoneout_rates(config: ModelConfig) -> Any:
    """How often a unit stays what it was, for each field of the cell's state; None: never."""
    if not (config.zoneout_hidden or config.zoneout_cell):
        return None
    state = CELLS[config.cell].state
    return state(
        *(config.zoneout_hidden if name == "h" else config.zoneout_cell for name in state._fields)
    )


def evaluation_masks(config: ModelConfig) -> Masks | None:
    """What stands for the drawn masks where nothing is random; None: nothing needs to.

    Dropout is divided by its keep rate, so that its mean is no dropout; zoneout's mean is its rate.
    """
    if (rates := zoneout_rates(config)) is None:
        return None
    L = len(config.layer_sizes)
    return Masks((None,) * L, None, zoneout=(mean_zoneout(rates),) * L)
