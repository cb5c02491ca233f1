"""One layer forward and backward with a row a lane: the hand-derived backward's plain layout.

The equations are those of `bptt`, cited by their numbers. Blocks are BxG and BxH, as everywhere in
this package; the forward pass is the model's own (`cell.activate`, `cell.advance`,
`projection.project`). `columns` is its twin for CPUs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.lstm import Gates, LSTMParams, LSTMState, activate, advance
from lstm_jax.cells.projection import mask_of_ids, project, reads_ids
from lstm_jax.layer import reset_state
from lstm_jax.meshes import axes_of, result_sharding
from lstm_jax.precision import at_least_float32


class Residuals(NamedTuple):
    """What a layer's backward needs of its forward."""

    x: Array  # what it read: TxBxD, or ids TxB
    gates: Gates  # (F3), each TxBxH
    before: LSTMState  # (F1), the state that each step read, TxBxH
    c: Array  # (F4), TxBxH


def forward(
    params: LSTMParams,
    state: LSTMState,
    x: Array,
    mask_BxD: Array | None,
    resets_TxB: Array | None,
) -> tuple[LSTMState, Array, Residuals]:
    """(F1) to (F5): the final state, the outputs TxBxH, the residuals.

    Args:
      x, mask_BxD: as `projection.project` takes them.
    """

    def step(
        state: LSTMState, inputs: tuple[Array, Array | None]
    ) -> tuple[LSTMState, tuple[LSTMState, Gates]]:
        z_BxG, resets_B = inputs
        if resets_B is not None:
            state = reset_state(state, resets_B)
        gates = activate(z_BxG + state.h @ params.U)
        state = advance(state, gates)
        return state, (state, gates)

    final, (states, gates) = lax.scan(step, state, (project(params, x, mask_BxD), resets_TxB))
    T = x.shape[0]  # may be 0
    before = jax.tree.map(lambda s0, s: jnp.concatenate([s0[None], s[:-1]])[:T], state, states)
    if resets_TxB is not None:
        before = jax.vmap(reset_state)(before, resets_TxB)
    return final, states.h, Residuals(x, gates, before, states.c)


def cell_backward(
    gates: Gates, c_before: Array, c: Array, dh: Array, dc_next: Array
) -> tuple[Gates, Array]:
    """The pointwise calculus of one step: dz of each gate, and what goes to the cell before.

    `dh` is all that arrives at h_t (B3); `dc_next` what arrives at c_t from the step after. All
    blocks are of one shape, BxH or HxB.
    """
    i, f, g, o = gates
    tanh_c = jnp.tanh(c)
    dc = dh * o * (1 - tanh_c * tanh_c) + dc_next  # (B4)
    dz = Gates(  # (B5)
        i=dc * g * i * (1 - i),
        f=dc * c_before * f * (1 - f),
        g=dc * i * (1 - g * g),
        o=dh * tanh_c * o * (1 - o),
    )
    return dz, dc * f


def unroll_backward(
    U_HxG: Array,
    residuals: Residuals,
    resets_TxB: Array | None,
    e_TxBxH: Array,
    dfinal: LSTMState,
    *,
    truncated: bool = False,
) -> tuple[LSTMState, Array]:
    """The reverse scan (B3) to (B5): the gradient of the initial state, and dz TxBxG.

    Args:
      e_TxBxH: what arrives at the outputs from above.
      dfinal: what arrives at the final state.
    """
    # Transposed once, outside the loop, and kept from being folded back into the product.
    U_GxH = lax.optimization_barrier(U_HxG.T)

    def step(
        dnext: LSTMState, inputs: tuple[Gates, Array, Array, Array | None, Array]
    ) -> tuple[LSTMState, Array]:
        gates, c_before, c, resets_B, e_BxH = inputs
        dz, dc_BxH = cell_backward(gates, c_before, c, e_BxH + dnext.h, dnext.c)
        dz_BxG = jnp.concatenate(dz, axis=-1)
        dh_BxH = jnp.zeros_like(dc_BxH) if truncated else dz_BxG @ U_GxH  # (B3)
        dbefore = LSTMState(dh_BxH, dc_BxH)
        if resets_B is not None:
            dbefore = reset_state(dbefore, resets_B)  # k_t: nothing passes a reset
        return dbefore, dz_BxG

    inputs = (residuals.gates, residuals.before.c, residuals.c, resets_TxB, e_TxBxH)
    return lax.scan(step, dfinal, inputs, reverse=True)


def outer_sum(a_TxBxN: Array, b_TxBxM: Array) -> Array:
    """sum_t a_t' b_t over steps and lanes, as one product: NxM."""
    sharding = result_sharding(a_TxBxN, axes_of(a_TxBxN)[2], axes_of(b_TxBxM)[2])
    over_T_and_B = (((0, 1), (0, 1)), ((), ()))
    return lax.dot_general(a_TxBxN, b_TxBxM, over_T_and_B, out_sharding=sharding)


def add_rows(ids_TxB: Array, d_TxBxN: Array, num_rows: int) -> Array:
    """The gradient of looking up rows by id: each d is added to its id's row."""
    dtype = at_least_float32(d_TxBxN.dtype)
    zeros = jnp.zeros((num_rows, d_TxBxN.shape[-1]), dtype)
    sharding = result_sharding(ids_TxB, None, axes_of(d_TxBxN)[2])
    return zeros.at[ids_TxB].add(d_TxBxN.astype(dtype), out_sharding=sharding)


def project_backward(
    params: LSTMParams, x: Array, mask_BxD: Array | None, dz_TxBxG: Array
) -> tuple[Array, Array | None]:
    """(B7): the gradient of W, and of the input x where x is not ids (TxBxD)."""
    if reads_ids(x):
        if mask_BxD is not None:
            dz_TxBxG = dz_TxBxG * mask_of_ids(mask_BxD, x)[..., None]
        return add_rows(x, dz_TxBxG, params.W.shape[0]), None
    masked_TxBxD = x if mask_BxD is None else x * mask_BxD[None]
    dx_TxBxD = dz_TxBxG @ params.W.T
    if mask_BxD is not None:
        dx_TxBxD = dx_TxBxD * mask_BxD[None]
    return outer_sum(masked_TxBxD, dz_TxBxG), dx_TxBxD


def backward(
    params: LSTMParams,
    residuals: Residuals,
    mask_BxD: Array | None,
    resets_TxB: Array | None,
    e_TxBxH: Array,
    dfinal: LSTMState,
    *,
    truncated: bool = False,
) -> tuple[LSTMParams, LSTMState, Array | None]:
    """(B3) to (B7): the gradients of the parameters, the initial state and the input TxBxD.

    Args:
      e_TxBxH: what arrives at the outputs from above.
      dfinal: what arrives at the final state.
    """
    dinitial, dz_TxBxG = unroll_backward(
        params.U, residuals, resets_TxB, e_TxBxH, dfinal, truncated=truncated
    )
    dW, dx_TxBxD = project_backward(params, residuals.x, mask_BxD, dz_TxBxG)
    dU = outer_sum(residuals.before.h, dz_TxBxG)  # (B6)
    return LSTMParams(dW, dU, jnp.sum(dz_TxBxG, (0, 1))), dinitial, dx_TxBxD
