"""The LSTM as it was first published, forward and backward: memory blocks without forget gates.

Hochreiter and Schmidhuber 1997, "Long Short-Term Memory" (Neural Computation 9), section 4 and
appendix A.1. N blocks of S cells each, C = N S cells in all. The cells of a block share an input
gate and an output gate. Besides the cells' outputs, the activations of all gates are read at the
next step, by gates and cells alike: the weight counts of the paper's Table 10 come out only so.

Axes: B batch, D input, N blocks, C cells, a block's cells side by side, G = 2N + C in the order
input gates, output gates, cells. Marks are those of `lstm`. ^ takes each block's gate to its cells,
and v sums over the cells of each block.

Forward.

    (F1)  z_t  = (m x_t) W + h~_t U + [i~_t, o~_t] U_gates + b
    (F2)  i = sigmoid(z^i), o = sigmoid(z^o), g = 4 sigmoid(z^g) - 2
    (F3)  s_t  = s~_t + i^_t g_t
    (F4)  q_t  = 2 sigmoid(s_t) - 1
          h_t  = o^_t q_t

Backward. dh_t, ds_t, di_t and do_t arrive at the state.

    (B1)  ds_t gains dh_t o^_t (1 - q_t^2) / 2
          di_t gains (ds_t g_t)v,  do_t gains (dh_t q_t)v
    (B2)  dz^i_t = di_t i_t (1 - i_t)
          dz^o_t = do_t o_t (1 - o_t)
          dz^g_t = ds_t i^_t (4 - g_t^2) / 4
    (B3)  dh~_t = dz_t U',  [di~_t, do~_t] = dz_t U_gates',  ds~_t = ds_t
    (B4)  dU = sum_t h~_t' dz_t,  dU_gates = sum_t [i~_t, o~_t]' dz_t,  db = sum_t dz_t
    (B5)  dW = sum_t (m x_t)' dz_t,  dx_t = m (dz_t W')

The truncated rule leaves (B3)'s products out: the error goes back through the cell state alone,
whose errors add up. It is the paper's own rule, for gates and for the cells' inputs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.cell import Cell, widths
from lstm_jax.cells.passes import Calculus, make_passes
from lstm_jax.cells.projection import outer_sum, project, project_backward
from lstm_jax.errors import UserError
from lstm_jax.options import Section, option


@dataclass(frozen=True)
class BlockSize(Section):
    """The option of this cell."""

    block_size: int = option(
        1, "S, cells of a memory block, which share their gates", low=1, high=65536
    )


class MemoryBlockParams(NamedTuple):
    """One layer's parameters."""

    W: Array  # DxG, input weights
    U: Array  # CxG, recurrent weights from the cells' outputs
    U_gates: Array  # 2NxG, and from the gates, input gates first
    b: Array  # G


class MemoryBlockState(NamedTuple):
    """What one layer hands from a step to the next."""

    h: Array  # BxC, the cells' outputs
    s: Array  # BxC, the cells' states
    i: Array  # BxN, the input gates
    o: Array  # BxN, the output gates


def check_blocks(hidden_size: int, block_size: int) -> None:
    """Raises UserError where so many cells are no multiple of a block."""
    if hidden_size % block_size:
        raise UserError(
            f"model.block_size={block_size} needs layers of so many cells or a multiple of it, "
            f"and one has {hidden_size}"
        )


