"""The LSTM's step and its derivative with a column per lane: the layout for CPUs.

The equations are those of `lstm`, cited by their numbers; its rows are the plain twin. What differs
is how the blocks lie: HxB instead of BxH, and each gate a block of its own instead of a quarter of
BxG. On a CPU the weights as the left factor are not packed again at every step, which makes the
recurrent products up to twice as fast. And no pointwise loop reads or writes a slice, which XLA
would not vectorise. Because products inside the loop are this fast, the input's share of z and the
error for the layer below are taken there too. No TxBxG block of projected inputs is ever written.

Sequences are TxDxB here, and states inside the loop HxB.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.lstm_gates import Gates, LSTMParams, LSTMState, advance, gates_backward
from lstm_jax.cells.passes import Calculus
from lstm_jax.cells.projection import add_rows, mask_of_ids, reads_ids
from lstm_jax.meshes import axes_of, result_sharding


def split_gates(w_NxG: Array) -> Gates:
    """The four NxH blocks of weights, or of a bias G."""
    return Gates(*jnp.split(w_NxG, 4, axis=-1))


def join_gates(blocks: Gates) -> Array:
    """The blocks' NxG again."""
    return jnp.concatenate(blocks, axis=-1)


def sigmoid(z: Array) -> Array:
    """By tanh, which XLA's CPU code vectorises better than an exponential and a division."""
    return 0.5 * jnp.tanh(0.5 * z) + 0.5


def activate(z: Gates) -> Gates:
    """(F2)"""
    return Gates(i=sigmoid(z.i), f=sigmoid(z.f), g=jnp.tanh(z.g), o=sigmoid(z.o))


def prepare(_: LSTMParams, x: Array, mask_BxD: Array | None) -> tuple[Array, Array | None]:
    """What each step reads of x, and the masks TxB of its ids' rows."""
    if mask_BxD is None:
        return x, None
    if reads_ids(x):
        return x, mask_of_ids(mask_BxD, x)
    return x * mask_BxD.T[None], None


# (F1): what a step read of x, the mask of an id's row, and h before -> z
Read = Callable[[Array, Array | None, Array], Gates]


def make_read(params: LSTMParams, x: Array) -> Read:
    """(F1), with the weights laid out for it."""
    b = Gates(*(b_H[:, None] for b_H in split_gates(params.b)))
    # Transposed once, before the loop, and kept from being folded back into the product.
    W, U = lax.optimization_barrier(
        tuple(Gates(*(block.T for block in split_gates(w))) for w in (params.W, params.U))
    )

    def read_id(id_B: Array, drop_B: Array | None, h_HxB: Array) -> Gates:
        sharding = result_sharding(id_B, None, *axes_of(id_B))

        def read(W_HxV: Array, U_HxH: Array, b_Hx1: Array) -> Array:
            picked_HxB = W_HxV.at[:, id_B].get(out_sharding=sharding)
            if drop_B is not None:
                picked_HxB = picked_HxB * drop_B[None]
            return U_HxH @ h_HxB + picked_HxB + b_Hx1

        return Gates(*map(read, W, U, b))

    joined = lax.optimization_barrier(Gates(*map(lambda W, U: jnp.hstack([W, U]), W, U)))

    def read_block(x_DxB: Array, _: Array | None, h_HxB: Array) -> Gates:
        both = jnp.concatenate([x_DxB, h_HxB])
        return Gates(*(w @ both + b_Hx1 for w, b_Hx1 in zip(joined, b, strict=True)))

    return read_id if reads_ids(x) else read_block


def forward(
    read: Read, before: LSTMState, inputs: tuple[Array, Array | None]
) -> tuple[LSTMState, Gates]:
    """(F1) to (F4)."""
    gates = activate(read(*inputs, before.h))
    return advance(before, gates), gates


def transpose(params: LSTMParams, x: Array, truncated: bool) -> Gates:
    """What takes each gate's dz to the input and to h before: (D+H)xH; HxH where the input is ids,
    which have no gradient. The rows to h are 0 in the truncated rule."""
    U_HxG = jnp.zeros_like(params.U) if truncated else params.U
    both = U_HxG if reads_ids(x) else jnp.concatenate([params.W, U_HxG])
    return lax.optimization_barrier(split_gates(both))


def backward(
    weights: Gates, read: tuple[Array, Array], gates: Gates, d: LSTMState
) -> tuple[LSTMState, tuple[Gates, Array]]:
    """(B1) to (B3) and dx: what arrives at the state before, dz and dx, all of them NxB."""
    c_before, c = read
    dz, dc_HxB = gates_backward(gates, c_before, c, d.h, d.c)
    products = (w @ dz_HxB for w, dz_HxB in zip(weights, dz, strict=True))
    both = functools.reduce(operator.add, products)
    D = weights.i.shape[0] - dc_HxB.shape[0]
    dx_DxB, dh_HxB = both[:D], both[D:]  # (B5), (B3)
    return LSTMState(dh_HxB, dc_HxB), (dz, dx_DxB)


def collect(
    params: LSTMParams,
    x: Array,
    mask_BxD: Array | None,
    before: LSTMState,
    after: LSTMState,
    gates: Gates,
    d: tuple[Gates, Array],
) -> tuple[LSTMParams, Array | None]:
    """(B4), (B5)."""
    dz, dx_TxDxB = d
    db_G = join_gates(Gates(*(jnp.sum(dz_TxHxB, (0, 2)) for dz_TxHxB in dz)))
    if reads_ids(x):
        dU_HxG = outer_sum(before.h, dz)
        dz_TxBxG = join_gates(Gates(*(jnp.swapaxes(dz_TxHxB, 1, 2) for dz_TxHxB in dz)))
        if mask_BxD is not None:
            dz_TxBxG = dz_TxBxG * mask_of_ids(mask_BxD, x)[..., None]
        return LSTMParams(add_rows(x, dz_TxBxG, params.W.shape[0]), dU_HxG, db_G), None
    read_TxDxB, _ = prepare(params, x, mask_BxD)
    both_TxDHxB = jnp.concatenate([read_TxDxB, before.h], axis=1)
    dW_DxG, dU_HxG = jnp.split(outer_sum(both_TxDHxB, dz), [x.shape[1]])
    if mask_BxD is not None:
        dx_TxDxB = dx_TxDxB * mask_BxD.T[None]
    return LSTMParams(dW_DxG, dU_HxG, db_G), dx_TxDxB


def outer_sum(a_TxNxB: Array, b: Gates) -> Array:
    """sum_t a_t b_t' over steps and lanes, one product for each gate's TxHxB: NxG."""
    over_T_and_B = (((0, 2), (0, 2)), ((), ()))
    sharding = result_sharding(a_TxNxB, axes_of(a_TxNxB)[1], axes_of(b.i)[1])

    def product(b_TxHxB: Array) -> Array:
        return lax.dot_general(a_TxNxB, b_TxHxB, over_T_and_B, out_sharding=sharding)

    return join_gates(Gates(*map(product, b)))


def reads(before: Any, after: Any) -> tuple[Array, Array]:
    """The two cell states that (B1) and (B2) need."""
    return before.c, after.c


COLUMNS_CALCULUS = Calculus(
    forward_weights=make_read,
    prepare=prepare,
    forward=forward,
    reads=reads,
    backward_weights=transpose,
    backward=backward,
    collect=collect,
)
