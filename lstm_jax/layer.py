"""One LSTM layer over time: the cell, unrolled by `lax.scan`.

The input's share of the pre-activations does not depend on the state, so it is one large product
over the whole sequence (`project`); only the recurrent product stays inside the loop.
"""

import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cell import LSTMParams, LSTMState, activate, advance


def reads_ids(x: Array) -> bool:
    """Whether a layer's input is integer ids, which stand for one-hot vectors."""
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


def mask_of_ids(mask_BxD: Array, ids_TxB: Array) -> Array:
    """What a mask of one-hot vectors multiplies each id's row of W by: TxB."""
    return mask_BxD[jnp.arange(ids_TxB.shape[1]), ids_TxB]


def project(params: LSTMParams, x: Array, mask_BxD: Array | None = None) -> Array:
    """`x W + b` for a whole sequence: TxBxG.

    Args:
      x: TxBxD, or integer ids TxB. An id stands for its one-hot vector, whose product with W is a
        row of W: it is looked up instead of multiplied.
      mask_BxD: multiplies the input, the same at every t (variational dropout, Gal and
        Ghahramani 2016). For ids it scales the row, as it would scale the one-hot vector's one.
    """
    if reads_ids(x):
        z_TxBxG = params.W[x]
        if mask_BxD is not None:
            z_TxBxG *= mask_of_ids(mask_BxD, x)[..., None]
    else:
        z_TxBxG = (x if mask_BxD is None else x * mask_BxD) @ params.W
    return z_TxBxG + params.b


def reset_state(state: LSTMState, resets_B: Array) -> LSTMState:
    """The state with the lanes named by the boolean `resets_B` set to zero."""
    return LSTMState(*(jnp.where(resets_B[:, None], 0, s_BxH) for s_BxH in state))


def unroll(
    params: LSTMParams,
    state: LSTMState,
    x: Array,
    *,
    mask_BxD: Array | None = None,
    resets_TxB: Array | None = None,
    truncated: bool = False,
) -> tuple[LSTMState, Array]:
    """Runs the layer over a sequence. The scan stands for this loop:

        for t in range(T):
            state = reset_state(state, resets_TxB[t])
            state = cell_step(params, state, x[t] * mask_BxD)
            h_TxBxH[t] = state.h

    Args:
      x, mask_BxD: as `project` takes them.
      resets_TxB: True where a lane starts afresh before it reads x[t]. None: nowhere.
      truncated: error goes back in time through the cell state alone (`bptt`, B3).

    Returns:
      The state after the last step, and the outputs TxBxH.
    """

    def step(state: LSTMState, inputs: tuple[Array, Array | None]) -> tuple[LSTMState, Array]:
        z_BxG, resets_B = inputs
        if resets_B is not None:
            state = reset_state(state, resets_B)
        h_BxH = lax.stop_gradient(state.h) if truncated else state.h
        state = advance(state, activate(z_BxG + h_BxH @ params.U))
        return state, state.h

    return lax.scan(step, state, (project(params, x, mask_BxD), resets_TxB))
