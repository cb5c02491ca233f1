"""The model: an optional embedding, a stack of recurrent layers, a linear readout.

Pure functions of explicit parameters. Randomness enters as data: `masks` draws what is dropped,
`apply` only multiplies by it, and no masks (None) means no randomness at all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.cells import CELLS, cell_of
from lstm_jax.cells.cell import Marks
from lstm_jax.cells.passes import blank
from lstm_jax.cells.projection import multiply_input
from lstm_jax.data.batches import Values, as_array
from lstm_jax.errors import UserError
from lstm_jax.layer import run
from lstm_jax.model_config import ModelConfig, cell_options


class Interface(NamedTuple):
    """What goes into a model and what comes out: all that its shapes need to know of a task."""

    input_size: int  # the width of the vectors that are read, or how many symbols ids stand for
    output_size: int
    reads_ids: bool = True
    head: str = "softmax"  # a key of HEADS: what the outputs are scored by

    @classmethod
    def of(cls, interface: "Interface | int") -> "Interface":
        """An interface as it is; of a number V, that of a model of V symbols."""
        return interface if isinstance(interface, Interface) else cls(interface, interface)


class Readout(NamedTuple):
    """`logits = h @ W + b`; with P `logits = h @ P @ W + b`."""

    W: Array | None  # HxV, RxV behind P; None: tied, the embedding transposed
    b: Array  # V
    P: Array | None = None  # HxR: a readout of low rank, or the way to the embedding's width


class ModelParams(NamedTuple):
    """All parameters of a model."""

    embedding: Array | None  # VxE; None: the first layer reads what comes in
    layers: tuple[Any, ...]  # of any cells
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
    # Of each layer a state of TxBxH, or 1x1x1: the share of each unit that stays what it was.
    zoneout: tuple[Any, ...] | None = None


Carry = tuple[Any, ...]  # one state per layer

# A one-hot input picks one row of W, so its share of the pre-activations is as small as one weight.
# With PyTorch's bound of 1/sqrt(H) symbols are hard to tell apart, and most of a short training
# goes into growing W; BUILD_NOTES.md has the losses for bounds from 1/sqrt(H) to 8.
SYMBOL_BOUND = 4.0


def init_layer(
    key: Array, input_size: int, hidden_size: int, config: ModelConfig, *, reads_ids: bool
) -> Any:
    """One layer's initial parameters, by the config's `cell` and its options."""
    cell = CELLS[config.cell]
    options = {name: getattr(config, name) for name in cell_options(cell)}
    input_bound = SYMBOL_BOUND if reads_ids else None
    params = cell.init(key, input_size, hidden_size, input_bound=input_bound, **options)
    if cell_of(params) is not cell:  # which would run in its place
        raise TypeError(f"the cell {config.cell} needs a type of parameters of its own")
    return params


def init_readout(key: Array, output_size: int, config: ModelConfig) -> Readout:
    """The readout's initial parameters, by the config's `readout` and `init`; bias zero."""
    H, E, b_V = config.layer_sizes[-1], config.embedding_size, jnp.zeros(output_size)

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

    Raises UserError for an embedding, or a readout tied to one, that the interface does not allow.
    """
    interface, sizes = Interface.of(interface), config.layer_sizes
    check_embedding(config, interface)
    key_embedding, key_readout, *layer_keys = jax.random.split(key, 2 + len(sizes))
    E = config.embedding_size
    input_sizes = [E or interface.input_size, *sizes[:-1]]
    reads_ids = interface.reads_ids and not E
    return ModelParams(
        embedding=init_embedding(key_embedding, interface.input_size, config),
        layers=tuple(
            init_layer(layer_keys[n], D, H, config, reads_ids=reads_ids and n == 0)
            for n, (D, H) in enumerate(zip(input_sizes, sizes, strict=True))
        ),
        readout=init_readout(key_readout, interface.output_size, config),
        skips=tuple(map(jnp.ones, sizes[1:])) if config.skip == "weighted" else None,
    )


