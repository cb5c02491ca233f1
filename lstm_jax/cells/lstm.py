"""The LSTM, forward and backward.

Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000 and
without peepholes. Axes: B batch, D input, H hidden, G = 4H gates in the order i f g o.

Forward. The lane index is left out, and products of vectors are elementwise. ~ marks the state that
step t reads; m is a dropout mask (1 where there is none).

    (F1)  z_t  = (m x_t) W + h~_t U + b
    (F2)  i = sigmoid(z^i), f = sigmoid(z^f), g = tanh(z^g), o = sigmoid(z^o)
    (F3)  c_t  = f_t c~_t + i_t g_t
    (F4)  h_t  = o_t tanh(c_t)

Backward. dv stands for the derivative of the loss by v. dh_t and dc_t arrive at the state; `passes`
says what they are made of.

    (B1)  dc_t gains dh_t o_t (1 - tanh(c_t)^2)
    (B2)  dz^i_t = dc_t g_t  i_t (1 - i_t)
          dz^f_t = dc_t c~_t f_t (1 - f_t)
          dz^g_t = dc_t i_t  (1 - g_t^2)
          dz^o_t = dh_t tanh(c_t) o_t (1 - o_t)
    (B3)  dh~_t  = dz_t U',  dc~_t = f_t dc_t
    (B4)  dU = sum_t h~_t' dz_t,  db = sum_t dz_t
    (B5)  dW = sum_t (m x_t)' dz_t; for an id: dz_t, times m, is added to the id's row
          dx_t = m (dz_t W')

Only (B1) to (B3) run from step to step. The rest is one elementwise pass or one large product over
all of T and B.

The truncated rule leaves dz_t U' out of (B3): the error goes back in time through the cell state
alone. It is the rule of Hochreiter and Schmidhuber 1997 (appendix A), whose gates saw no error from
later steps either.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.cell import Cell, make_init_state, widths
from lstm_jax.cells.lstm_columns import COLUMNS_CALCULUS
from lstm_jax.cells.lstm_gates import (
    Gates,
    LSTMParams,
    LSTMState,
    activate,
    advance,
    gates_backward,
)
from lstm_jax.cells.passes import COLUMNS, ROWS, Calculus, make_passes
from lstm_jax.cells.projection import outer_sum, project, project_backward
from lstm_jax.options import Section, option


@dataclass(frozen=True)
class Forgetting(Section):
    """Options of cells with a forget gate."""

    forget_bias: float = option(1.0, "initial bias of the forget gate", low=-100, high=100)
    chrono: int = option(
        0,
        "initial biases of the input and forget gates for lags of up to so many steps, drawn, in "
        "place of model.forget_bias; 0: none",
        low=0,
        high=10**7,
    )


@dataclass(frozen=True)
class Start(Section):
    """An option of the LSTM, and of the readout beside it."""

    init: str = option("uniform", "initial weights", choices=("uniform", "notebook"))


def init_lstm(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = Forgetting.forget_bias,
    chrono: int = Forgetting.chrono,
    input_bound: float | None = None,
    init: str = Start.init,
) -> LSTMParams:
    """Weights uniform in ±1/sqrt(H), as in PyTorch; biases of `init_bias`.

    Args:
      input_bound: the bound of the input weights W where 1/sqrt(H) does not suit the input.
      init: `notebook` for the weights that the notebook started from (`init_notebook`).
    """
    key_W, key_U, key_b = jax.random.split(key, 3)
    b_G = init_bias(key_b, hidden_size, forget_bias, chrono)
    if init == "notebook":
        return init_notebook(key, input_size, hidden_size)._replace(b=b_G)
    G, bound = 4 * hidden_size, hidden_size**-0.5
    input_bound = bound if input_bound is None else input_bound
    return LSTMParams(
        W=jax.random.uniform(key_W, (input_size, G), minval=-input_bound, maxval=input_bound),
        U=jax.random.uniform(key_U, (hidden_size, G), minval=-bound, maxval=bound),
        b=b_G,
    )


def init_bias(key: Array, hidden_size: int, forget_bias: float, chrono: int) -> Array:
    """Zero, G, but for the gates of the cell.

    A positive bias of the forget gate lets the error flow through the cell from the first step on
    (Jozefowicz, Zaremba and Sutskever 2015, section 2.2). With `chrono` steps each unit has a lag
    of its own, uniform from 1 to chrono - 1: its forget gate's bias is the logarithm of that, and
    its input gate's the negative (Tallec and Ollivier 2018, "Can recurrent neural networks warp
    time?").
    """
    H = hidden_size
    b_G, forget = jnp.zeros(4 * H), slice(H, 2 * H)
    if not chrono:
        return b_G.at[forget].set(forget_bias)
    b_H = jnp.log(jax.random.uniform(key, (H,), minval=1.0, maxval=max(chrono - 1.0, 1.0)))
    return b_G.at[:H].set(-b_H).at[forget].set(b_H)


def init_notebook(key: Array, input_size: int, hidden_size: int) -> LSTMParams:
    """The notebook's start: every weight normal with deviation 0.1, and those of the three sigmoid
    gates shifted by +0.5; bias zero."""
    key_W, key_U = jax.random.split(key)
    G = 4 * hidden_size
    shift_G = jnp.repeat(jnp.array([0.5, 0.5, 0.0, 0.5]), hidden_size)
    return LSTMParams(
        W=0.1 * jax.random.normal(key_W, (input_size, G)) + shift_G,
        U=0.1 * jax.random.normal(key_U, (hidden_size, G)) + shift_G,
        b=jnp.zeros(G),
    )


init_state = make_init_state(LSTMState)


def cell_step(params: LSTMParams, state: LSTMState, x_BxD: Array) -> LSTMState:
    """One step of one layer; the output is the `h` of the state it returns."""
    z_BxG = x_BxD @ params.W + state.h @ params.U
    return advance(state, activate(z_BxG + lax.broadcast_to_rank(params.b, z_BxG.ndim)))


def step(params: LSTMParams, state: LSTMState, z_BxG: Array) -> LSTMState:
    """`cell_step`, with the input's share `x W + b` at hand."""
    return advance(state, activate(z_BxG + state.h @ params.U))


