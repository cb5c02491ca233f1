"""The plain recurrent network, forward and backward.

Elman 1990, "Finding structure in time" (Cognitive Science 14), with tanh for its sigmoid. Axes and
marks are those of `lstm`.

Forward.

    (F1)  h_t = tanh((m x_t) W + h~_t U + b)

Backward. dh_t is all that arrives at h_t.

    (B1)  da_t = dh_t (1 - h_t^2)
    (B2)  dh~_t = da_t U'
    (B3)  dU = sum_t h~_t' da_t,  db = sum_t da_t
    (B4)  dW = sum_t (m x_t)' da_t,  dx_t = m (da_t W')

(B2) is all that carries an error back in time: each step multiplies it by U' and by slopes of at
most 1. The truncated rule leaves it out, as Elman did, whose network takes its last state for an
input like any other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.cell import Cell, make_init_state, widths
from lstm_jax.cells.lstm import truncate
from lstm_jax.cells.passes import Calculus, make_passes
from lstm_jax.cells.projection import outer_sum, project, project_backward


class ElmanParams(NamedTuple):
    """One layer's parameters."""

    W: Array  # DxH, input weights
    U: Array  # HxH, recurrent weights
    b: Array  # H


class ElmanState(NamedTuple):
    """What one layer hands from a step to the next, BxH."""

    h: Array


def init_elman(
    key: Array, input_size: int, hidden_size: int, *, input_bound: float | None = None
) -> ElmanParams:
    """Weights uniform in ±1/sqrt(H), as in PyTorch, W in ±`input_bound` if given; bias zero."""
    key_W, key_U = jax.random.split(key)
    H, bound = hidden_size, hidden_size**-0.5
    input_bound = bound if input_bound is None else input_bound
    return ElmanParams(
        W=jax.random.uniform(key_W, (input_size, H), minval=-input_bound, maxval=input_bound),
        U=jax.random.uniform(key_U, (H, H), minval=-bound, maxval=bound),
        b=jnp.zeros(H),
    )


def step(params: ElmanParams, state: ElmanState, a_BxH: Array) -> ElmanState:
    """(F1); `a_BxH` is the input's share, `x W + b`."""
    return ElmanState(jnp.tanh(a_BxH + state.h @ params.U))


def transpose(params: ElmanParams, _: Array, truncated: bool) -> Array | None:
    """U', transposed once, outside the loop. None under the truncated rule."""
    return None if truncated else lax.optimization_barrier(params.U.T)


def backward(U_HxH: Array | None, h_BxH: Array, _: None, d: ElmanState) -> tuple[ElmanState, Array]:
    """(B1), (B2): what arrives at the state before, and da BxH."""
    da_BxH = d.h * (1 - h_BxH * h_BxH)
    return ElmanState(jnp.zeros_like(da_BxH) if U_HxH is None else da_BxH @ U_HxH), da_BxH


def collect(
    params: ElmanParams,
    x: Array,
    mask_BxD: Array | None,
    before: ElmanState,
    after: ElmanState,
    _: None,
    da_TxBxH: Array,
) -> tuple[ElmanParams, Array | None]:
    """(B3), (B4)."""
    dW, dx_TxBxD = project_backward(params.W, x, mask_BxD, da_TxBxH)
    dU = outer_sum(before.h, da_TxBxH)
    return ElmanParams(dW, dU, jnp.sum(da_TxBxH, (0, 1))), dx_TxBxD


CALCULUS = Calculus(
    forward_weights=lambda params, x: params,
    prepare=project,
    forward=lambda params, before, a_BxH: (step(params, before, a_BxH), None),
    reads=lambda before, after: after.h,
    backward_weights=transpose,
    backward=backward,
    collect=collect,
)

ELMAN = Cell(
    params=ElmanParams,
    state=ElmanState,
    init=init_elman,
    init_state=make_init_state(ElmanState),
    prepare=project,
    step=step,
    widths=widths,
    truncate=truncate,
    by_hand={"rows": make_passes(CALCULUS)},
)
