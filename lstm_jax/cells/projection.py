"""The input's share of the pre-activations, `x W + b`, for a whole sequence, and its backward.

It does not depend on the state, so it is one large product before the loop over time.

In all of these x is TxBxD, or integer ids TxB. An id stands for its one-hot vector, whose product
with W is a row of W: it is looked up instead of multiplied. `mask_BxD` multiplies the input, the
same at every step (variational dropout, Gal and Ghahramani 2016). For ids it scales the row, as it
would scale the one-hot vector's one.
"""

from typing import Protocol

import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.meshes import axes_of, look_up, result_sharding
from lstm_jax.precision import at_least_float32


class Projecting(Protocol):
    """The parameters of a cell that reads `x W + b`."""

    W: Array  # DxG
    b: Array  # G


def reads_ids(x: Array) -> bool:
    """Whether a layer's input is integer ids, which stand for one-hot vectors."""
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


def mask_of_ids(mask_BxD: Array, ids_TxB: Array) -> Array:
    """What a mask of one-hot vectors multiplies each id's row of W by: TxB."""
    lanes_B = jnp.arange(ids_TxB.shape[1])
    return mask_BxD.at[lanes_B, ids_TxB].get(
        out_sharding=result_sharding(ids_TxB, *axes_of(ids_TxB))
    )


def multiply_input(x: Array, W_DxN: Array, mask_BxD: Array | None = None) -> Array:
    """`x W` for a whole sequence: TxBxN."""
    if not reads_ids(x):
        return (x if mask_BxD is None else x * mask_BxD[None]) @ W_DxN
    rows_TxBxN = look_up(W_DxN, x)
    return rows_TxBxN if mask_BxD is None else rows_TxBxN * mask_of_ids(mask_BxD, x)[..., None]


def project(params: Projecting, x: Array, mask_BxD: Array | None = None) -> Array:
    """`x W + b` for a whole sequence, TxBxG."""
    return multiply_input(x, params.W, mask_BxD) + params.b[None, None]


def outer_sum(a_TxBxN: Array, b_TxBxM: Array) -> Array:
    """sum_t a_t' b_t over steps and lanes, as one product: NxM."""
    sharding = result_sharding(a_TxBxN, axes_of(a_TxBxN)[2], axes_of(b_TxBxM)[2])
    over_T_and_B = (((0, 1), (0, 1)), ((), ()))
    return lax.dot_general(a_TxBxN, b_TxBxM, over_T_and_B, out_sharding=sharding)


def add_rows(ids_TxB: Array, d_TxBxN: Array, num_rows: int) -> Array:
    """The gradient of looking up rows by id: each d is added to its id's row."""
    dtype = at_least_float32(d_TxBxN.dtype)
    zeros = jnp.zeros((num_rows, d_TxBxN.shape[-1]), dtype)
    sharding = result_sharding(ids_TxB, None, axes_of(d_TxBxN)[2])
    return zeros.at[ids_TxB].add(d_TxBxN.astype(dtype), out_sharding=sharding)


def project_backward(
    W_DxN: Array, x: Array, mask_BxD: Array | None, dz_TxBxN: Array
) -> tuple[Array, Array | None]:
    """The gradients of W in `x W`, and of x (TxBxD) where it is not ids."""
    if reads_ids(x):
        if mask_BxD is not None:
            dz_TxBxN = dz_TxBxN * mask_of_ids(mask_BxD, x)[..., None]
        return add_rows(x, dz_TxBxN, W_DxN.shape[0]), None
    masked_TxBxD = x if mask_BxD is None else x * mask_BxD[None]
    dx_TxBxD = dz_TxBxN @ W_DxN.T
    if mask_BxD is not None:
        dx_TxBxD = dx_TxBxD * mask_BxD[None]
    return outer_sum(masked_TxBxD, dz_TxBxN), dx_TxBxD
