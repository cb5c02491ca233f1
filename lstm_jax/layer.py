"""One LSTM layer over time: a cell of some kind, unrolled by `lax.scan`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.coupled import CoupledParams, coupled_step
from lstm_jax.cells.layer_norm import LayerNormParams, layer_norm_step, project_normalized
from lstm_jax.cells.lstm import LSTMParams, LSTMState, activate, advance
from lstm_jax.cells.mogrifier import MogrifierParams, drop_inputs, mogrifier_step
from lstm_jax.cells.projection import project, reads_ids
from lstm_jax.cells.zoneout import zone_out
from lstm_jax.meshes import split_lanes, vary_alike

LayerParams = LSTMParams | CoupledParams | LayerNormParams | MogrifierParams


class Cell(NamedTuple):
    """How one kind of cell runs over a sequence.

    prepare: (params, x, mask_BxD) -> TxBxN, all that does not depend on the state, at once; `x` and
      the mask as `projection.multiply` takes them.
    step: (params, state, prepared BxN) -> the next state.
    """

    prepare: Callable[[Any, Array, Array | None], Array]
    step: Callable[[Any, LSTMState, Array], LSTMState]


def lstm_step(params: LSTMParams, state: LSTMState, z_BxG: Array) -> LSTMState:
    """`cell.cell_step`, with the input's share `x W + b` at hand."""
    return advance(state, activate(z_BxG + state.h @ params.U))


# The parameters' type says which kind a layer is.
CELLS: dict[type, Cell] = {
    LSTMParams: Cell(project, lstm_step),
    CoupledParams: Cell(project, coupled_step),
    LayerNormParams: Cell(project_normalized, layer_norm_step),
    MogrifierParams: Cell(drop_inputs, mogrifier_step),
}


def reset_state(state: LSTMState, resets_B: Array) -> LSTMState:
    """The state with the lanes named by the boolean `resets_B` set to zero."""
    return LSTMState(*(jnp.where(resets_B[:, None], 0, s_BxH) for s_BxH in state))


def check_shapes(
    params: LayerParams,
    state: LSTMState,
    x: Array,
    resets_TxB: Array | None = None,
    mask_BxD: Array | None = None,
) -> None:
    """Raises ValueError for shapes that a layer cannot run over, some of which would broadcast."""
    (D, G), H = params.W.shape, params.U.shape[0]
    T, B = x.shape[:2] if x.ndim >= 2 else (None, None)
    good = (
        params.U.shape == (H, G)
        and params.b.shape == (G,)
        and x.shape == ((T, B) if reads_ids(x) else (T, B, D))
        and all(s.shape == (B, H) for s in state)
        and (resets_TxB is None or resets_TxB.shape == (T, B))
        and (mask_BxD is None or mask_BxD.shape == (B, D))
    )
    if good:
        return
    shapes = {"h_BxH": state.h, "c_BxH": state.c, "resets_TxB": resets_TxB, "mask_BxD": mask_BxD}
    others = [f"{name} {a.shape}" for name, a in shapes.items() if a is not None]
    raise ValueError(
        f"x_TxBxD (or ids TxB) {x.shape} does not fit {', '.join(others)} and parameters W "
        f"{params.W.shape}, U {params.U.shape}, b {params.b.shape}, so D={D}, H={H}: time is the "
        "first axis, and the lanes the second"
    )


def unroll(
    params: LayerParams,
    state: LSTMState,
    x: Array,
    *,
    mask_BxD: Array | None = None,
    resets_TxB: Array | None = None,
    stay: LSTMState | None = None,
    truncated: bool = False,
) -> tuple[LSTMState, Array]:
    """Runs the layer over a sequence. The scan stands for this loop:

        for t in range(T):
            state = reset_state(state, resets_TxB[t])
            state = cell_step(params, state, x[t] * mask_BxD)
            h_TxBxH[t] = state.h

    Args:
      x, mask_BxD: as `projection.multiply` takes them.
      resets_TxB: True where a lane starts afresh before it reads x[t]. None: nowhere.
      stay: zoneout, TxBxH (or 1x1x1: the same for all) in each field. None: none.
      truncated: error goes back in time through the cell state alone (`bptt`, B3).

    Returns:
      The state after the last step, and the outputs TxBxH.

    Raises ValueError, with all shapes, where they do not fit.
    """
    cell = CELLS[type(params)]

    def step(
        before: LSTMState, inputs: tuple[Array, Array | None, LSTMState | None]
    ) -> tuple[LSTMState, Array]:
        prepared, resets_B, stay = inputs
        if resets_B is not None:
            before = reset_state(before, resets_B)
        read = before._replace(h=lax.stop_gradient(before.h)) if truncated else before
        state = cell.step(params, read, prepared)
        if stay is not None:
            state = zone_out(before, state, stay)
        return state, state.h

    check_shapes(params, state, x, resets_TxB, mask_BxD)
    state = vary_alike(split_lanes(state, x), params, x, mask_BxD, resets_TxB, stay)
    T = x.shape[0]
    stay = jax.tree.map(lambda k: jnp.broadcast_to(k, (T, *k.shape[1:])), stay)
    return lax.scan(step, state, (cell.prepare(params, x, mask_BxD), resets_TxB, stay))
