"""The LSTM cell: one step of one layer.

    i = sigmoid(z_i)    input gate
    f = sigmoid(z_f)    forget gate          z = x W + h_prev U + b
    g = tanh(z_g)       candidate
    o = sigmoid(z_o)    output gate

    c = f * c_prev + i * g
    h = o * tanh(c)

Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000 and
without peepholes. Axes: B batch, D input, H hidden, G = 4H gates in the order i f g o.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class LSTMParams(NamedTuple):
    """One layer's parameters: `z = x @ W + h_prev @ U + b`."""

    W: Array  # DxG, input weights
    U: Array  # HxG, recurrent weights
    b: Array  # G, the one bias


class Gates(NamedTuple):
    """The four activated gates of a step, each BxH."""

    i: Array  # input
    f: Array  # forget
    g: Array  # candidate
    o: Array  # output


class LSTMState(NamedTuple):
    """What one layer hands from a step to the next; both of shape BxH."""

    h: Array
    c: Array


def init_cell(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    input_bound: float | None = None,
) -> LSTMParams:
    """Weights uniform in ±1/sqrt(H), as in PyTorch; bias zero, `forget_bias` at the forget gate.

    A positive initial forget bias lets the error flow through the cell from the first step on
    (Jozefowicz, Zaremba and Sutskever 2015, section 2.2). `input_bound` is the bound of the input
    weights W where 1/sqrt(H) does not suit the input.
    """
    key_W, key_U = jax.random.split(key)
    G, bound = 4 * hidden_size, hidden_size**-0.5
    input_bound = bound if input_bound is None else input_bound
    b_G = jnp.zeros(G).at[hidden_size : 2 * hidden_size].set(forget_bias)
    return LSTMParams(
        W=jax.random.uniform(key_W, (input_size, G), minval=-input_bound, maxval=input_bound),
        U=jax.random.uniform(key_U, (hidden_size, G), minval=-bound, maxval=bound),
        b=b_G,
    )


def init_cell_notebook(
    key: Array, input_size: int, hidden_size: int, *, forget_bias: float = 0.0
) -> LSTMParams:
    """The notebook's start: every weight normal with deviation 0.1, and those of the three sigmoid
    gates shifted by +0.5; bias zero, `forget_bias` at the forget gate."""
    key_W, key_U = jax.random.split(key)
    G = 4 * hidden_size
    shift_G = jnp.repeat(jnp.array([0.5, 0.5, 0.0, 0.5]), hidden_size)
    return LSTMParams(
        W=0.1 * jax.random.normal(key_W, (input_size, G)) + shift_G,
        U=0.1 * jax.random.normal(key_U, (hidden_size, G)) + shift_G,
        b=jnp.zeros(G).at[hidden_size : 2 * hidden_size].set(forget_bias),
    )


def init_state(params: LSTMParams, batch_size: int) -> LSTMState:
    """The zero state of a layer, in the dtype of its parameters."""
    shape = (batch_size, params.U.shape[0])
    # Two buffers, not one twice: the state is donated, and a buffer can be donated only once.
    return LSTMState(h=jnp.zeros(shape, params.U.dtype), c=jnp.zeros(shape, params.U.dtype))


def activate(z_BxG: Array) -> Gates:
    """The gates from their pre-activations."""
    i_BxH, f_BxH, g_BxH, o_BxH = jnp.split(z_BxG, 4, axis=-1)
    sigmoid = jax.nn.sigmoid
    return Gates(i=sigmoid(i_BxH), f=sigmoid(f_BxH), g=jnp.tanh(g_BxH), o=sigmoid(o_BxH))


def advance(state: LSTMState, gates: Gates) -> LSTMState:
    """The next state, from the gates and the state before."""
    c_BxH = gates.f * state.c + gates.i * gates.g
    return LSTMState(h=gates.o * jnp.tanh(c_BxH), c=c_BxH)


def cell_step(params: LSTMParams, state: LSTMState, x_BxD: Array) -> LSTMState:
    """One step of one layer; the output is the `h` of the state it returns."""
    z_BxG = x_BxD @ params.W + state.h @ params.U
    return advance(state, activate(z_BxG + lax.broadcast_to_rank(params.b, z_BxG.ndim)))
