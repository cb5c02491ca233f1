"""Backpropagation through time, derived by hand.

Nothing here is differentiated by JAX: the derivatives are the ones written out in equations, and
the code cites their numbers. A cell's own stand in its file, those of the loops over time in
`cells.passes`, those of the losses in `heads`. Here is what joins them: the embedding, the stack,
the readout.

Forward. The lane index is left out, and products of vectors are elementwise. m is a dropout mask (1
where there is none); w_t is 1 where the target counts, and n is how many do.

    (M1)  x_t of the first layer: what comes in, or E[id_t] times the id's mask m_e
    (M2)  h_t  = layer(x_t, ...)                                a cell over time, `cells.passes`
          u_t  = h_t + s x_t                                    with a skip; else u_t is h_t
    (M3)  r_t  = m_r u_t,  or (m_r u_t) P behind P              the top layer's u_t
          y_t  = r_t W_r + b_r                                  tied: W_r is E'
    (M4)  loss = 1/n sum_t w_t l(y_t, target_t)                 l: `heads`

Backward. dv stands for the derivative of the loss by v.

    (N1)  dy_t = w_t / n dl(y_t, target_t)
    (N2)  dW_r = sum_t r_t' dy_t,  db_r = sum_t dy_t            tied: dE gains dW_r'
          dP   = sum_t (m_r u_t)' (dy_t W_r')
          what arrives at the top layer: e_t = m_r (dy_t W_r'), or m_r (dy_t W_r' P')
    (N3)  ds = sum_t e_t x_t, and the layer below receives s e_t besides the layer's dx_t
    (N4)  dE: the first layer's dx_t, times m_e, is added to the id's row
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells import cell_of
from lstm_jax.cells.cell import Marks, Passes
from lstm_jax.cells.passes import COLUMNS, ROWS, Layout
from lstm_jax.cells.projection import add_rows, mask_of_ids, outer_sum, reads_ids
from lstm_jax.data.batches import Batch, Values, as_array
from lstm_jax.gradients.known import missing_by_hand
from lstm_jax.heads import Head, softmax
from lstm_jax.loss import Aux, count_targets, counted, known_targets
from lstm_jax.meshes import split_lanes, vary_alike
from lstm_jax.model import (
    Carry,
    Masks,
    ModelParams,
    Readout,
    embed,
    hidden_sizes,
    no_masks,
    output_size,
)
from lstm_jax.pieces import cut, steps_at_once

# From this hidden size on, CPUs run columns faster than rows: BUILD_NOTES.md has the times.
COLUMNS_FROM = 512


def value_and_grad(
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
    *,
    head: Head = softmax,
    dcarry: Carry | None = None,
    truncated: bool = False,
    layout: Layout | None = None,
) -> tuple[tuple[Array, Aux], ModelParams]:
    """The loss of `loss.sequence_loss` and its gradient by every parameter.

    Args:
      params, carry, batch, masks, head: as `sequence_loss` takes them.
      dcarry: a gradient that arrives at the final carry, from whatever comes after; None: zero.
      truncated: by the truncated rule (`cells.lstm`).
      layout: of the loops, `ROWS` or `COLUMNS`; None: as suits the sizes and the platform.

    Returns:
      ((loss, aux), gradients), as `jax.value_and_grad(sequence_loss, has_aux=True)` does.

    Raises TypeError for a model that has no backward by hand.
    """
    return backpropagate(
        params, carry, batch, masks, dcarry, head=head, truncated=truncated, layout=layout
    )[:2]


def backpropagate(
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
    dcarry: Carry | None = None,
    count: Array | None = None,
    *,
    head: Head = softmax,
    truncated: bool = False,
    layout: Layout | None = None,
) -> tuple[tuple[Array, Aux], ModelParams, Carry]:
    """`value_and_grad` of a part of a longer sequence: `gradients.BlockGradient.backward`."""
    check_known(params, head, truncated=truncated)
    function = partial(backpropagate_in, head=head, truncated=truncated)
    return in_best_layout(layout, function, params, carry, batch, masks, dcarry, count)


def final_carry(
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None = None,
    *,
    layout: Layout | None = None,
) -> Carry:
    """The carry after the last step, and nothing else: `gradients.BlockGradient.forward`."""
    check_known(params)

    def function(layout: Layout, *problem: Any) -> Carry:
        return stack_forward(layout, *problem)[0]

    return in_best_layout(layout, function, params, carry, batch, masks or no_masks(params))


def check_known(params: ModelParams, head: Head = softmax, *, truncated: bool = False) -> None:
    """Raises TypeError for what has no derivation."""
    missing = missing_by_hand(map(cell_of, params.layers), head, truncated=truncated)
    if missing:
        raise TypeError(f"the backward by hand is {missing}: take autodiff")


def in_best_layout(
    layout: Layout | None, function: Callable[..., Any], params: ModelParams, *args: Any
) -> Any:
    """`function(layout, params, *args)`; with no layout, in the one that suits the sizes and the
    platform, which is rows where some cell knows no other."""
    if layout is not None:
        return function(layout, params, *args)
    by_rows = partial(function, ROWS)
    known = all(COLUMNS.name in cell_of(layer).by_hand for layer in params.layers)
    if max(hidden_sizes(params)) < COLUMNS_FROM or not known:
        return by_rows(params, *args)
    return lax.platform_dependent(params, *args, cpu=partial(function, COLUMNS), default=by_rows)


def passes_of(layout: Layout, layer: Any) -> Passes:
    """A layer's passes in a layout."""
    return cell_of(layer).by_hand[layout.name]


