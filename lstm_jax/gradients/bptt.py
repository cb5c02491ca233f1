"""Backpropagation through time, derived by hand.

Nothing here is differentiated by JAX: the derivatives are the ones written out in the equations
below, and the code cites their numbers. A layer's passes stand in `rows` and, laid out for CPUs, in
`columns`; here is what joins them: the loss, the readout, the stack.

Forward. The lane index is left out, products of vectors are elementwise, k_t is 0 where a lane is
reset before step t and 1 elsewhere, m is a dropout mask (1 where there is none), w_t is 1 where
the target counts, n is how many do.

    (F1)  h~_t = k_t h_{t-1},  c~_t = k_t c_{t-1}               what step t reads
    (F2)  z_t  = (m x_t) W + h~_t U + b                         x_t: input, or the layer below's u_t
    (F3)  i = sigmoid(z^i), f = sigmoid(z^f), g = tanh(z^g), o = sigmoid(z^o)
    (F4)  c_t  = f_t c~_t + i_t g_t
    (F5)  h_t  = o_t tanh(c_t)
          u_t  = h_t + s x_t                                    with a skip; else u_t is h_t
    (F6)  y_t  = (m_r u_t) W_r + b_r                            the top layer's u_t
    (F7)  loss = 1/n sum_t w_t (logsumexp(y_t) - y_t[target_t])

Backward. dv stands for the derivative of the loss by v.

    (B1)  dy_t = w_t / n (softmax(y_t) - onehot(target_t))
    (B2)  dW_r = sum_t (m_r u_t)' dy_t,  db_r = sum_t dy_t
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
    (B8)  dE: e_t of the first layer, times the id's mask m_e, is added to its row of the embedding
    (B9)  ds = sum_t e_t x_t, and the layer below receives s e_t as well

At the end of the sequence the terms with t+1 in (B3) and (B4) are the gradient that arrives at the
final state (zero in training: the carry is where backpropagation is truncated), and at its start
the same terms are the gradient of the initial state.

Only (B3) and (B4) run from step to step; they are the reverse scan. Everything else is one
elementwise pass or one large product over all of T and B.

`truncated` leaves dz_{t+1} U' out of (B3): the error goes back in time through the cell state
alone, the rule of Hochreiter and Schmidhuber 1997 (appendix A), whose gates saw no error from
later steps either.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells import columns, rows
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.cells.projection import mask_of_ids
from lstm_jax.cells.rows import add_rows, outer_sum
from lstm_jax.data.batches import Batch
from lstm_jax.heads import Head, softmax
from lstm_jax.layer import check_shapes
from lstm_jax.loss import Aux
from lstm_jax.meshes import split_alike, split_lanes, vary_alike
from lstm_jax.model import Carry, Masks, ModelParams, Readout, embed, no_masks, sizes


class Layout(NamedTuple):
    """A layer's passes, and how its sequences are laid out."""

    forward: Callable[..., tuple[LSTMState, Array, Any]]
    backward: Callable[..., tuple[LSTMParams, LSTMState, Array | None]]
    enter: Callable[[Array], Array]  # from TxBxD
    leave: Callable[[Array], Array]  # to TxBxD


ROWS = Layout(rows.forward, rows.backward, enter=lambda a: a, leave=lambda a: a)
COLUMNS = Layout(columns.forward, columns.backward, enter=columns.to_columns, leave=columns.to_rows)

# From this hidden size on, CPUs run `columns` faster than `rows`: BUILD_NOTES.md has the times.
COLUMNS_FROM = 512