def init_memory_blocks(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    block_size: int = BlockSize.block_size,
    input_bound: float | None = None,
) -> MemoryBlockParams:
    """Weights uniform in ±1/sqrt(C), W in ±`input_bound` if given; biases zero.

    Raises UserError where `hidden_size`, C, is no multiple of `block_size`, S.
    """
    check_blocks(hidden_size, block_size)
    keys, C, bound = jax.random.split(key, 3), hidden_size, hidden_size**-0.5
    gates = 2 * (C // block_size)
    input_bound = bound if input_bound is None else input_bound

    def uniform(key: Array, rows: int, bound: float) -> Array:
        return jax.random.uniform(key, (rows, gates + C), minval=-bound, maxval=bound)

    return MemoryBlockParams(
        W=uniform(keys[0], input_size, input_bound),
        U=uniform(keys[1], C, bound),
        U_gates=uniform(keys[2], gates, bound),
        b=jnp.zeros(gates + C),
    )


def init_state(params: MemoryBlockParams, batch_size: int) -> MemoryBlockState:
    """The zero state of a layer. The gates' activations are zero, too, before the first step."""
    N, C = params.U_gates.shape[0] // 2, params.U.shape[0]
    return MemoryBlockState(*(jnp.zeros((batch_size, n), params.U.dtype) for n in (C, C, N, N)))


def truncate(state: MemoryBlockState) -> MemoryBlockState:
    """The state of which the next step sees no more than the values, the cells' states aside."""
    seen = MemoryBlockState(*map(lax.stop_gradient, state))
    return seen._replace(s=state.s)


def to_cells(gates_BxN: Array, C: int) -> Array:
    """^: what each block has one of, for each of its cells."""
    return jnp.repeat(gates_BxN, C // gates_BxN.shape[-1], axis=-1)


def over_cells(d_BxC: Array, N: int) -> Array:
    """v: the sums over the cells of each block."""
    B, C = d_BxC.shape
    return jnp.sum(d_BxC.reshape(B, N, C // N), axis=-1)


def forward(
    weights: tuple[Array, Array], before: MemoryBlockState, z_BxG: Array
) -> tuple[MemoryBlockState, Array]:
    """(F1) to (F4), and g; `z_BxG` is the input's share."""
    U_CxG, U_2NxG = weights
    N, C = before.i.shape[-1], before.s.shape[-1]
    gates_Bx2N = jnp.concatenate([before.i, before.o], axis=-1)
    z_BxG = z_BxG + before.h @ U_CxG + gates_Bx2N @ U_2NxG
    i, o = jnp.split(jax.nn.sigmoid(z_BxG[:, : 2 * N]), 2, axis=-1)
    g = 4 * jax.nn.sigmoid(z_BxG[:, 2 * N :]) - 2
    s = before.s + to_cells(i, C) * g
    h = to_cells(o, C) * (2 * jax.nn.sigmoid(s) - 1)
    return MemoryBlockState(h, s, i, o), g


def forward_weights(params: MemoryBlockParams, _: Array | None = None) -> tuple[Array, Array]:
    return params.U, params.U_gates


def step(params: MemoryBlockParams, state: MemoryBlockState, z_BxG: Array) -> MemoryBlockState:
    """One step; `z_BxG` is the input's share, `x W + b`."""
    return forward(forward_weights(params), state, z_BxG)[0]


def backward_weights(
    params: MemoryBlockParams, _: Array, truncated: bool
) -> tuple[Array, Array] | None:
    """U' and U_gates', transposed once, outside the loop. None under the truncated rule."""
    return None if truncated else lax.optimization_barrier((params.U.T, params.U_gates.T))


def backward(
    weights: tuple[Array, Array] | None,
    read: tuple[Array, Array, Array],
    g: Array,
    d: MemoryBlockState,
) -> tuple[MemoryBlockState, Array]:
    """(B1) to (B3): what arrives at the state before, and dz BxG."""
    s, i, o = read
    N, C = i.shape[-1], s.shape[-1]
    q = 2 * jax.nn.sigmoid(s) - 1
    ds = d.s + d.h * to_cells(o, C) * (1 - q * q) / 2
    di, do = d.i + over_cells(ds * g, N), d.o + over_cells(d.h * q, N)
    dz_i, dz_o = di * i * (1 - i), do * o * (1 - o)
    dz_g = ds * to_cells(i, C) * (4 - g * g) / 4
    dz_BxG = jnp.concatenate([dz_i, dz_o, dz_g], axis=-1)
    if weights is None:
        nothing = MemoryBlockState(*map(jnp.zeros_like, d))
        return nothing._replace(s=ds), dz_BxG
    U_GxC, U_Gx2N = weights
    di, do = jnp.split(dz_BxG @ U_Gx2N, 2, axis=-1)
    return MemoryBlockState(dz_BxG @ U_GxC, ds, di, do), dz_BxG


def collect(
    params: MemoryBlockParams,
    x: Array,
    mask_BxD: Array | None,
    before: MemoryBlockState,
    after: MemoryBlockState,
    g: Array,
    dz_TxBxG: Array,
) -> tuple[MemoryBlockParams, Array | None]:
    """(B4), (B5)."""
    dW, dx_TxBxD = project_backward(params.W, x, mask_BxD, dz_TxBxG)
    gates_TxBx2N = jnp.concatenate([before.i, before.o], axis=-1)
    dparams = MemoryBlockParams(
        W=dW,
        U=outer_sum(before.h, dz_TxBxG),
        U_gates=outer_sum(gates_TxBx2N, dz_TxBxG),
        b=jnp.sum(dz_TxBxG, (0, 1)),
    )
    return dparams, dx_TxBxD


CALCULUS = Calculus(
    forward_weights=forward_weights,
    prepare=project,
    forward=forward,
    reads=lambda before, after: (after.s, after.i, after.o),
    backward_weights=backward_weights,
    backward=backward,
    collect=collect,
)

MEMORY_BLOCKS = Cell(
    params=MemoryBlockParams,
    state=MemoryBlockState,
    init=init_memory_blocks,
    init_state=init_state,
    prepare=project,
    step=step,
    widths=widths,
    recurrent=("U", "U_gates"),
    truncate=truncate,
    options=(BlockSize,),
    by_hand={"rows": make_passes(CALCULUS)},
)