def backpropagate_in(
    layout: Layout,
    params: ModelParams,
    carry: Carry,
    batch: Batch,
    masks: Masks | None,
    dcarry: Carry | None,
    count: Array | None,
    *,
    head: Head,
    truncated: bool,
) -> tuple[tuple[Array, Aux], ModelParams, Carry]:
    """`backpropagate` in a given layout, whatever the platform."""
    masks = masks or no_masks(params)
    states, h_TxBxH, kept = stack_forward(layout, params, carry, batch, masks)
    (loss, dreadout, dtied), count, e_TxBxH = outputs_backward(
        head, params, h_TxBxH, batch, masks.readout, count
    )
    if dcarry is None:
        dcarry = jax.tree.map(jnp.zeros_like, states)
    e = layout.enter(e_TxBxH)
    stack = StackGradient.of(layout, params, kept, masks, batch, e, dcarry, truncated=truncated)
    dembedding = None
    if params.embedding is not None:
        assert stack.e is not None  # the first layer reads embeddings, not ids
        de_TxBxE = layout.leave(stack.e)
        dembedding = embed_backward(params.embedding, batch.inputs, masks.embedding, de_TxBxE)
        dembedding = dembedding if dtied is None else dembedding + dtied
    dparams = in_dtypes_of(params, ModelParams(dembedding, stack.layers, dreadout, stack.skips))
    return (loss, Aux(states, count)), dparams, stack.carry


# The loss, the readout's gradient, and what a tied readout adds to the embedding's.
OverTime = tuple[Array, Readout, Array | None]  # sums over steps and lanes, all of them


