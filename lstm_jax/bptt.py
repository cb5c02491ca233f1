"""Backpropagation through time, derived by hand.

Nothing here is differentiated by JAX: the derivatives below are the ones written out in the
equations, and the code cites their numbers. The forward pass is the model's own (`cell.activate`,
`cell.advance`, `layer.project`); it keeps what the backward needs.

Forward. The lane index is left out, products of vectors are elementwise, k_t is 0 where a lane is
reset before step t and 1 elsewhere, m is a dropout mask (1 where there is none), w_t is 1 where
the target counts, n is how many do.

    (F1)  h~_t = k_t h_{t-1},  c~_t = k_t c_{t-1}               what step t reads
    (F2)  z_t  = (m x_t) W + h~_t U + b                         x_t: input, or the layer below's h_t
    (F3)  i = sigmoid(z^i), f = sigmoid(z^f), g = tanh(z^g), o = sigmoid(z^o)
    (F4)  c_t  = f_t c~_t + i_t g_t
    (F5)  h_t  = o_t tanh(c_t)
    (F6)  y_t  = (m_r h_t) W_r + b_r                            the top layer's h_t
    (F7)  loss = 1/n sum_t w_t (logsumexp(y_t) - y_t[target_t])

Backward. dv stands for the derivative of the loss by v.

    (B1)  dy_t = w_t / n (softmax(y_t) - onehot(target_t))
    (B2)  dW_r = sum_t (m_r h_t)' dy_t,  db_r = sum_t dy_t
          what arrives from above:  e_t = m_r (dy_t W_r')
    (B3)  dh_t = e_t + k_{t+1} (dz_{t+1} U')
    (B4)  dc_t = dh_t o_t (1 - tanh(c_t)^2) + k_{t+1} f_{t+1} dc_{t+1}
    (B5)  dz^i_t = dc_t g_t  i_t (1 - i_t)
          dz^f_t = dc_t c~_t f_t (1 - f_t)
          dz^g_t = dc_t i_t  (1 - g_t^2)
          dz^o_t = dh_t tanh(c_t) o_t (1 - o_t)
    (B6)  dU = sum_t h~_t' dz_t,  db = sum_t dz_t
    (B7)  dW = sum_t (m x_t)' dz_t; for an id: dz_t, times m, is added to the id's row
          what the layer below receives:  e_t = m (dz_t W')
    (B8)  dE: e_t of the first layer is added to the id's row of the embedding

At the end of the sequence the terms with t+1 in (B3) and (B4) are the gradient that arrives at the
final state (zero in training: the carry is where backpropagation is truncated), and at its start
the same terms are the gradient of the initial state.

Only (B3) and (B4) run from step to step; they are the reverse scan. Everything else is one
elementwise pass or one large product over all of T and B.

`truncated` leaves dz_{t+1} U' out of (B3): the error goes back in time through the cell state
alone, the rule of Hochreiter and Schmidhuber 1997 (appendix A), whose gates saw no error from
later steps either.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cell import Gates, LSTMParams, LSTMState, activate, advance
from lstm_jax.data.batches import Batch
from lstm_jax.layer import project, reset_state
from lstm_jax.loss import Aux
from lstm_jax.model import Carry, LMParams, Masks, Readout, no_masks


class Residuals(NamedTuple):
    """What a layer's backward needs of its forward, each TxBxH."""

    gates: Gates  # (F3)
    before: LSTMState  # (F1), the state that each step read
    c: Array  # (F4)


def unroll_forward(
    params: LSTMParams, state: LSTMState, z_TxBxG: Array, resets_TxB: Array | None
) -> tuple[LSTMState, Array, Residuals]:
    """(F1) to (F5) from the projected inputs: the final state, the outputs TxBxH, the residuals."""

    def step(
        state: LSTMState, inputs: tuple[Array, Array | None]
    ) -> tuple[LSTMState, tuple[LSTMState, Gates]]:
        z_BxG, resets_B = inputs
        if resets_B is not None:
            state = reset_state(state, resets_B)
        gates = activate(z_BxG + state.h @ params.U)
        state = advance(state, gates)
        return state, (state, gates)

    final, (states, gates) = lax.scan(step, state, (z_TxBxG, resets_TxB))
    before = jax.tree.map(lambda s0, s: jnp.concatenate([s0[None], s[:-1]]), state, states)
    if resets_TxB is not None:
        before = jax.vmap(reset_state)(before, resets_TxB)
    return final, states.h, Residuals(gates, before, states.c)


def cell_backward(
    gates: Gates, c_before: Array, c: Array, dh: Array, dc_next: Array
) -> tuple[Array, Array]:
    """The pointwise calculus of one step, all BxH: dz (BxG) and what goes to the cell before.

    `dh` is all that arrives at h_t (B3); `dc_next` what arrives at c_t from the step after.
    """
    i, f, g, o = gates
    tanh_c = jnp.tanh(c)
    dc = dh * o * (1 - tanh_c * tanh_c) + dc_next  # (B4)
    dz_BxG = jnp.concatenate(  # (B5)
        [
            dc * g * i * (1 - i),
            dc * c_before * f * (1 - f),
            dc * i * (1 - g * g),
            dh * tanh_c * o * (1 - o),
        ],
        axis=-1,
    )
    return dz_BxG, dc * f