def loss_backward(
    head: Head, outputs_TxBxN: Array, batch: Batch, count: Array | None = None
) -> tuple[Array, Array, Array]:
    """(F7) and (B1): the loss, the count n and dy TxBxN. `count`: n, if not the batch's own."""
    losses_TxB, dy_TxBxN = head.by_hand(outputs_TxBxN, batch.targets)
    mask_TxB = jnp.ones(losses_TxB.shape, bool) if batch.mask is None else batch.mask
    count = jnp.sum(mask_TxB) if count is None else count
    weight_TxB = mask_TxB.astype(losses_TxB.dtype) / jnp.maximum(count, 1).astype(losses_TxB.dtype)
    return jnp.sum(losses_TxB * weight_TxB), count, dy_TxBxN * weight_TxB[..., None]


def value_and_grad(
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
    *,
    head: Head = softmax,
    dcarry: Carry | None = None,
    truncated: bool = False,
) -> tuple[tuple[Array, Aux], ModelParams]:
    """The loss of `loss.sequence_loss` and its gradient by every parameter.

    Args:
      params, carry, batch, masks: as `sequence_loss` takes them.
      dcarry: a gradient that arrives at the final carry, from whatever comes after; None: zero.
      truncated: leaves the recurrent term out of (B3).

    Returns:
      ((loss, aux), gradients), as `jax.value_and_grad(sequence_loss, has_aux=True)` does.
    """
    return block_value_and_grad(
        params, carry, batch, masks, dcarry, head=head, truncated=truncated
    )[:2]


def value_and_grad_in(
    layout: Layout,
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
    dcarry: Carry | None = None,
    *,
    head: Head = softmax,
    truncated: bool = False,
) -> tuple[tuple[Array, Aux], ModelParams]:
    """`value_and_grad` in a given layout, whatever the platform."""
    return block_value_and_grad_in(
        layout, params, carry, batch, masks, dcarry, head=head, truncated=truncated
    )[:2]


def knows(params: ModelParams) -> bool:
    """Whether the backward of this module is that of such a model."""
    plain_readout = params.readout.W is not None and params.readout.P is None
    lstm = all(type(layer) is LSTMParams for layer in params.layers)
    return lstm and plain_readout


def check_known(params: ModelParams, masks: Masks) -> None:
    """Raises TypeError for what has no derivation here."""
    if not knows(params) or masks.zoneout is not None:
        raise TypeError("the backward by hand is that of the plain LSTM: take autodiff")


def in_layout(function: Callable[..., Any], params: ModelParams, *args: Any) -> Any:
    """`function(layout, params, *args)` in the layout that suits the size and the platform."""
    by_rows = partial(function, ROWS)
    if sizes(params)[0] < COLUMNS_FROM:
        return by_rows(params, *args)
    return lax.platform_dependent(params, *args, cpu=partial(function, COLUMNS), default=by_rows)


def block_value_and_grad(
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
    dcarry: Carry | None = None,
    count: Array | None = None,
    *,
    head: Head = softmax,
    truncated: bool = False,
) -> tuple[tuple[Array, Aux], ModelParams, Carry]:
    """`value_and_grad` of a part of a longer sequence: `gradient.BlockGrad.backward`."""
    function = partial(block_value_and_grad_in, head=head, truncated=truncated)
    return in_layout(function, params, carry, batch, masks, dcarry, count)


def final_carry(
    params: ModelParams, carry: Carry, batch: Batch, masks: Masks | None = None
) -> Carry:
    """The carry after the last step, and nothing else: `gradient.BlockGrad.forward`."""

    def function(layout: Layout, *problem: Any) -> Carry:
        return stack_forward(layout, *problem)[0]

    return in_layout(function, params, carry, batch, masks or no_masks(params))


def skip_forward(layout: Layout, skip_H: Array, below: Array, h: Array) -> Array:
    """(F5): what a layer puts out where what it read goes past it, too."""
    return h + layout.enter(skip_H[None])[None] * below


def skip_backward(layout: Layout, skip_H: Array, below: Array, e: Array) -> tuple[Array, Array]:
    """(B9): the gradient of the skip, and what it hands to the layer below."""
    return jnp.sum(layout.leave(e * below), (0, 1)), layout.enter(skip_H[None])[None] * e