def truncate(state: LSTMState) -> LSTMState:
    """The state of which the next step's gates see no more than the value of h."""
    return state._replace(h=lax.stop_gradient(state.h))


def forward(U_HxG: Array, before: LSTMState, z_BxG: Array) -> tuple[LSTMState, Gates]:
    """(F1) to (F4)."""
    gates = activate(z_BxG + before.h @ U_HxG)
    return advance(before, gates), gates


def transpose(params: LSTMParams, _: Array, truncated: bool) -> Array | None:
    """U', GxH: transposed once, outside the loop, and kept from being folded back into the
    product. None under the truncated rule."""
    return None if truncated else lax.optimization_barrier(params.U.T)


def backward(
    U_GxH: Array | None, read: tuple[Array, Array], gates: Gates, d: LSTMState
) -> tuple[LSTMState, Array]:
    """(B1) to (B3): what arrives at the state before, and dz BxG."""
    c_before, c = read
    dz, dc_BxH = gates_backward(gates, c_before, c, d.h, d.c)
    dz_BxG = jnp.concatenate(dz, axis=-1)
    dh_BxH = jnp.zeros_like(dc_BxH) if U_GxH is None else dz_BxG @ U_GxH
    return LSTMState(dh_BxH, dc_BxH), dz_BxG


def collect(
    params: LSTMParams,
    x: Array,
    mask_BxD: Array | None,
    before: LSTMState,
    after: LSTMState,
    gates: Gates,
    dz_TxBxG: Array,
) -> tuple[LSTMParams, Array | None]:
    """(B4), (B5)."""
    dW, dx_TxBxD = project_backward(params.W, x, mask_BxD, dz_TxBxG)
    dU = outer_sum(before.h, dz_TxBxG)
    return LSTMParams(dW, dU, jnp.sum(dz_TxBxG, (0, 1))), dx_TxBxD


ROWS_CALCULUS = Calculus(
    forward_weights=lambda params, x: params.U,
    prepare=project,
    forward=forward,
    reads=lambda before, after: (before.c, after.c),
    backward_weights=transpose,
    backward=backward,
    collect=collect,
)

LSTM = Cell(
    params=LSTMParams,
    state=LSTMState,
    init=init_lstm,
    init_state=init_state,
    prepare=project,
    step=step,
    widths=widths,
    truncate=truncate,
    options=(Forgetting, Start),
    by_hand={
        "rows": make_passes(ROWS_CALCULUS, ROWS),
        "columns": make_passes(COLUMNS_CALCULUS, COLUMNS),
    },
)
