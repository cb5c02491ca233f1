"""The layer-normalised LSTM (Ba, Kiros and Hinton 2016, equations 20 to 22).

    z = gain_x LN(x W) + gain_h LN(h_prev U) + b
    c = f * c_prev + i * g
    h = o * tanh(gain_c LN(c) + shift_c)

LN takes the mean from a vector and divides by its deviation, over all four gates together as in the
paper. The paper's two shifts of z are the one bias here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.cells.cell import Cell, widths
from lstm_jax.cells.lstm import Forgetting, init_lstm, init_state, truncate
from lstm_jax.cells.lstm_gates import LSTMState, activate, advance
from lstm_jax.cells.projection import multiply_input

EPSILON = 1e-5  # added to the variance


class LayerNormParams(NamedTuple):
    """One layer's parameters."""

    W: Array  # DxG, input weights
    U: Array  # HxG, recurrent weights
    b: Array  # G
    gain_x: Array  # G
    gain_h: Array  # G
    gain_c: Array  # H
    shift_c: Array  # H


def init_layer_norm(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = Forgetting.forget_bias,
    chrono: int = Forgetting.chrono,
    input_bound: float | None = None,
) -> LayerNormParams:
    """As `init_lstm`; gains 1, shift 0."""
    cell = init_lstm(
        key,
        input_size,
        hidden_size,
        forget_bias=forget_bias,
        chrono=chrono,
        input_bound=input_bound,
    )
    gain_G, gain_H = jnp.ones_like(cell.b), jnp.ones(hidden_size)
    return LayerNormParams(*cell, gain_G, jnp.copy(gain_G), gain_H, jnp.zeros(hidden_size))


def normalize(x: Array) -> Array:
    """LN, over the last axis."""
    # The variance in two passes: its own way, the mean of squares less the square of the mean,
    # loses everything where the mean is far from zero.
    variance = jnp.var(x, axis=-1, keepdims=True)
    return jax.nn.standardize(x, axis=-1, variance=variance, epsilon=EPSILON)


def project_normalized(params: LayerNormParams, x: Array, mask_BxD: Array | None = None) -> Array:
    """`gain_x LN(x W) + b` for a whole sequence: TxBxG."""
    normal_TxBxG = normalize(multiply_input(x, params.W, mask_BxD))
    return params.gain_x[None, None] * normal_TxBxG + params.b[None, None]


def step(params: LayerNormParams, state: LSTMState, z_BxG: Array) -> LSTMState:
    """One step; `z_BxG` is the input's share."""
    gates = activate(z_BxG + params.gain_h[None] * normalize(state.h @ params.U))
    c_BxH = advance(state, gates).c
    squashed_BxH = jnp.tanh(params.gain_c[None] * normalize(c_BxH) + params.shift_c[None])
    return LSTMState(h=gates.o * squashed_BxH, c=c_BxH)


LAYER_NORM = Cell(
    params=LayerNormParams,
    state=LSTMState,
    init=init_layer_norm,
    init_state=init_state,
    prepare=project_normalized,
    step=step,
    widths=widths,
    truncate=truncate,
    options=(Forgetting,),
)
