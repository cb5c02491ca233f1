"""One layer forward and backward with a column a lane: the hand-derived backward's layout for CPUs.

The equations are those of `bptt`, cited by their numbers; `rows` is the plain twin. What differs is
how the loops over time lay out their blocks: HxB instead of BxH, and each gate a block of its own
instead of a quarter of BxG. On a CPU the weights as the left factor are not packed anew at every
step, which makes the recurrent products up to twice as fast, and no pointwise loop reads or writes
a slice, which XLA would not vectorise. With its products at their best inside the loop, a layer
takes the input's share of z and the error for the layer below there too: no TxBxG block of
projected inputs is ever written.

Sequences are TxDxB here; `to_columns` and `to_rows` are the way in and out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.lstm import Gates, LSTMParams, LSTMState, advance
from lstm_jax.cells.projection import mask_of_ids, reads_ids
from lstm_jax.cells.rows import add_rows, cell_backward
from lstm_jax.meshes import axes_of, result_sharding


class Residuals(NamedTuple):
    """What a layer's backward needs of its forward."""

    x: Array  # what it read, dropped already: TxDxB, or ids TxB
    gates: Gates  # (F3), each TxHxB
    before: LSTMState  # (F1), the state that each step read, TxHxB
    c: Array  # (F4), TxHxB


def to_columns(a_TxBxD: Array) -> Array:
    """TxBxD as TxDxB; and a state's BxH as HxB."""
    return jnp.swapaxes(a_TxBxD, -1, -2)


to_rows = to_columns  # the way back is the same


def split_gates(w_NxG: Array) -> Gates:
    """The four NxH blocks of weights, or of a bias G."""
    return Gates(*jnp.split(w_NxG, 4, axis=-1))


def join_gates(blocks: Gates) -> Array:
    """The blocks' NxG again."""
    return jnp.concatenate(blocks, axis=-1)


def sigmoid(z: Array) -> Array:
    """By tanh, which XLA's CPU code vectorises better than an exponential and a division."""
    return 0.5 * jnp.tanh(0.5 * z) + 0.5


def activate(z: Gates) -> Gates:
    """(F3)"""
    return Gates(i=sigmoid(z.i), f=sigmoid(z.f), g=jnp.tanh(z.g), o=sigmoid(z.o))


def reset_columns(state: LSTMState, resets_B: Array | None) -> LSTMState:
    """The state with the columns named by the boolean `resets_B` set to zero."""
    if resets_B is None:
        return state
    return LSTMState(
        *(jnp.where(lax.broadcast_to_rank(resets_B, s_HxB.ndim), 0, s_HxB) for s_HxB in state)
    )


def make_read(params: LSTMParams, x: Array) -> Callable[[Array, Array | None, Array], Gates]:
    """(F2) of a step: what it read of x, the mask of an id's row, and h before -> z, each HxB."""
    b = Gates(*(b_H[:, None] for b_H in split_gates(params.b)))
    # Transposed once, before the loop, and kept from being folded back into the product.
    W, U = lax.optimization_barrier(
        tuple(Gates(*(block.T for block in split_gates(w))) for w in (params.W, params.U))
    )

    def read_id(id_B: Array, drop_B: Array | None, h_HxB: Array) -> Gates:
        sharding = result_sharding(id_B, None, *axes_of(id_B))

        def read(W_HxV: Array, U_HxH: Array, b_Hx1: Array) -> Array:
            picked_HxB = W_HxV.at[:, id_B].get(out_sharding=sharding)
            if drop_B is not None:
                picked_HxB = picked_HxB * drop_B[None]
            return U_HxH @ h_HxB + picked_HxB + b_Hx1

        return Gates(*map(read, W, U, b))

    joined = lax.optimization_barrier(Gates(*map(lambda W, U: jnp.hstack([W, U]), W, U)))

    def read_block(x_DxB: Array, _: None, h_HxB: Array) -> Gates:
        both = jnp.concatenate([x_DxB, h_HxB])
        return Gates(*(w @ both + b_Hx1 for w, b_Hx1 in zip(joined, b, strict=True)))

    return read_id if reads_ids(x) else read_block


def forward(
    params: LSTMParams,
    state: LSTMState,
    x: Array,
    mask_BxD: Array | None,
    resets_TxB: Array | None,
) -> tuple[LSTMState, Array, Residuals]:
    """(F1) to (F5): the final state (BxH), the outputs TxHxB, the residuals.

    Args:
      x: TxDxB, or ids TxB; `mask_BxD` acts on it as in `projection.multiply`.
    """
    drops_TxB = None
    if mask_BxD is not None and reads_ids(x):
        drops_TxB = mask_of_ids(mask_BxD, x)
    elif mask_BxD is not None:
        x = x * mask_BxD.T[None]
    read = make_read(params, x)

    def step(state: LSTMState, inputs: tuple) -> tuple[LSTMState, tuple[LSTMState, Gates]]:
        x_t, drop_B, resets_B = inputs
        state = reset_columns(state, resets_B)
        gates = activate(read(x_t, drop_B, state.h))
        state = advance(state, gates)  # (F4), (F5)
        return state, (state, gates)

    start = LSTMState(*map(to_columns, state))
    final, (states, gates) = lax.scan(step, start, (x, drops_TxB, resets_TxB))
    T = x.shape[0]  # may be 0
    before = jax.tree.map(lambda s0, s: jnp.concatenate([s0[None], s[:-1]])[:T], start, states)
    if resets_TxB is not None:
        before = reset_columns(before, resets_TxB[:, None])
    return LSTMState(*map(to_rows, final)), states.h, Residuals(x, gates, before, states.c)