def outputs_backward(
    head: Head,
    params: ModelParams,
    h_TxBxH: Array,
    batch: Batch,
    mask_BxH: Array | None,
    count: Array | None,
) -> tuple[OverTime, Array, Array]:
    """(M3), (M4), (N1) and (N2): what is a sum over time, the count n, and e TxBxH.

    In pieces of time where the outputs are too many for one.
    """

    def backward(
        h_TxBxH: Array, batch: Batch, count: Array | None
    ) -> tuple[OverTime, Array, Array]:
        read = read_forward(params, h_TxBxH, mask_BxH)
        loss, count, dy_TxBxV = loss_backward(head, read.outputs, batch, count)
        dreadout, dtied, e_TxBxH = read_backward(params, read, mask_BxH, dy_TxBxV)
        return (loss, dreadout, dtied), count, e_TxBxH

    T, B, H = h_TxBxH.shape
    length = steps_at_once(T, B, output_size(params), head.most_outputs)
    if length == T:
        return backward(h_TxBxH, batch, count)
    count = count_targets(batch) if count is None else count

    def add(total: OverTime, piece: tuple[Array, Batch]) -> tuple[OverTime, Array]:
        part, _, e_LxBxH = backward(*piece, count)
        return jax.tree.map(jnp.add, total, part), e_LxBxH

    pieces, last = cut((h_TxBxH, batch), length)
    total, _, e_last = backward(*last, count)
    total, e_NxLxBxH = lax.scan(add, total, pieces)
    return total, count, jnp.concatenate([e_NxLxBxH.reshape(-1, B, H), e_last])


def loss_backward(
    head: Head, outputs_TxBxV: Array, batch: Batch, count: Array | None = None
) -> tuple[Array, Array, Array]:
    """(M4) and (N1): the loss, the count n and dy TxBxV. `count`: n, if not the batch's own."""
    assert head.by_hand is not None  # `check_known` has refused the others
    losses_TxB, dy_TxBxV = head.by_hand(outputs_TxBxV, known_targets(batch))
    mask_TxB = counted(batch)
    mask_TxB = jnp.ones(losses_TxB.shape, bool) if mask_TxB is None else mask_TxB
    count = jnp.sum(mask_TxB) if count is None else count
    weight_TxB = mask_TxB.astype(losses_TxB.dtype) / jnp.maximum(count, 1).astype(losses_TxB.dtype)
    return jnp.sum(losses_TxB * weight_TxB), count, dy_TxBxV * weight_TxB[..., None]


def skip_forward(layout: Layout, skip_H: Array, below: Array, h: Array) -> Array:
    """(M2): what a layer puts out where what it read goes past it, too."""
    return h + layout.enter(skip_H[None])[None] * below


def skip_backward(layout: Layout, skip_H: Array, below: Array, e: Array) -> tuple[Array, Array]:
    """(N3): the gradient of the skip, and what it hands to the layer below."""
    return jnp.sum(layout.leave(e * below), (0, 1)), layout.enter(skip_H[None])[None] * e


def in_dtypes_of(arrays: Any, gradients: Any) -> Any:
    """The gradients in the dtypes of what they are the gradients of."""
    return jax.tree.map(lambda a, d: d.astype(a.dtype), arrays, gradients)


class Kept(NamedTuple):
    """What a layer's place in the stack needs of the forward pass."""

    read: Array  # what the layer read, nothing dropped
    residuals: Any  # the layout's own


def marks_of(batch: Batch, masks: Masks, n: int) -> Marks:
    """What is special about layer n's steps."""
    resets_TxB, live_TxB = as_array(batch.resets), as_array(batch.live)
    return Marks(resets_TxB, live_TxB, masks.zoneout and masks.zoneout[n])


def stack_forward(
    layout: Layout, params: ModelParams, carry: Carry, batch: Batch, masks: Masks
) -> tuple[Carry, Array, list[Kept]]:
    """All layers forward: the final carry, the top layer's outputs, what the backward needs."""
    carry = vary_alike(split_lanes(carry, jnp.asarray(batch.inputs)), params, batch, masks)
    x = embed(params, batch.inputs, batch.live, masks.embedding)
    if not reads_ids(x):
        x = layout.enter(x)
    states, kept = [], []
    for n, (layer, state, mask_BxD) in enumerate(
        zip(params.layers, carry, masks.layers, strict=True)
    ):
        read, marks = x, marks_of(batch, masks, n)
        state, x, residuals = passes_of(layout, layer).forward(layer, state, read, mask_BxD, marks)
        if n and params.skips is not None:
            x = skip_forward(layout, params.skips[n - 1], read, x)
        states.append(state)
        kept.append(Kept(read, residuals))
    return tuple(states), layout.leave(x), kept


