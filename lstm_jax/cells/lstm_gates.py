"""The pointwise part of an LSTM step, forward and backward; equations as in `lstm`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


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


def activate(z_BxG: Array) -> Gates:
    """(F2): the gates from their pre-activations."""
    i_BxH, f_BxH, g_BxH, o_BxH = jnp.split(z_BxG, 4, axis=-1)
    sigmoid = jax.nn.sigmoid
    return Gates(i=sigmoid(i_BxH), f=sigmoid(f_BxH), g=jnp.tanh(g_BxH), o=sigmoid(o_BxH))


def advance(state: LSTMState, gates: Gates) -> LSTMState:
    """(F3), (F4): the next state, from the gates and the state before."""
    c_BxH = gates.f * state.c + gates.i * gates.g
    return LSTMState(h=gates.o * jnp.tanh(c_BxH), c=c_BxH)


def gates_backward(
    gates: Gates, c_before: Array, c: Array, dh: Array, dc: Array
) -> tuple[Gates, Array]:
    """The pointwise calculus of one step: dz of each gate, and what goes to the cell before.

    `dh` and `dc` are all that arrives at h_t and c_t. All blocks are of one shape, BxH or HxB.
    """
    i, f, g, o = gates
    tanh_c = jnp.tanh(c)
    dc = dh * o * (1 - tanh_c * tanh_c) + dc  # (B1)
    dz = Gates(  # (B2)
        i=dc * g * i * (1 - i),
        f=dc * c_before * f * (1 - f),
        g=dc * i * (1 - g * g),
        o=dh * tanh_c * o * (1 - o),
    )
    return dz, dc * f