def unroll_backward(
    U_HxG: Array,
    residuals: Residuals,
    resets_TxB: Array | None,
    e_TxBxH: Array,
    dfinal: LSTMState,
    *,
    truncated: bool = False,
) -> tuple[LSTMState, Array]:
    """The reverse scan (B3) to (B5): the gradient of the initial state, and dz TxBxG.

    Args:
      e_TxBxH: what arrives at the outputs from above.
      dfinal: what arrives at the final state.
    """
    # Transposed once, outside the loop, and kept from being folded back into the product.
    U_GxH = lax.optimization_barrier(U_HxG.T)

    def step(
        dnext: LSTMState, inputs: tuple[Gates, Array, Array, Array | None, Array]
    ) -> tuple[LSTMState, Array]:
        gates, c_before, c, resets_B, e_BxH = inputs
        dz_BxG, dc_BxH = cell_backward(gates, c_before, c, e_BxH + dnext.h, dnext.c)
        dh_BxH = jnp.zeros_like(dc_BxH) if truncated else dz_BxG @ U_GxH  # (B3)
        dbefore = LSTMState(dh_BxH, dc_BxH)
        if resets_B is not None:
            dbefore = reset_state(dbefore, resets_B)  # k_t: nothing passes a reset
        return dbefore, dz_BxG

    inputs = (residuals.gates, residuals.before.c, residuals.c, resets_TxB, e_TxBxH)
    return lax.scan(step, dfinal, inputs, reverse=True)


def outer_sum(a_TxBxN: Array, b_TxBxM: Array) -> Array:
    """sum_t a_t' b_t over steps and lanes, as one product: NxM."""
    return lax.dot_general(a_TxBxN, b_TxBxM, (((0, 1), (0, 1)), ((), ())))


def add_rows(ids_TxB: Array, d_TxBxN: Array, num_rows: int) -> Array:
    """The gradient of looking up rows by id: each d is added to its id's row."""
    zeros = jnp.zeros((num_rows, d_TxBxN.shape[-1]), d_TxBxN.dtype)
    return zeros.at[ids_TxB].add(d_TxBxN)


def project_backward(
    params: LSTMParams, x: Array, mask_BxD: Array | None, dz_TxBxG: Array
) -> tuple[Array, Array | None]:
    """(B7): the gradient of W, and of the input x where x is not ids (TxBxD)."""
    if jnp.issubdtype(x.dtype, jnp.integer):
        if mask_BxD is not None:
            dz_TxBxG = dz_TxBxG * mask_BxD[jnp.arange(x.shape[1]), x][..., None]
        return add_rows(x, dz_TxBxG, params.W.shape[0]), None
    masked_TxBxD = x if mask_BxD is None else x * mask_BxD
    dx_TxBxD = dz_TxBxG @ params.W.T
    if mask_BxD is not None:
        dx_TxBxD = dx_TxBxD * mask_BxD
    return outer_sum(masked_TxBxD, dz_TxBxG), dx_TxBxD


def layer_backward(
    params: LSTMParams,
    residuals: Residuals,
    x: Array,
    mask_BxD: Array | None,
    resets_TxB: Array | None,
    e_TxBxH: Array,
    dfinal: LSTMState,
    *,
    truncated: bool = False,
) -> tuple[LSTMParams, LSTMState, Array | None]:
    """One layer, (B3) to (B7): the gradients of its parameters, initial state and input."""
    dinitial, dz_TxBxG = unroll_backward(
        params.U, residuals, resets_TxB, e_TxBxH, dfinal, truncated=truncated
    )
    dW, dx = project_backward(params, x, mask_BxD, dz_TxBxG)
    dU = outer_sum(residuals.before.h, dz_TxBxG)  # (B6)
    return LSTMParams(dW, dU, jnp.sum(dz_TxBxG, (0, 1))), dinitial, dx


def loss_backward(logits_TxBxV: Array, batch: Batch) -> tuple[Array, Array, Array]:
    """(F7) and (B1): the loss, the count n and dy TxBxV."""
    top_TxBx1 = jnp.max(logits_TxBxV, axis=-1, keepdims=True)
    exp_TxBxV = jnp.exp(logits_TxBxV - top_TxBx1)
    sum_TxBx1 = jnp.sum(exp_TxBxV, axis=-1, keepdims=True)
    hit_TxBxV = jax.nn.one_hot(batch.targets, logits_TxBxV.shape[-1], dtype=logits_TxBxV.dtype)
    target_TxB = jnp.sum(hit_TxBxV * (logits_TxBxV - top_TxBx1), axis=-1)
    nll_TxB = jnp.log(sum_TxBx1[..., 0]) - target_TxB

    mask_TxB = jnp.ones(nll_TxB.shape, bool) if batch.mask is None else batch.mask
    count = jnp.sum(mask_TxB)
    weight_TxB = mask_TxB.astype(nll_TxB.dtype) / jnp.maximum(count, 1).astype(nll_TxB.dtype)
    dy_TxBxV = (exp_TxBxV / sum_TxBx1 - hit_TxBxV) * weight_TxB[..., None]
    return jnp.sum(nll_TxB * weight_TxB), count, dy_TxBxV