def in_dtypes_of(arrays: Any, gradients: Any) -> Any:
    """The gradients in the dtypes of what they are the gradients of."""
    return jax.tree.map(lambda a, d: d.astype(a.dtype), arrays, gradients)


class Kept(NamedTuple):
    """What a layer's place in the stack needs of the forward pass."""

    read: Array  # what the layer read, nothing dropped
    residuals: Any  # the layout's own


def stack_forward(
    layout: Layout, params: ModelParams, carry: Carry, batch: Batch, masks: Masks
) -> tuple[Carry, Array, list[Kept]]:
    """All layers forward: the final carry, the top layer's outputs, what the backward needs."""
    check_known(params, masks)
    carry = vary_alike(split_lanes(carry, batch.inputs), params, batch, masks)
    x = embed(params, batch.inputs, masks.embedding)
    if params.embedding is not None:
        x = layout.enter(x)
    states, kept = [], []
    for n, (layer, state, mask_BxD) in enumerate(
        zip(params.layers, carry, masks.layers, strict=True)
    ):
        read = x
        state, x, residuals = layout.forward(layer, state, read, mask_BxD, batch.resets)
        if n and params.skips is not None:
            x = skip_forward(layout, params.skips[n - 1], read, x)
        states.append(state)
        kept.append(Kept(read, residuals))
    return tuple(states), layout.leave(x), kept


def stack_backward(
    layout: Layout,
    params: ModelParams,
    kept: list[Kept],
    masks: Masks,
    resets_TxB: Array | None,
    e: Array,
    dcarry: Carry,
    *,
    truncated: bool,
) -> tuple[tuple[LSTMParams, ...], tuple[Array, ...] | None, Carry, Array | None]:
    """All layers backward: the gradients of the layers, the skips, the initial carry, and what the
    first layer read.

    Args:
      e: what arrives at the top layer's outputs, in the layout.
    """
    dlayers, dskips, dstarts = [], [], []
    for n in reversed(range(len(params.layers))):
        dlayer, dstart, dread = layout.backward(
            params.layers[n],
            kept[n].residuals,
            masks.layers[n],
            resets_TxB,
            e.astype(dcarry[n].h.dtype),
            dcarry[n],
            truncated=truncated,
        )
        dlayers.insert(0, dlayer)
        dstarts.insert(0, dstart)
        if n and params.skips is not None:
            dskip, past = skip_backward(layout, params.skips[n - 1], kept[n].read, e)
            dskips.insert(0, dskip)
            dread = dread + past
        e = dread
    return tuple(dlayers), None if params.skips is None else tuple(dskips), tuple(dstarts), e


def block_value_and_grad_in(
    layout: Layout,
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
    dcarry: Carry | None = None,
    count: Array | None = None,
    *,
    head: Head = softmax,
    truncated: bool = False,
) -> tuple[tuple[Array, Aux], ModelParams, Carry]:
    """`block_value_and_grad` in a given layout, whatever the platform."""
    masks = masks or no_masks(params)
    states, h_TxBxH, kept = stack_forward(layout, params, carry, batch, masks)
    (loss, count), dreadout, e_TxBxH = readout_backward(
        head, params.readout, h_TxBxH, masks.readout, batch, count
    )
    if dcarry is None:
        dcarry = jax.tree.map(jnp.zeros_like, states)
    e = layout.enter(e_TxBxH)
    dlayers, dskips, dstarts, e = stack_backward(
        layout, params, kept, masks, batch.resets, e, dcarry, truncated=truncated
    )
    dembedding = None
    if params.embedding is not None:
        dembedding = embed_backward(
            params.embedding, batch.inputs, masks.embedding, layout.leave(e)
        )
    dparams = in_dtypes_of(params, ModelParams(dembedding, dlayers, dreadout, dskips))
    return (loss, Aux(states, count)), dparams, dstarts


