"""One layer with its backward by hand, for a model of your own."""

from typing import Any

import jax
from jax import Array

from lstm_jax.cells import cell_of
from lstm_jax.cells.cell import Marks
from lstm_jax.cells.passes import ROWS, blank
from lstm_jax.gradients.bptt import in_dtypes_of, passes_of
from lstm_jax.gradients.known import missing_by_hand
from lstm_jax.layer import check_shapes, in_direction
from lstm_jax.meshes import split_alike, vary_alike


def bptt_layer(
    params: Any,
    state: Any,
    x: Array,
    resets_TxB: Array | None = None,
    lengths_B: Array | None = None,
    *,
    reverse: bool = False,
) -> tuple[Any, Array]:
    """One layer for a model of your own: `layer.unroll`, with the cell's backward by hand.

    Composes with jit, vmap, shard_map, Explicit meshes and reverse-mode differentiation of any loss
    on top. Forward mode (jax.jvp, jax.jacfwd) raises a TypeError: only the reverse derivative is
    known here. Each gradient is of the dtype of what it is the gradient of.

    Args:
      params: one layer's parameters, such as `cells.lstm.init_lstm` makes, of any float dtype.
      state: the initial state, B first, of the widest dtype; it has a gradient too.
      x: TxBxD of any float dtype, or integer ids TxB.
      resets_TxB: True where a lane starts from the zero state before it reads x[t]; None: nowhere.
      lengths_B: how many steps of each lane count. After them the state stays and outputs are 0.
        None: all.
      reverse: each lane is read from its last step to its first.

    Returns:
      The final state and the outputs TxBxH; both may be differentiated.

    Raises ValueError, with all shapes, where they do not fit, and TypeError for a state that is
    narrower than the rest, or a cell that has no backward by hand. Each cell's file has its
    equations and names its source.

        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> params = lstm_jax.init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
        >>> state = lstm_jax.CELLS["lstm"].init_state(params, 2)  # of 2 lanes
        >>> def loss(params):
        ...     _, h_TxBxH = lstm_jax.bptt_layer(params, state, jnp.ones((7, 2, 3)))
        ...     return jnp.mean(h_TxBxH**2)
        >>> jax.grad(loss)(params).U.shape
        (5, 20)
    """
    if missing := missing_by_hand([cell_of(params)]):
        raise TypeError(f"the backward by hand is {missing}: take layer.unroll")
    marks = Marks(resets_TxB)
    return in_direction(run_by_hand, params, state, x, None, marks, lengths_B, reverse=reverse)


def run_by_hand(
    params: Any, state: Any, x: Array, _: Array | None, marks: Marks
) -> tuple[Any, Array]:
    """`layer.run` by hand."""
    check_shapes(params, state, x, marks=marks)
    state, x, marks = split_alike(state, x, marks)
    x = blank(x, marks.live)
    return _layer(*vary_alike((params, state, x, marks)))


@jax.custom_vjp
def _layer(params: Any, state: Any, x: Array, marks: Marks) -> tuple[Any, Array]:
    """`run_by_hand`, of arguments that lie alike."""
    return _layer_forward(params, state, x, marks)[0]


def _layer_forward(
    params: Any, state: Any, x: Array, marks: Marks
) -> tuple[tuple[Any, Array], tuple]:
    final, h_TxBxH, residuals = passes_of(ROWS, params).forward(params, state, x, None, marks)
    return (final, h_TxBxH), (params, x, residuals, marks)


def _layer_backward(kept: tuple, d: tuple[Any, Array]) -> tuple[Any, Any, Array | None, None]:
    params, x, residuals, marks = kept
    dfinal, dh_TxBxH = d
    backward = passes_of(ROWS, params).backward
    dparams, dinitial, dx = backward(params, residuals, None, marks, dh_TxBxH, dfinal)
    dx = None if dx is None else dx.astype(x.dtype)
    return in_dtypes_of(params, dparams), dinitial, dx, None


_layer.defvjp(_layer_forward, _layer_backward)