class StackGradient(NamedTuple):
    """What the layers backward give."""

    layers: tuple[Any, ...]
    skips: tuple[Array, ...] | None
    carry: Carry  # of the initial states
    e: Array | None  # of what the first layer read, in the layout; None: it read ids

    @classmethod
    def of(
        cls,
        layout: Layout,
        params: ModelParams,
        kept: list[Kept],
        masks: Masks,
        batch: Batch,
        e: Array,
        dcarry: Carry,
        *,
        truncated: bool,
    ) -> "StackGradient":
        """All layers backward, where `e` arrives at the top layer's outputs, in the layout."""
        dlayers: list[Any] = []
        dskips: list[Array] = []
        dstarts: list[Any] = []
        for n in reversed(range(len(params.layers))):
            dlayer, dstart, dread = passes_of(layout, params.layers[n]).backward(
                params.layers[n],
                kept[n].residuals,
                masks.layers[n],
                marks_of(batch, masks, n),
                e.astype(dcarry[n].h.dtype),
                dcarry[n],
                truncated=truncated,
            )
            dlayers.insert(0, dlayer)
            dstarts.insert(0, dstart)
            if dread is None:  # of ids, which only the first layer reads
                break
            if n and params.skips is not None:
                dskip, past = skip_backward(layout, params.skips[n - 1], kept[n].read, e)
                dskips.insert(0, dskip)
                dread = dread + past
            e = dread
        return cls(tuple(dlayers), tuple(dskips) if params.skips else None, tuple(dstarts), dread)


def embed_backward(
    embedding_VxE: Array, ids_TxB: Values, mask_BxV: Array | None, e_TxBxE: Array
) -> Array:
    """(N4): the embedding's gradient, VxE."""
    ids_TxB = jnp.asarray(ids_TxB)
    if mask_BxV is not None:
        e_TxBxE = e_TxBxE * mask_of_ids(mask_BxV, ids_TxB)[..., None]
    return add_rows(ids_TxB, e_TxBxE, embedding_VxE.shape[0])


class Read(NamedTuple):
    """What the readout's backward needs of its forward."""

    masked: Array  # m_r u, TxBxH
    read: Array  # r, what W_r is multiplied by: TxBxH, or TxBxR behind P
    outputs: Array  # y, TxBxV


def readout_matrix(params: ModelParams) -> Array:
    """W_r."""
    if params.readout.W is not None:
        return params.readout.W
    assert params.embedding is not None  # to which the readout is tied
    return params.embedding.T


def read_forward(params: ModelParams, h_TxBxH: Array, mask_BxH: Array | None) -> Read:
    """(M3)"""
    P = params.readout.P
    masked_TxBxH = h_TxBxH if mask_BxH is None else h_TxBxH * mask_BxH[None]
    read = masked_TxBxH if P is None else masked_TxBxH @ P
    return Read(masked_TxBxH, read, read @ readout_matrix(params) + params.readout.b[None, None])


def read_backward(
    params: ModelParams, read: Read, mask_BxH: Array | None, dy_TxBxV: Array
) -> tuple[Readout, Array | None, Array]:
    """(N2): the readout's gradient, what a tied one adds to the embedding's, and e TxBxH."""
    dtype = dy_TxBxV.dtype  # float32 at least
    e_TxBxH = dy_TxBxV @ readout_matrix(params).T.astype(dtype)
    dP, P = None, params.readout.P
    if P is not None:
        dP = outer_sum(read.masked.astype(dtype), e_TxBxH)
        e_TxBxH = e_TxBxH @ P.T.astype(dtype)
    if mask_BxH is not None:
        e_TxBxH = e_TxBxH * mask_BxH[None].astype(dtype)
    dW, db = outer_sum(read.read.astype(dtype), dy_TxBxV), jnp.sum(dy_TxBxV, (0, 1))
    tied = params.readout.W is None
    return Readout(None if tied else dW, db, dP), dW.T if tied else None, e_TxBxH