def embed_backward(
    embedding_VxE: Array, ids_TxB: Array, mask_BxV: Array | None, e_TxBxE: Array
) -> Array:
    """(B8): the embedding's gradient, VxE."""
    if mask_BxV is not None:
        e_TxBxE = e_TxBxE * mask_of_ids(mask_BxV, ids_TxB)[..., None]
    return add_rows(ids_TxB, e_TxBxE, embedding_VxE.shape[0])


def readout_backward(
    head: Head,
    readout: Readout,
    h_TxBxH: Array,
    mask_BxH: Array | None,
    batch: Batch,
    count: Array | None = None,
) -> tuple[tuple[Array, Array], Readout, Array]:
    """(F6) to (B2): the loss and its count, the readout's gradient, the top layer's e TxBxH."""
    masked_TxBxH = h_TxBxH if mask_BxH is None else h_TxBxH * mask_BxH[None]
    logits_TxBxV = masked_TxBxH @ readout.W + readout.b[None, None]  # (F6)
    loss, count, dy_TxBxV = loss_backward(head, logits_TxBxV, batch, count)
    dtype = dy_TxBxV.dtype  # float32 at least
    e_TxBxH = dy_TxBxV @ readout.W.T.astype(dtype)  # (B2)
    if mask_BxH is not None:
        e_TxBxH = e_TxBxH * mask_BxH[None].astype(dtype)
    dreadout = Readout(
        W=outer_sum(masked_TxBxH.astype(dtype), dy_TxBxV), b=jnp.sum(dy_TxBxV, (0, 1))
    )
    return (loss, count), dreadout, e_TxBxH


def bptt_layer(
    params: LSTMParams, state: LSTMState, x: Array, resets_TxB: Array | None = None
) -> tuple[LSTMState, Array]:
    """One LSTM layer for a model of your own: `layer.unroll`, with the backward of this module.

    Composes with jit, vmap, shard_map, Explicit meshes and reverse-mode differentiation of any loss
    on top. Forward mode (jax.jvp, jax.jacfwd) raises a TypeError: only the reverse derivative is
    known here. Each gradient is of the dtype of what it is the gradient of.

    Args:
      params: one layer's parameters (`cell.init_cell`), of any float dtype.
      state: the initial state, BxH (`cell.init_state`), of the widest dtype; it has a gradient too.
      x: TxBxD of any float dtype, or integer ids TxB.
      resets_TxB: True where a lane starts from the zero state before it reads x[t]; None: nowhere.

    Returns:
      The final state and the outputs TxBxH; both may be differentiated.

    Raises ValueError, with all shapes, where they do not fit.
    """
    check_shapes(params, state, x, resets_TxB)
    state, x, resets_TxB = split_alike(state, x, resets_TxB)
    return _layer(*vary_alike((params, state, x, resets_TxB)))


@jax.custom_vjp
def _layer(
    params: LSTMParams, state: LSTMState, x: Array, resets_TxB: Array | None
) -> tuple[LSTMState, Array]:
    """`bptt_layer`, of arguments that lie alike."""
    return _layer_forward(params, state, x, resets_TxB)[0]


def _layer_forward(
    params: LSTMParams, state: LSTMState, x: Array, resets_TxB: Array | None
) -> tuple[tuple[LSTMState, Array], tuple]:
    final, h_TxBxH, residuals = rows.forward(params, state, x, None, resets_TxB)
    return (final, h_TxBxH), (params, residuals, resets_TxB)


def _layer_backward(
    kept: tuple, d: tuple[LSTMState, Array]
) -> tuple[LSTMParams, LSTMState, Array | None, None]:
    params, residuals, resets_TxB = kept
    dfinal, dh_TxBxH = d
    dparams, dinitial, dx = rows.backward(params, residuals, None, resets_TxB, dh_TxBxH, dfinal)
    dx = None if dx is None else dx.astype(residuals.x.dtype)
    return in_dtypes_of(params, dparams), dinitial, dx, None


_layer.defvjp(_layer_forward, _layer_backward)