def check_embedding(config: ModelConfig, interface: Interface) -> None:
    """Raises UserError for an embedding of what is not ids, or a readout tied to one of another
    alphabet."""
    if config.embedding_size and not interface.reads_ids:
        raise UserError("model.embedding_size means nothing to a task that reads vectors")
    if config.readout == "tied" and interface.input_size != interface.output_size:
        raise UserError("model.readout=tied needs a task that reads the symbols that it predicts")


def hidden_sizes(params: ModelParams) -> tuple[int, ...]:
    """H of each layer."""
    return tuple(cell_of(layer).widths(layer)[1] for layer in params.layers)


def output_size(params: ModelParams) -> int:
    """How many numbers the model puts out at each step; V of a text."""
    return params.readout.b.shape[0]


def init_carry(params: ModelParams, batch_size: int) -> Carry:
    """The zero state of every layer."""
    return tuple(cell_of(layer).init_state(layer, batch_size) for layer in params.layers)


def no_masks(params: ModelParams) -> Masks:
    """Masks that drop nothing."""
    return Masks((None,) * len(params.layers), None)


def embed(
    params: ModelParams,
    inputs: Values,
    live_TxB: Values | None = None,
    mask_BxV: Array | None = None,
) -> Array:
    """What the first layer reads: embeddings TxBxE, or, without an embedding, what comes in."""
    inputs = jnp.asarray(inputs)
    if params.embedding is None:
        return blank(inputs, as_array(live_TxB))
    return multiply_input(inputs, params.embedding, mask_BxV)


def read_out(params: ModelParams, h_TxBxH: Array) -> Array:
    """The outputs, TxBxV."""
    W, b_V, P = params.readout
    if P is not None:
        h_TxBxH = h_TxBxH @ P
    if W is None:
        assert params.embedding is not None  # to which the readout is tied
        W = params.embedding.T
    return h_TxBxH @ W + b_V[None, None]


def run_stack(
    params: ModelParams,
    carry: Carry,
    inputs: Values,
    masks: Masks | None = None,
    resets_TxB: Values | None = None,
    live_TxB: Values | None = None,
    *,
    truncated: bool = False,
) -> tuple[Array, Carry]:
    """`apply` without the readout: what that reads, TxBxH, and the carry."""
    masks = masks or no_masks(params)
    resets_TxB, live_TxB = as_array(resets_TxB), as_array(live_TxB)
    x = embed(params, inputs, live_TxB, masks.embedding)
    states = []
    for n, (layer, state, mask_BxD) in enumerate(
        zip(params.layers, carry, masks.layers, strict=True)
    ):
        below = x
        marks = Marks(resets_TxB, live_TxB, masks.zoneout and masks.zoneout[n])
        state, x = run(layer, state, x, mask_BxD, marks, truncated=truncated)
        if n and params.skips is not None:
            x = x + params.skips[n - 1][None, None] * below
        states.append(state)
    return x if masks.readout is None else x * masks.readout[None], tuple(states)


def apply(
    params: ModelParams,
    carry: Carry,
    inputs: Values,
    masks: Masks | None = None,
    resets_TxB: Values | None = None,
    live_TxB: Values | None = None,
    *,
    truncated: bool = False,
) -> tuple[Array, Carry]:
    """Reads sequences side by side, and puts something out at each step.

    Args:
      inputs: ids TxB below V (the caller vouches for the range, `Vocabulary` does), or vectors
        TxBxD.
      masks: dropout, from `masks.sample_masks`; None: none.
      resets_TxB: True where a lane starts from the zero state before it reads that input.
      live_TxB: False where there is nothing but padding: there the state stays.
      truncated: changes the derivative only (see `layer.unroll`).

    Returns:
      outputs TxBxV and the carry after the last step.
    """
    h_TxBxH, carry = run_stack(
        params, carry, inputs, masks, resets_TxB, live_TxB, truncated=truncated
    )
    return read_out(params, h_TxBxH), carry


def named_leaves(params: ModelParams) -> dict[str, Array]:
    """Every leaf by its name, such as `layers[0].U`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in leaves}


def count_parameters(params: ModelParams) -> dict[str, int]:
    """The number of values in each leaf, by the leaf's name."""
    return {name: leaf.size for name, leaf in named_leaves(params).items()}
