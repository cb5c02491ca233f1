"""The LSTM with peepholes, forward and backward: its gates see the cell state.

Gers and Schmidhuber 2000 (Recurrent nets that time and count). The input and the forget gate read
the cell state before the step, the output gate the one after it. Gates and marks are those of
`lstm`; the weights p act on each unit by itself.

Forward.

    (F1)  z_t = (m x_t) W + h~_t U + b
    (F2)  i = sigmoid(z^i + p_i c~_t), f = sigmoid(z^f + p_f c~_t), g = tanh(z^g)
    (F3)  c_t = f_t c~_t + i_t g_t
    (F4)  o = sigmoid(z^o + p_o c_t)
          h_t = o_t tanh(c_t)

Backward. dh_t and dc_t arrive at the state.

    (B1)  dz^o_t = dh_t tanh(c_t) o_t (1 - o_t)
          dc_t gains dh_t o_t (1 - tanh(c_t)^2) + dz^o_t p_o
    (B2)  dz^i_t = dc_t g_t  i_t (1 - i_t)
          dz^f_t = dc_t c~_t f_t (1 - f_t)
          dz^g_t = dc_t i_t  (1 - g_t^2)
    (B3)  dh~_t = dz_t U',  dc~_t = f_t dc_t + dz^i_t p_i + dz^f_t p_f
    (B4)  dU = sum_t h~_t' dz_t,  db = sum_t dz_t
          dp_i = sum_t dz^i_t c~_t,  dp_f = sum_t dz^f_t c~_t,  dp_o = sum_t dz^o_t c_t
    (B5)  dW = sum_t (m x_t)' dz_t,  dx_t = m (dz_t W')

It has no truncated rule: the paper cuts what the gates see of c as well as of h.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.cell import Cell, widths
from lstm_jax.cells.lstm import Forgetting, init_lstm, init_state
from lstm_jax.cells.lstm_gates import Gates, LSTMState
from lstm_jax.cells.passes import Calculus, make_passes
from lstm_jax.cells.projection import outer_sum, project, project_backward


class PeepholeParams(NamedTuple):
    """One layer's parameters."""

    W: Array  # DxG, input weights
    U: Array  # HxG, recurrent weights
    b: Array  # G
    p_i: Array  # H, what the input gate sees of the cell state before
    p_f: Array  # H, and the forget gate
    p_o: Array  # H, what the output gate sees of the new cell state


def init_peephole(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = Forgetting.forget_bias,
    input_bound: float | None = None,
) -> PeepholeParams:
    """As `init_lstm`; the peepholes uniform in ±1/sqrt(H) too."""
    key_lstm, *keys = jax.random.split(key, 4)
    lstm = init_lstm(
        key_lstm, input_size, hidden_size, forget_bias=forget_bias, input_bound=input_bound
    )
    bound = hidden_size**-0.5
    return PeepholeParams(
        *lstm, *(jax.random.uniform(k, (hidden_size,), minval=-bound, maxval=bound) for k in keys)
    )


def forward(params: PeepholeParams, before: LSTMState, z_BxG: Array) -> tuple[LSTMState, Gates]:
    """(F1) to (F4); `z_BxG` is the input's share."""
    z_i, z_f, z_g, z_o = jnp.split(z_BxG + before.h @ params.U, 4, axis=-1)
    i = jax.nn.sigmoid(z_i + params.p_i[None] * before.c)
    f = jax.nn.sigmoid(z_f + params.p_f[None] * before.c)
    g = jnp.tanh(z_g)
    c = f * before.c + i * g
    o = jax.nn.sigmoid(z_o + params.p_o[None] * c)
    return LSTMState(h=o * jnp.tanh(c), c=c), Gates(i, f, g, o)


def step(params: PeepholeParams, state: LSTMState, z_BxG: Array) -> LSTMState:
    """One step; `z_BxG` is the input's share, `x W + b`."""
    return forward(params, state, z_BxG)[0]


class Weights(NamedTuple):
    """What a backward step multiplies by."""

    U_GxH: Array
    p_i: Array
    p_f: Array
    p_o: Array


def backward_weights(params: PeepholeParams, _: Array, truncated: bool) -> Weights:
    return Weights(lax.optimization_barrier(params.U.T), params.p_i, params.p_f, params.p_o)


def backward(
    weights: Weights, read: tuple[Array, Array], gates: Gates, d: LSTMState
) -> tuple[LSTMState, Array]:
    """(B1) to (B3): what arrives at the state before, and dz BxG."""
    i, f, g, o = gates
    c_before, c = read
    tanh_c = jnp.tanh(c)
    dz_o = d.h * tanh_c * o * (1 - o)
    dc = d.c + d.h * o * (1 - tanh_c * tanh_c) + dz_o * weights.p_o[None]
    dz_i = dc * g * i * (1 - i)
    dz_f = dc * c_before * f * (1 - f)
    dz_g = dc * i * (1 - g * g)
    dz_BxG = jnp.concatenate([dz_i, dz_f, dz_g, dz_o], axis=-1)
    dc_before = f * dc + dz_i * weights.p_i[None] + dz_f * weights.p_f[None]
    return LSTMState(dz_BxG @ weights.U_GxH, dc_before), dz_BxG


def collect(
    params: PeepholeParams,
    x: Array,
    mask_BxD: Array | None,
    before: LSTMState,
    after: LSTMState,
    gates: Gates,
    dz_TxBxG: Array,
) -> tuple[PeepholeParams, Array | None]:
    """(B4), (B5)."""
    dz_i, dz_f, _, dz_o = jnp.split(dz_TxBxG, 4, axis=-1)
    dW, dx_TxBxD = project_backward(params.W, x, mask_BxD, dz_TxBxG)
    dparams = PeepholeParams(
        W=dW,
        U=outer_sum(before.h, dz_TxBxG),
        b=jnp.sum(dz_TxBxG, (0, 1)),
        p_i=jnp.sum(dz_i * before.c, (0, 1)),
        p_f=jnp.sum(dz_f * before.c, (0, 1)),
        p_o=jnp.sum(dz_o * after.c, (0, 1)),
    )
    return dparams, dx_TxBxD


CALCULUS = Calculus(
    forward_weights=lambda params, x: params,
    prepare=project,
    forward=forward,
    reads=lambda before, after: (before.c, after.c),
    backward_weights=backward_weights,
    backward=backward,
    collect=collect,
)

PEEPHOLE = Cell(
    params=PeepholeParams,
    state=LSTMState,
    init=init_peephole,
    init_state=init_state,
    prepare=project,
    step=step,
    widths=widths,
    options=(Forgetting,),
    by_hand={"rows": make_passes(CALCULUS)},
)
