"""Memory blocks with forget gates, forward and backward: the LSTM of 2000, which learns to forget.

Gers, Schmidhuber and Cummins 2000, "Learning to Forget: Continual Prediction with LSTM" (Neural
Computation 12). The blocks are those of `memory_blocks`, N of S cells each, and have a forget gate
besides. The units read the input and the cells' outputs, and no gates: the 424 weights of the
paper's first network come out only so.

Axes: B batch, D input, N blocks, C = N S cells, a block's cells side by side, G = 3N + C in the
order input gates, forget gates, output gates, cells. Marks are those of `memory_blocks`: ^ takes
each block's gate to its cells, and v sums over the cells of each block.

Forward.

    (F1)  z_t  = (m x_t) W + h~_t U + b
    (F2)  i = sigmoid(z^i), f = sigmoid(z^f), o = sigmoid(z^o), g = 4 sigmoid(z^g) - 2
    (F3)  s_t  = f^_t s~_t + i^_t g_t
    (F4)  q_t  = 2 sigmoid(s_t) - 1
          h_t  = o^_t q_t

Backward. dh_t and ds_t arrive at the state.

    (B1)  ds_t gains dh_t o^_t (1 - q_t^2) / 2
    (B2)  dz^i_t = (ds_t g_t)v i_t (1 - i_t)
          dz^f_t = (ds_t s~_t)v f_t (1 - f_t)
          dz^o_t = (dh_t q_t)v o_t (1 - o_t)
          dz^g_t = ds_t i^_t (4 - g_t^2) / 4
    (B3)  dh~_t = dz_t U',  ds~_t = f^_t ds_t
    (B4)  dU = sum_t h~_t' dz_t,  db = sum_t dz_t
    (B5)  dW = sum_t (m x_t)' dz_t,  dx_t = m (dz_t W')

The truncated rule leaves (B3)'s product out: the error goes back through the cell state alone, and
fades as the forget gates let the state fade. It is the paper's own rule.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.cell import Cell, make_init_state, widths
from lstm_jax.cells.lstm import Forgetting, init_bias, transpose
from lstm_jax.cells.memory_blocks import BlockSize, check_blocks, over_cells, to_cells
from lstm_jax.cells.passes import Calculus, make_passes
from lstm_jax.cells.projection import outer_sum, project, project_backward


class ForgettingBlockParams(NamedTuple):
    """One layer's parameters."""

    W: Array  # DxG, input weights
    U: Array  # CxG, recurrent weights
    b: Array  # G


class ForgettingBlockState(NamedTuple):
    """What one layer hands from a step to the next; both of shape BxC."""

    h: Array  # the cells' outputs
    s: Array  # the cells' states


class Kept(NamedTuple):
    """What (B1) and (B2) need of a step: gates BxN, and g BxC."""

    i: Array
    f: Array
    o: Array
    g: Array


def init_forgetting_blocks(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    block_size: int = BlockSize.block_size,
    forget_bias: float = Forgetting.forget_bias,
    chrono: int = Forgetting.chrono,
    input_bound: float | None = None,
) -> ForgettingBlockParams:
    """Weights uniform in ±1/sqrt(C), W in ±`input_bound` if given; biases of `lstm.init_bias`.

    Raises UserError where `hidden_size`, C, is no multiple of `block_size`, S.
    """
    check_blocks(hidden_size, block_size)
    C, N, bound = hidden_size, hidden_size // block_size, hidden_size**-0.5
    key_W, key_U, key_b = jax.random.split(key, 3)
    input_bound = bound if input_bound is None else input_bound
    b_2N = init_bias(key_b, N, forget_bias, chrono)[: 2 * N]  # of input and forget gates
    G = 3 * N + C
    return ForgettingBlockParams(
        W=jax.random.uniform(key_W, (input_size, G), minval=-input_bound, maxval=input_bound),
        U=jax.random.uniform(key_U, (C, G), minval=-bound, maxval=bound),
        b=jnp.concatenate([b_2N, jnp.zeros(N + C)]),
    )


def truncate(state: ForgettingBlockState) -> ForgettingBlockState:
    """The state of which the next step sees no more than the values, the cells' states aside."""
    return state._replace(h=lax.stop_gradient(state.h))


def forward(
    U_CxG: Array, before: ForgettingBlockState, z_BxG: Array
) -> tuple[ForgettingBlockState, Kept]:
    """(F1) to (F4); `z_BxG` is the input's share."""
    C, G = U_CxG.shape
    z_BxG = z_BxG + before.h @ U_CxG
    i, f, o = jnp.split(jax.nn.sigmoid(z_BxG[:, : G - C]), 3, axis=-1)
    g = 4 * jax.nn.sigmoid(z_BxG[:, G - C :]) - 2
    s = to_cells(f, C) * before.s + to_cells(i, C) * g
    h = to_cells(o, C) * (2 * jax.nn.sigmoid(s) - 1)
    return ForgettingBlockState(h, s), Kept(i, f, o, g)


def step(
    params: ForgettingBlockParams, state: ForgettingBlockState, z_BxG: Array
) -> ForgettingBlockState:
    """One step; `z_BxG` is the input's share, `x W + b`."""
    return forward(params.U, state, z_BxG)[0]


def backward(
    U_GxC: Array | None, read: tuple[Array, Array], kept: Kept, d: ForgettingBlockState
) -> tuple[ForgettingBlockState, Array]:
    """(B1) to (B3): what arrives at the state before, and dz BxG."""
    (s_before, s), (i, f, o, g) = read, kept
    N, C = i.shape[-1], s.shape[-1]
    q = 2 * jax.nn.sigmoid(s) - 1
    ds = d.s + d.h * to_cells(o, C) * (1 - q * q) / 2
    dz_i = over_cells(ds * g, N) * i * (1 - i)
    dz_f = over_cells(ds * s_before, N) * f * (1 - f)
    dz_o = over_cells(d.h * q, N) * o * (1 - o)
    dz_g = ds * to_cells(i, C) * (4 - g * g) / 4
    dz_BxG = jnp.concatenate([dz_i, dz_f, dz_o, dz_g], axis=-1)
    dh_before = jnp.zeros_like(d.h) if U_GxC is None else dz_BxG @ U_GxC
    return ForgettingBlockState(dh_before, to_cells(f, C) * ds), dz_BxG


def collect(
    params: ForgettingBlockParams,
    x: Array,
    mask_BxD: Array | None,
    before: ForgettingBlockState,
    after: ForgettingBlockState,
    kept: Kept,
    dz_TxBxG: Array,
) -> tuple[ForgettingBlockParams, Array | None]:
    """(B4), (B5)."""
    dW, dx_TxBxD = project_backward(params.W, x, mask_BxD, dz_TxBxG)
    dU = outer_sum(before.h, dz_TxBxG)
    return ForgettingBlockParams(dW, dU, jnp.sum(dz_TxBxG, (0, 1))), dx_TxBxD


CALCULUS = Calculus(
    forward_weights=lambda params, x: params.U,
    prepare=project,
    forward=forward,
    reads=lambda before, after: (before.s, after.s),
    backward_weights=transpose,
    backward=backward,
    collect=collect,
)

FORGETTING_BLOCKS = Cell(
    params=ForgettingBlockParams,
    state=ForgettingBlockState,
    init=init_forgetting_blocks,
    init_state=make_init_state(ForgettingBlockState),
    prepare=project,
    step=step,
    widths=widths,
    truncate=truncate,
    options=(BlockSize, Forgetting),
    by_hand={"rows": make_passes(CALCULUS)},
)
