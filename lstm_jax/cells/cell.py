"""The contract of a cell: what it owns, and what is written once for all cells.

A cell is one file and one line in `cells.CELLS`. It owns its parameters, its state, its step and,
where somebody has derived it, its backward. `passes` has the loops over time.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from lstm_jax.options import Section


class Marks(NamedTuple):
    """What is special about steps of some lanes; None: nothing."""

    resets: Array | None = None  # TxB, True where a lane starts from the zero state
    live: Array | None = None  # TxB, False where there is nothing but padding
    # A state of TxBxH (or 1x1x1: the same for all): the share of each unit that stays what it was.
    zoneout: Any = None


class Passes(NamedTuple):
    """A layer's forward and its backward by hand, in one layout.

    forward: (params, state, x, mask, marks) -> (final state, outputs, residuals)
    backward: (params, residuals, mask, marks, e, dfinal, truncated=) ->
      (dparams, dinitial, dx), where e is what arrives at the outputs, dfinal at the final state;
      dx is None where x is ids.

    States are BxH. Sequences lie as the layout has them, TxBxD or TxDxB; ids are TxB. `mask` BxD
    multiplies the input at every step.
    """

    forward: Callable[..., tuple[Any, Array, Any]]
    backward: Callable[..., tuple[Any, Any, Array | None]]


class Cell(NamedTuple):
    """A kind of cell.

    params: the NamedTuple of its parameters; their type says which cell a layer is of.
    state: the NamedTuple of its state, with a field `h`, what is put out.
    init: (key, input_size, hidden_size, *, input_bound, and its options) -> params; `input_bound`
      bounds the input weights, None: as suits the cell.
    init_state: (params, batch_size) -> state, B first.
    prepare: (params, x, mask_BxD) -> any pytree, T first: all that needs no state, at once. x is
      TxBxD, or ids TxB, which stand for one-hot vectors; the mask multiplies it at every step.
    step: (params, state, prepared at that step) -> the next state.
    widths: (params) -> (D, H).
    recurrent: the names of the leaves that weight drop acts on.
    truncate: (state) -> what a step reads under the truncated rule; None: it has no such rule.
    options: the config values that `init` takes, as sections.
    by_hand: its passes by the name of their layout; empty: nobody has derived its backward.
    """

    params: type[Any]
    state: type[Any]
    init: Callable[..., Any]
    init_state: Callable[[Any, int], Any]
    prepare: Callable[[Any, Array, Array | None], Any]
    step: Callable[[Any, Any, Any], Any]
    widths: Callable[[Any], tuple[int, int]]
    recurrent: tuple[str, ...] = ("U",)
    truncate: Callable[[Any], Any] | None = None
    options: tuple[type[Section], ...] = ()
    by_hand: Mapping[str, Passes] = {}


def widths(params: Any) -> tuple[int, int]:
    """D and H of a cell with input weights W and recurrent weights U."""
    return params.W.shape[0], params.U.shape[0]


def make_init_state(state: type[Any]) -> Callable[[Any, int], Any]:
    """The zero state of a layer, every field BxH, in the dtype of its parameters."""

    def init_state(params: Any, batch_size: int) -> Any:
        shape = (batch_size, widths(params)[1])
        # A buffer each, not one for all: the state is donated, and a buffer only once.
        return state(*(jnp.zeros(shape, params.U.dtype) for _ in state._fields))

    return init_state