def unroll_backward(
    weights: Gates, residuals: Residuals, resets_TxB: Array | None, e_TxHxB: Array, dfinal: Any
) -> tuple[LSTMState, tuple[Gates, Array]]:
    """The reverse scan (B3) to (B5): the gradient of the initial state, dz and dx, all TxNxB.

    Args:
      weights: what takes each gate's dz to the input and to h before: (D+H)xH; HxH where the input
        is ids, which have no gradient. The rows to h are 0 in the truncated rule.
    """
    H = e_TxHxB.shape[1]
    D = weights.i.shape[0] - H

    def step(dnext: LSTMState, inputs: tuple) -> tuple[LSTMState, tuple[Gates, Array]]:
        gates, c_before, c, resets_B, e_HxB = inputs
        dz, dc_HxB = cell_backward(gates, c_before, c, e_HxB + dnext.h, dnext.c)
        d = sum(w @ dz_HxB for w, dz_HxB in zip(weights, dz, strict=True))
        dx_DxB, dh_HxB = d[:D], d[D:]  # (B7), (B3)
        # k_t: nothing passes a reset
        return reset_columns(LSTMState(dh_HxB, dc_HxB), resets_B), (dz, dx_DxB)

    inputs = (residuals.gates, residuals.before.c, residuals.c, resets_TxB, e_TxHxB)
    return lax.scan(step, dfinal, inputs, reverse=True)


def backward(
    params: LSTMParams,
    residuals: Residuals,
    mask_BxD: Array | None,
    resets_TxB: Array | None,
    e_TxHxB: Array,
    dfinal: LSTMState,
    *,
    truncated: bool = False,
) -> tuple[LSTMParams, LSTMState, Array | None]:
    """(B3) to (B7): the gradients of the parameters, the initial state (BxH) and the input TxDxB.

    Args:
      e_TxHxB: what arrives at the outputs from above.
      dfinal: what arrives at the final state, BxH.
    """
    x, ids = residuals.x, reads_ids(residuals.x)
    U_HxG = jnp.zeros_like(params.U) if truncated else params.U
    weights = lax.optimization_barrier(
        split_gates(U_HxG if ids else jnp.concatenate([params.W, U_HxG]))
    )
    dstart, (dz, dx_TxDxB) = unroll_backward(
        weights, residuals, resets_TxB, e_TxHxB, LSTMState(*map(to_columns, dfinal))
    )
    dinitial = LSTMState(*map(to_rows, dstart))
    db_G = join_gates(Gates(*(jnp.sum(dz_TxHxB, (0, 2)) for dz_TxHxB in dz)))  # (B6)
    if ids:
        dU_HxG = outer_sum(residuals.before.h, dz)  # (B6)
        dz_TxBxG = join_gates(Gates(*map(to_rows, dz)))
        if mask_BxD is not None:
            dz_TxBxG = dz_TxBxG * mask_of_ids(mask_BxD, x)[..., None]
        dW_VxG = add_rows(x, dz_TxBxG, params.W.shape[0])  # (B7)
        return LSTMParams(dW_VxG, dU_HxG, db_G), dinitial, None
    both_TxDHxB = jnp.concatenate([x, residuals.before.h], axis=1)
    dW_DxG, dU_HxG = jnp.split(outer_sum(both_TxDHxB, dz), [x.shape[1]])  # (B6), (B7)
    if mask_BxD is not None:
        dx_TxDxB = dx_TxDxB * mask_BxD.T[None]
    return LSTMParams(dW_DxG, dU_HxG, db_G), dinitial, dx_TxDxB


def outer_sum(a_TxNxB: Array, b: Gates) -> Array:
    """sum_t a_t b_t' over steps and lanes, one product for each gate's TxHxB: NxG."""
    over_T_and_B = (((0, 2), (0, 2)), ((), ()))
    sharding = result_sharding(a_TxNxB, axes_of(a_TxNxB)[1], axes_of(b.i)[1])

    def product(b_TxHxB: Array) -> Array:
        return lax.dot_general(a_TxNxB, b_TxHxB, over_T_and_B, out_sharding=sharding)

    return join_gates(Gates(*map(product, b)))
