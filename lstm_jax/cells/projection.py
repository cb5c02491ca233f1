"""The input's share of the pre-activations: `x W + b`, for a whole sequence at once.

It does not depend on the state, so it is one large product before the loop over time.
"""

from typing import Protocol

import jax.numpy as jnp
from jax import Array

from lstm_jax.meshes import axes_of, look_up, result_sharding


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


def multiply(x: Array, W_DxN: Array, mask_BxD: Array | None = None) -> Array:
    """`x W` for a whole sequence: TxBxN.

    Args:
      x: TxBxD, or integer ids TxB. An id stands for its one-hot vector, whose product with W is a
        row of W: it is looked up instead of multiplied.
      mask_BxD: multiplies the input, the same at every t (variational dropout, Gal and
        Ghahramani 2016). For ids it scales the row, as it would scale the one-hot vector's one.
    """
    if not reads_ids(x):
        return (x if mask_BxD is None else x * mask_BxD[None]) @ W_DxN
    rows_TxBxN = look_up(W_DxN, x)
    return rows_TxBxN if mask_BxD is None else rows_TxBxN * mask_of_ids(mask_BxD, x)[..., None]


def project(params: Projecting, x: Array, mask_BxD: Array | None = None) -> Array:
    """`x W + b` for a whole sequence, TxBxG; `x` and `mask_BxD` as `multiply` takes them."""
    return multiply(x, params.W, mask_BxD) + params.b[None, None]
