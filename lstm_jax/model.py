"""The language model: an optional embedding, a stack of LSTM layers, a linear readout.

Pure functions of explicit parameters. Randomness enters as data: `sample_masks` draws the dropout
masks, `apply` only multiplies by them, and no masks (None) means no randomness at all. So every
backward, and every oracle, can be given the very same masks.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.cells.coupled import init_coupled
from lstm_jax.cells.layer_norm import init_layer_norm
from lstm_jax.cells.lstm import LSTMState, init_cell, init_cell_notebook, init_state
from lstm_jax.cells.mogrifier import ROUNDS, init_mogrifier
from lstm_jax.cells.projection import multiply
from lstm_jax.cells.zoneout import mean_zoneout, sample_zoneout
from lstm_jax.errors import UserError
from lstm_jax.layer import LayerParams, unroll
from lstm_jax.model_config import ModelConfig


class Interface(NamedTuple):
    """What goes into a model and what comes out: all that its shapes need to know of a task."""

    input_size: int  # the width of the vectors that are read, or how many symbols ids stand for
    output_size: int
    reads_ids: bool = True
    head: str = "softmax"  # a key of HEADS: what the outputs are scored by

    @classmethod
    def of(cls, interface: "Interface | int") -> "Interface":
        """An interface as it is; of a number V, that of a model of V symbols."""
        return interface if isinstance(interface, cls) else cls(interface, interface)


class Readout(NamedTuple):
    """`logits = h @ W + b`; with P `logits = h @ P @ W + b`."""

    W: Array | None  # HxV, RxV behind P; None: tied, the embedding transposed
    b: Array  # V
    P: Array | None = None  # HxR: a readout of low rank, or the way to the embedding's width


class ModelParams(NamedTuple):
    """All parameters of a language model."""

    embedding: Array | None  # VxE; None: the first layer reads ids as rows of its W
    layers: tuple[LayerParams, ...]
    readout: Readout
    # H for each layer but the first: what the layer below puts out, times this, is added to what it
    # puts out itself.
    skips: tuple[Array, ...] | None = None


class Masks(NamedTuple):
    """Dropout masks, each fixed over time and already divided by the keep rate; and zoneout.

    Every mask scales the input of a matrix: `layers[l]` (BxD) what layer l reads, `readout` (BxH)
    what the readout reads, `embedding` (BxV) the one-hot ids. None: nothing is dropped there.
    """

    layers: tuple[Array | None, ...]
    readout: Array | None
    embedding: Array | None = None
    zoneout: tuple[LSTMState, ...] | None = None  # each layer's `stay` (layer.unroll)


Carry = tuple[LSTMState, ...]  # one state a layer

# A one-hot input picks one row of W, so its share of the pre-activations is as small as one weight.
# With PyTorch's bound of 1/sqrt(H) symbols are hard to tell apart, and most of a short training
# goes into growing W; BUILD_NOTES.md has the losses for bounds from 1/sqrt(H) to 8.
SYMBOL_BOUND = 4.0


def init_layer(key: Array, input_size: int, config: ModelConfig, *, reads_ids: bool) -> LayerParams:
    """One layer's initial parameters, by the config's `cell` and `init`."""
    H, forget_bias = config.hidden_size, config.forget_bias
    if config.init == "notebook":
        return init_cell_notebook(key, input_size, H, forget_bias=forget_bias)
    init = {
        "lstm": init_cell,
        "coupled": init_coupled,
        "layer_norm": init_layer_norm,
        "mogrifier": partial(
            init_mogrifier,
            rounds=ROUNDS if config.mogrifier_rounds is None else config.mogrifier_rounds,
            rank=config.mogrifier_rank or 0,
        ),
    }[config.cell]
    input_bound = SYMBOL_BOUND if reads_ids else None
    return init(key, input_size, H, forget_bias=forget_bias, input_bound=input_bound)


def init_readout(key: Array, output_size: int, config: ModelConfig) -> Readout:
    """The readout's initial parameters, by the config's `readout` and `init`; bias zero."""
    H, E, b_V = config.hidden_size, config.embedding_size, jnp.zeros(output_size)

    def uniform(key: Array, rows: int, columns: int) -> Array:
        bound = rows**-0.5
        return jax.random.uniform(key, (rows, columns), minval=-bound, maxval=bound)

    if config.readout == "tied":
        return Readout(W=None, b=b_V, P=None if E == H else uniform(key, H, E))
    if config.init == "notebook":
        return Readout(W=0.1 * jax.random.normal(key, (H, output_size)), b=b_V)
    if rank := config.readout_rank:
        key, key_P = jax.random.split(key)
        return Readout(uniform(key, rank, output_size), b_V, P=uniform(key_P, H, rank))
    return Readout(W=uniform(key, H, output_size), b=b_V)


def init_embedding(key: Array, vocabulary_size: int, config: ModelConfig) -> Array | None:
    """The embedding's initial values; None where the first layer reads ids.

    Of unit variance; where the readout is tied to it, as small as a readout's weights begin.
    """
    if not (E := config.embedding_size):
        return None
    scale = E**-0.5 if config.readout == "tied" else 1.0
    return scale * jax.random.normal(key, (vocabulary_size, E))


def init_model(key: Array, config: ModelConfig, interface: Interface | int) -> ModelParams:
    """Parameters of a model.

    Args:
      interface: what it reads and puts out; a number V: ids of V symbols, and logits of as many.

    Raises UserError for an embedding of what is not ids.
    """
    interface = Interface.of(interface)
    if config.embedding_size and not interface.reads_ids:
        raise UserError("model.embedding_size means nothing to a task that reads vectors")
    key_embedding, key_readout, *layer_keys = jax.random.split(key, 2 + config.num_layers)
    E, H, L = config.embedding_size, config.hidden_size, config.num_layers
    input_sizes = [E or interface.input_size] + [H] * (L - 1)
    return ModelParams(
        embedding=init_embedding(key_embedding, interface.input_size, config),
        layers=tuple(
            init_layer(layer_keys[n], D, config, reads_ids=n == 0 and not E and interface.reads_ids)
            for n, D in enumerate(input_sizes)
        ),
        readout=init_readout(key_readout, interface.output_size, config),
        skips=tuple(jnp.ones(H) for _ in range(L - 1)) if config.skip == "weighted" else None,
    )


def sizes(params: ModelParams) -> tuple[int, int]:
    """H, the units of a layer, and V, the symbols."""
    return params.layers[-1].U.shape[0], params.readout.b.shape[0]


def init_carry(params: ModelParams, batch_size: int) -> Carry:
    """The zero state of every layer."""
    return tuple(init_state(layer, batch_size) for layer in params.layers)


def no_masks(params: ModelParams) -> Masks:
    """Masks that drop nothing."""
    return Masks((None,) * len(params.layers), None)


def sample_masks(
    key: Array, params: ModelParams, config: ModelConfig, batch_size: int, sequence_length: int
) -> Masks | None:
    """Draws a mask for each place where the config drops something, one row a lane.

    `input_dropout` acts on what the first layer reads (embeddings, or whole symbols of the
    alphabet when there is no embedding), `dropout` between layers and on the output,
    `embedding_dropout` on whole symbols before the embedding (Gal and Ghahramani 2016, section 4).
    """
    L, (H, V), dtype = len(params.layers), sizes(params), params.readout.b.dtype
    zoneout = zoneout_rates(config)
    if not any((config.input_dropout, config.dropout, config.embedding_dropout, zoneout)):
        return None

    def sample(key: Array, rate: float, width: int) -> Array | None:
        if not rate:
            return None
        keep_BxD = jax.random.bernoulli(key, 1 - rate, (batch_size, width))
        return keep_BxD.astype(dtype) / (1 - rate)

    key_embedding, *keys = jax.random.split(key, 1 + (L + 1) + L)
    dropout_keys, zoneout_keys = keys[: L + 1], keys[L + 1 :]
    rates = [config.input_dropout] + [config.dropout] * L
    widths = [layer.W.shape[0] for layer in params.layers] + [H]
    *layers, readout = map(sample, dropout_keys, rates, widths)
    shape = (sequence_length, batch_size, H)
    return Masks(
        tuple(layers),
        readout,
        sample(key_embedding, config.embedding_dropout, V),
        zoneout and tuple(sample_zoneout(key, zoneout, shape, dtype) for key in zoneout_keys),
    )


def zoneout_rates(config: ModelConfig) -> LSTMState | None:
    """How often a unit of h, and of c, stays what it was; None: never."""
    rates = LSTMState(h=config.zoneout_hidden, c=config.zoneout_cell)
    return rates if any(rates) else None


def evaluation_masks(config: ModelConfig) -> Masks | None:
    """What stands for the drawn masks where nothing is random; None: nothing needs to.

    Dropout is divided by its keep rate, so that its mean is no dropout; zoneout's mean is its rate.
    """
    if not (rates := zoneout_rates(config)):
        return None
    L = config.num_layers
    return Masks((None,) * L, None, zoneout=(mean_zoneout(rates),) * L)


def embed(params: ModelParams, ids_TxB: Array, mask_BxV: Array | None = None) -> Array:
    """What the first layer reads: the embeddings TxBxE, or, without an embedding, the ids."""
    if params.embedding is None:
        return ids_TxB
    return multiply(ids_TxB, params.embedding, mask_BxV)


def read_out(params: ModelParams, h_TxBxH: Array) -> Array:
    """The logits, TxBxV."""
    W, b_V, P = params.readout
    if P is not None:
        h_TxBxH = h_TxBxH @ P
    return h_TxBxH @ (params.embedding.T if W is None else W) + b_V[None, None]


def apply(
    params: ModelParams,
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
    x = embed(params, inputs_TxB, masks.embedding)
    states = []
    for n, (layer, state, mask_BxD) in enumerate(
        zip(params.layers, carry, masks.layers, strict=True)
    ):
        below = x
        state, x = unroll(
            layer,
            state,
            x,
            mask_BxD=mask_BxD,
            resets_TxB=resets_TxB,
            stay=masks.zoneout and masks.zoneout[n],
            truncated=truncated,
        )
        if n and params.skips is not None:
            x = x + params.skips[n - 1][None, None] * below
        states.append(state)
    return read_out(params, x if masks.readout is None else x * masks.readout[None]), tuple(states)


def named_leaves(params: ModelParams) -> dict[str, Array]:
    """Every leaf by its name, such as `layers[0].U`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in leaves}


def count_parameters(params: ModelParams) -> dict[str, int]:
    """The number of values in each leaf, by the leaf's name."""
    return {name: leaf.size for name, leaf in named_leaves(params).items()}
