"""The gated recurrent unit, forward and backward; gates in the order r z n.

Cho et al. 2014, with the reset gate applied after the product with U_n, as in cuDNN, PyTorch and
Keras (`reset_after`). Axes and marks are those of `lstm`.

Forward.

    (F1)  a_t = (m x_t) W + b
          r = sigmoid(a^r_t + h~_t U_r)                        reset gate
          z = sigmoid(a^z_t + h~_t U_z)                        update gate
    (F2)  q_t = h~_t U_n + b_n
          n = tanh(a^n_t + r_t q_t)                            candidate
    (F3)  h_t = (1 - z_t) n_t + z_t h~_t

Backward. dh_t is all that arrives at h_t.

    (B1)  da^n_t = dh_t (1 - z_t) (1 - n_t^2)
          da^z_t = dh_t (h~_t - n_t) z_t (1 - z_t)
          da^r_t = da^n_t q_t r_t (1 - r_t)
          v_t = [da^r_t, da^z_t, r_t da^n_t]
    (B2)  dh~_t = z_t dh_t + v_t U'
    (B3)  dU = sum_t h~_t' v_t,  db = sum_t da_t,  db_n = sum_t r_t da^n_t
    (B4)  dW = sum_t (m x_t)' da_t,  dx_t = m (da_t W')

It has no truncated rule: a cut at h would cut the way through z as well, which keeps the memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.cell import Cell, make_init_state, widths
from lstm_jax.cells.passes import Calculus, make_passes
from lstm_jax.cells.projection import outer_sum, project, project_backward


class GRUParams(NamedTuple):
    """One layer's parameters."""

    W: Array  # Dx3H, input weights
    U: Array  # Hx3H, recurrent weights
    b: Array  # 3H
    b_n: Array  # H, the candidate's bias inside the reset


class GRUState(NamedTuple):
    """What one layer hands from a step to the next, BxH."""

    h: Array


class Kept(NamedTuple):
    """What (B1) needs of a step, each BxH."""

    r: Array
    z: Array
    n: Array
    q: Array


def init_gru(
    key: Array, input_size: int, hidden_size: int, *, input_bound: float | None = None
) -> GRUParams:
    """Weights uniform in ±1/sqrt(H), as in PyTorch, W in ±`input_bound` if given; biases zero."""
    key_W, key_U = jax.random.split(key)
    H, bound = hidden_size, hidden_size**-0.5
    input_bound = bound if input_bound is None else input_bound
    return GRUParams(
        W=jax.random.uniform(key_W, (input_size, 3 * H), minval=-input_bound, maxval=input_bound),
        U=jax.random.uniform(key_U, (H, 3 * H), minval=-bound, maxval=bound),
        b=jnp.zeros(3 * H),
        b_n=jnp.zeros(H),
    )


def forward(params: GRUParams, before: GRUState, a_Bx3H: Array) -> tuple[GRUState, Kept]:
    """(F1) to (F3); `a_Bx3H` is the input's share."""
    a_r, a_z, a_n = jnp.split(a_Bx3H, 3, axis=-1)
    s_r, s_z, s_n = jnp.split(before.h @ params.U, 3, axis=-1)
    r, z = jax.nn.sigmoid(a_r + s_r), jax.nn.sigmoid(a_z + s_z)
    q = s_n + params.b_n[None]
    n = jnp.tanh(a_n + r * q)
    return GRUState(h=(1 - z) * n + z * before.h), Kept(r, z, n, q)


def step(params: GRUParams, state: GRUState, a_Bx3H: Array) -> GRUState:
    """One step; `a_Bx3H` is the input's share, `x W + b`."""
    return forward(params, state, a_Bx3H)[0]


def backward(U_3HxH: Array, h_before: Array, kept: Kept, d: GRUState) -> tuple[GRUState, Array]:
    """(B1), (B2): what arrives at the state before, and da Bx3H."""
    r, z, n, q = kept
    da_n = d.h * (1 - z) * (1 - n * n)
    da_z = d.h * (h_before - n) * z * (1 - z)
    da_r = da_n * q * r * (1 - r)
    v_Bx3H = jnp.concatenate([da_r, da_z, r * da_n], axis=-1)
    dbefore = GRUState(z * d.h + v_Bx3H @ U_3HxH)
    return dbefore, jnp.concatenate([da_r, da_z, da_n], axis=-1)


def collect(
    params: GRUParams,
    x: Array,
    mask_BxD: Array | None,
    before: GRUState,
    after: GRUState,
    kept: Kept,
    da_TxBx3H: Array,
) -> tuple[GRUParams, Array | None]:
    """(B3), (B4)."""
    da_r, da_z, da_n = jnp.split(da_TxBx3H, 3, axis=-1)
    reset_TxBxH = kept.r * da_n
    v_TxBx3H = jnp.concatenate([da_r, da_z, reset_TxBxH], axis=-1)
    dW, dx_TxBxD = project_backward(params.W, x, mask_BxD, da_TxBx3H)
    dparams = GRUParams(
        W=dW,
        U=outer_sum(before.h, v_TxBx3H),
        b=jnp.sum(da_TxBx3H, (0, 1)),
        b_n=jnp.sum(reset_TxBxH, (0, 1)),
    )
    return dparams, dx_TxBxD


CALCULUS = Calculus(
    forward_weights=lambda params, x: params,
    prepare=project,
    forward=forward,
    reads=lambda before, after: before.h,
    backward_weights=lambda params, x, truncated: lax.optimization_barrier(params.U.T),
    backward=backward,
    collect=collect,
)

GRU = Cell(
    params=GRUParams,
    state=GRUState,
    init=init_gru,
    init_state=make_init_state(GRUState),
    prepare=project,
    step=step,
    widths=widths,
    by_hand={"rows": make_passes(CALCULUS)},
)
