"""The kernels as a layer's passes, with the signatures of `rows` in `lstm_jax.cells.lstm`.

They take the kernels where these suit, and are `rows` everywhere else, so that they can stand for
it: one entry in `LSTM.by_hand`, and one branch for CUDA in `bptt.in_best_layout`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.studies.persistent import kernels
from experiments.studies.persistent.kernels import TILES, Tiles
from lstm_jax.cells.cell import Marks, Passes
from lstm_jax.cells.lstm import LSTM, collect
from lstm_jax.cells.lstm_gates import Gates, LSTMParams, LSTMState
from lstm_jax.cells.passes import ROWS, Residuals, shift
from lstm_jax.cells.projection import project

BY_ROWS = LSTM.by_hand[ROWS.name]
# The values of `jax.default_matmul_precision` that ask for more than a product of TF32.
PRECISE = ("highest", "high", "float32", "tensorfloat32_x3", "F32_F32_F32", "TF32_TF32_F32_X3")


class Kernels(NamedTuple):
    """The two, or whatever stands for them."""

    forward: Callable[..., kernels.Forward]
    backward: Callable[..., kernels.Backward]


class Kept(NamedTuple):
    """What the backward needs of the forward."""

    x: Array
    start: LSTMState
    h: Array  # TxBxH
    c: Array  # TxBxH
    gates: Array  # TxBxG


CUDA = Kernels(kernels.forward, kernels.backward)


def first_tiles(B: int, H: int) -> Tiles | None:
    """The tiles for a shape; None: there are none."""
    return TILES[B, H][0] if (B, H) in TILES else None


def choose_tiles(
    choose: Callable[[int, int], Tiles | None], params: LSTMParams, x: Array, marks: Marks
) -> Tiles | None:
    """The tiles to take; None: rows, because something does not suit."""
    T, B = x.shape[:2]
    plain = marks.live is None and marks.zoneout is None
    narrow_or_wide = params.U.dtype != jnp.float32
    return choose(B, params.U.shape[0]) if plain and T and not narrow_or_wide else None


def wants_precise() -> bool:
    """Whether products shall have the bits of float32, by JAX's own setting."""
    return jax.config.jax_default_matmul_precision in PRECISE  # type: ignore[attr-defined]


def resets_of(x: Array, marks: Marks) -> Array:
    """TxB, as the kernels read them."""
    if marks.resets is None:
        return jnp.zeros(x.shape[:2], jnp.uint8)
    return marks.resets.astype(jnp.uint8)


def forward_in_kernel(
    run: Kernels,
    choose: Callable[[int, int], Tiles | None],
    params: Any,
    state: LSTMState,
    x: Array,
    mask_BxD: Array | None,
    marks: Marks,
) -> tuple[LSTMState, Array, Any]:
    """`Passes.forward`."""
    tiles = choose_tiles(choose, params, x, marks)
    if tiles is None:
        return BY_ROWS.forward(params, state, x, mask_BxD, marks)
    xw_TxBxG = project(params, x, mask_BxD)
    inputs = (xw_TxBxG, params.U, state.h, state.c, resets_of(x, marks))
    got = run.forward(tiles.forward, *inputs, precise=wants_precise())
    return LSTMState(got.h[-1], got.c[-1]), got.h, Kept(x, state, got.h, got.c, got.gates)


def as_rows(kept: Kept, marks: Marks) -> Residuals:
    """The same as rows would have kept it."""
    states, gates = LSTMState(kept.h, kept.c), Gates(*jnp.split(kept.gates, 4, axis=-1))
    return Residuals(kept.x, shift(kept.start, states, marks, ROWS), states, gates)


def backward_in_kernel(
    run: Kernels,
    choose: Callable[[int, int], Tiles | None],
    params: LSTMParams,
    kept: Kept | Residuals,
    mask_BxD: Array | None,
    marks: Marks,
    e: Array,
    dfinal: LSTMState,
    *,
    truncated: bool = False,
) -> tuple[LSTMParams, LSTMState, Array | None]:
    """`Passes.backward`."""
    if isinstance(kept, Residuals):
        return BY_ROWS.backward(params, kept, mask_BxD, marks, e, dfinal, truncated=truncated)
    tiles, rows = choose_tiles(choose, params, kept.x, marks), as_rows(kept, marks)
    if truncated or tiles is None:  # the truncated rule has no product in its loop
        return BY_ROWS.backward(params, rows, mask_BxD, marks, e, dfinal, truncated=truncated)
    inputs = (kept.gates, kept.c, kept.start.c, params.U, e, dfinal.h, dfinal.c)
    resets = resets_of(kept.x, marks)
    got = run.backward(tiles.backward, *inputs, resets, precise=wants_precise())
    dparams, dx = collect(params, kept.x, mask_BxD, rows.before, rows.after, rows.kept, got.dz)
    return dparams, LSTMState(got.dh, got.dc), dx


def make_persistent(
    run: Kernels = CUDA, choose: Callable[[int, int], Tiles | None] = first_tiles
) -> Passes:
    """A layer's passes.

    Args:
      run: the kernels, or what computes the same elsewhere.
      choose: (B, H) -> the tiles for them, or None.
    """
    return Passes(partial(forward_in_kernel, run, choose), partial(backward_in_kernel, run, choose))