def value_and_grad(
    params: LMParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
    *,
    dcarry: Carry | None = None,
    truncated: bool = False,
) -> tuple[tuple[Array, Aux], LMParams]:
    """The loss of `loss.sequence_loss` and its gradient by every parameter.

    Args:
      params, carry, batch, masks: as `sequence_loss` takes them.
      dcarry: a gradient that arrives at the final carry, from whatever comes after; None: zero.
      truncated: leaves the recurrent term out of (B3).

    Returns:
      ((loss, aux), gradients), as `jax.value_and_grad(sequence_loss, has_aux=True)` does.
    """
    masks = masks or no_masks(params)
    ids_TxB, resets_TxB = batch.inputs, batch.resets
    x = ids_TxB if params.embedding is None else params.embedding[ids_TxB]
    inputs, residuals, states = [], [], []
    for layer, state, mask_BxD in zip(params.layers, carry, masks.layers, strict=True):
        inputs.append(x)
        z_TxBxG = project(layer, x, mask_BxD)
        state, x, kept = unroll_forward(layer, state, z_TxBxG, resets_TxB)
        states.append(state)
        residuals.append(kept)

    h_TxBxH = x if masks.readout is None else x * masks.readout
    logits_TxBxV = h_TxBxH @ params.readout.W + params.readout.b  # (F6)
    loss, count, dy_TxBxV = loss_backward(logits_TxBxV, batch)
    dreadout = Readout(W=outer_sum(h_TxBxH, dy_TxBxV), b=jnp.sum(dy_TxBxV, (0, 1)))  # (B2)
    e_TxBxH = dy_TxBxV @ params.readout.W.T
    if masks.readout is not None:
        e_TxBxH = e_TxBxH * masks.readout

    if dcarry is None:
        dcarry = jax.tree.map(jnp.zeros_like, tuple(states))
    dlayers: list[LSTMParams] = []
    for layer, kept, x, mask_BxD, dfinal in reversed(
        list(zip(params.layers, residuals, inputs, masks.layers, dcarry, strict=True))
    ):
        dlayer, _, e_TxBxH = layer_backward(
            layer, kept, x, mask_BxD, resets_TxB, e_TxBxH, dfinal, truncated=truncated
        )
        dlayers.insert(0, dlayer)
    dembedding = None
    if params.embedding is not None:
        dembedding = add_rows(ids_TxB, e_TxBxH, params.embedding.shape[0])  # (B8)
    return (loss, Aux(tuple(states), count)), LMParams(dembedding, tuple(dlayers), dreadout)


@jax.custom_vjp
def bptt_layer(
    params: LSTMParams, state: LSTMState, x: Array, resets_TxB: Array | None = None
) -> tuple[LSTMState, Array]:
    """One LSTM layer for a model of your own: `layer.unroll`, with the backward of this module.

    Composes with jit, vmap and reverse-mode differentiation of any loss on top. Forward mode
    (jax.jvp, jax.jacfwd) raises a TypeError: only the reverse derivative is known here.

    Args:
      params: one layer's parameters (`cell.init_cell`), of any float dtype.
      state: the initial state, BxH (`cell.init_state`); it has a gradient too.
      x: TxBxD in the dtype of the parameters, or integer ids TxB.
      resets_TxB: True where a lane starts from the zero state before it reads x[t]; None: nowhere.

    Returns:
      The final state and the outputs TxBxH; both may be differentiated.
    """
    return _layer_forward(params, state, x, resets_TxB)[0]


def _layer_forward(
    params: LSTMParams, state: LSTMState, x: Array, resets_TxB: Array | None
) -> tuple[tuple[LSTMState, Array], tuple]:
    final, h_TxBxH, residuals = unroll_forward(params, state, project(params, x), resets_TxB)
    return (final, h_TxBxH), (params, residuals, x, resets_TxB)


def _layer_backward(
    kept: tuple, d: tuple[LSTMState, Array]
) -> tuple[LSTMParams, LSTMState, Array | None, None]:
    params, residuals, x, resets_TxB = kept
    dfinal, dh_TxBxH = d
    dparams, dinitial, dx = layer_backward(params, residuals, x, None, resets_TxB, dh_TxBxH, dfinal)
    return dparams, dinitial, dx, None


bptt_layer.defvjp(_layer_forward, _layer_backward)
