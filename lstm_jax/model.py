"""The language model: an optional embedding, a stack of LSTM layers, a linear readout.

Pure functions of explicit parameters. Randomness enters as data: `sample_masks` draws the dropout
masks, `apply` only multiplies by them, and no masks (None) means no randomness at all. So every
backward, and every oracle, can be given the very same masks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.cell import LSTMParams, LSTMState, init_cell, init_cell_notebook, init_state
from lstm_jax.config import ModelConfig
from lstm_jax.layer import unroll


class Readout(NamedTuple):
    """`logits = h @ W + b`."""

    W: Array  # HxV
    b: Array  # V


class LMParams(NamedTuple):
    """All parameters of a language model."""

    embedding: Array | None  # VxE; None: the first layer reads ids as rows of its W
    layers: tuple[LSTMParams, ...]
    readout: Readout


class Masks(NamedTuple):
    """Dropout masks, each fixed over time and already divided by the keep rate.

    Every mask scales the input of a matrix: `layers[l]` (BxD) what layer l reads, `readout` (BxH)
    what the readout reads. None: nothing is dropped there.
    """

    layers: tuple[Array | None, ...]
    readout: Array | None


Carry = tuple[LSTMState, ...]  # one state a layer

# A one-hot input picks one row of W, so its share of the pre-activations is as small as one weight.
# With PyTorch's bound of 1/sqrt(H) symbols are hard to tell apart, and most of a short training
# goes into growing W; BUILD_NOTES.md has the losses for bounds from 1/sqrt(H) to 8.
SYMBOL_BOUND = 4.0


def init_layer(key: Array, input_size: int, config: ModelConfig, *, reads_ids: bool) -> LSTMParams:
    """One layer's initial parameters, by the config's `init`."""
    H, forget_bias = config.hidden_size, config.forget_bias
    if config.init == "notebook":
        return init_cell_notebook(key, input_size, H, forget_bias=forget_bias)
    input_bound = SYMBOL_BOUND if reads_ids else None
    return init_cell(key, input_size, H, forget_bias=forget_bias, input_bound=input_bound)


def init_readout(key: Array, vocabulary_size: int, config: ModelConfig) -> Readout:
    """The readout's initial parameters, by the config's `init`; bias zero."""
    hidden_size = config.hidden_size
    shape = (hidden_size, vocabulary_size)
    if config.init == "notebook":
        W_HxV = 0.1 * jax.random.normal(key, shape)
    else:
        bound = hidden_size**-0.5
        W_HxV = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    return Readout(W=W_HxV, b=jnp.zeros(vocabulary_size))


def init_model(key: Array, config: ModelConfig, vocabulary_size: int) -> LMParams:
    """Parameters of a model that reads and predicts `vocabulary_size` symbols."""
    key_embedding, key_readout, *layer_keys = jax.random.split(key, 2 + config.num_layers)
    E, H = config.embedding_size, config.hidden_size
    input_sizes = [E or vocabulary_size] + [H] * (config.num_layers - 1)
    return LMParams(
        embedding=jax.random.normal(key_embedding, (vocabulary_size, E)) if E else None,
        layers=tuple(
            init_layer(layer_keys[n], D, config, reads_ids=n == 0 and not E)
            for n, D in enumerate(input_sizes)
        ),
        readout=init_readout(key_readout, vocabulary_size, config),
    )


def init_carry(params: LMParams, batch_size: int) -> Carry:
    """The zero state of every layer."""
    return tuple(init_state(layer, batch_size) for layer in params.layers)


def no_masks(params: LMParams) -> Masks:
    """Masks that drop nothing."""
    return Masks((None,) * len(params.layers), None)


def sample_masks(
    key: Array, params: LMParams, config: ModelConfig, batch_size: int
) -> Masks | None:
    """Draws a mask for each place where the config drops something, one row a lane.

    `input_dropout` acts on what the first layer reads (embeddings, or whole symbols of the
    alphabet when there is no embedding), `dropout` between layers and on the output.
    """
    if not config.input_dropout and not config.dropout:
        return None

    def sample(key: Array, rate: float, width: int) -> Array | None:
        if not rate:
            return None
        keep_BxD = jax.random.bernoulli(key, 1 - rate, (batch_size, width))
        return keep_BxD.astype(params.readout.W.dtype) / (1 - rate)

    L = len(params.layers)
    keys = jax.random.split(key, L + 1)
    rates = [config.input_dropout] + [config.dropout] * L
    widths = [layer.W.shape[0] for layer in params.layers] + [params.readout.W.shape[0]]
    *layers, readout = map(sample, keys, rates, widths)
    return Masks(tuple(layers), readout)


def apply(
    params: LMParams,
    carry: Carry,
    inputs_TxB: Array,
    masks: Masks | None = None,
    resets_TxB: Array | None = None,
    *,
    truncated: bool = False,
) -> tuple[Array, Carry]:
    """Reads a sequence of ids; predicts, at each, the next.

    Args:
      inputs_TxB: integer ids below V. The caller vouches for the range (`Vocabulary` does).
      masks: dropout, from `sample_masks`; None: none.
      resets_TxB: True where a lane starts afresh, from the zero state, before it reads that id.
      truncated: changes the derivative only (see `layer.unroll`).

    Returns:
      logits TxBxV and the carry after the last step.
    """
    masks = masks or no_masks(params)
    x = inputs_TxB if params.embedding is None else params.embedding[inputs_TxB]
    states = []
    for layer, state, mask_BxD in zip(params.layers, carry, masks.layers, strict=True):
        state, x = unroll(
            layer, state, x, mask_BxD=mask_BxD, resets_TxB=resets_TxB, truncated=truncated
        )
        states.append(state)
    h_TxBxH = x if masks.readout is None else x * masks.readout
    return h_TxBxH @ params.readout.W + params.readout.b, tuple(states)


def named_leaves(params: LMParams) -> dict[str, Array]:
    """Every leaf by its name, such as `layers[0].U`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in leaves}


def count_parameters(params: LMParams) -> dict[str, int]:
    """The number of values in each leaf, by the leaf's name."""
    return {name: leaf.size for name, leaf in named_leaves(params).items()}
