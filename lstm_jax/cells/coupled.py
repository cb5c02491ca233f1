"""The LSTM with coupled gates: what a cell forgets is the room for what it takes in, i = 1 - f.

    f = sigmoid(z_f)    forget gate
    g = tanh(z_g)       candidate            z = x W + h_prev U + b
    o = sigmoid(z_o)    output gate

    c = f * c_prev + (1 - f) * g
    h = o * tanh(c)

The variant CIFG of Greff et al. 2017 (LSTM: A Search Space Odyssey): a quarter fewer parameters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.cells.cell import Cell, widths
from lstm_jax.cells.lstm import Forgetting, LSTMState, init_lstm, init_state, truncate
from lstm_jax.cells.projection import project


class CoupledParams(NamedTuple):
    """One layer's parameters; three gates, in the order f g o."""

    W: Array  # Dx3H, input weights
    U: Array  # Hx3H, recurrent weights
    b: Array  # 3H


def init_coupled(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = Forgetting.forget_bias,
    chrono: int = Forgetting.chrono,
    input_bound: float | None = None,
) -> CoupledParams:
    """As `init_lstm`, without the input gate."""
    whole = init_lstm(
        key,
        input_size,
        hidden_size,
        forget_bias=forget_bias,
        chrono=chrono,
        input_bound=input_bound,
    )
    return CoupledParams(*(leaf[..., hidden_size:] for leaf in whole))


def step(params: CoupledParams, state: LSTMState, z_Bx3H: Array) -> LSTMState:
    """One step; `z_Bx3H` is the input's share, `x W + b`."""
    f_BxH, g_BxH, o_BxH = jnp.split(z_Bx3H + state.h @ params.U, 3, axis=-1)
    f_BxH = jax.nn.sigmoid(f_BxH)
    c_BxH = f_BxH * state.c + (1 - f_BxH) * jnp.tanh(g_BxH)
    return LSTMState(h=jax.nn.sigmoid(o_BxH) * jnp.tanh(c_BxH), c=c_BxH)


COUPLED = Cell(
    params=CoupledParams,
    state=LSTMState,
    init=init_coupled,
    init_state=init_state,
    prepare=project,
    step=step,
    widths=widths,
    truncate=truncate,
    options=(Forgetting,),
)
