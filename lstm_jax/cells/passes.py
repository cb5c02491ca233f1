"""The loops over time, written once for every cell: forward, and backward by hand.

A step of a lane. k is 0 where the lane is reset before it, and 1 elsewhere. r is the share of each
unit that zoneout leaves as it was (Krueger et al. 2017); 0 where there is none.

    (S1)  s~_t = k_t s_{t-1}                              what the step reads
    (S2)  s^_t = step(s~_t, x_t)
    (S3)  s_t  = r_t s~_t + (1 - r_t) s^_t
    where it is not live    s_t = s_{t-1}, and it puts out 0

Backward, where ds is what arrives at a state and e_t at the output h_t:

    (T1)  ds_t gains e_t in its field h
    (T2)  ds^_t = (1 - r_t) ds_t
    (T3)  ds~_t = what the cell's calculus makes of ds^_t, + r_t ds_t
    (T4)  ds_{t-1} = k_t ds~_t
    where it is not live    ds_{t-1} = ds_t without e_t, and dz_t = 0

At the end of a sequence ds is what arrives at the final state (zero in training: the carry is where
backpropagation is truncated), and at its start it is the gradient of the initial state.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.cell import Cell, Marks, Passes


class Layout(NamedTuple):
    """How a sequence, and a state inside the loop, lie in memory."""

    name: str
    lanes_last: bool  # TxDxB and DxB, instead of TxBxD and BxD

    def enter(self, a_TxBxD: Array) -> Array:
        """From TxBxD, and from BxD."""
        return jnp.swapaxes(a_TxBxD, -1, -2) if self.lanes_last else a_TxBxD

    def leave(self, a: Array) -> Array:
        """To TxBxD, and to BxD."""
        return self.enter(a)  # the way back is the same

    def spread(self, a_B: Array, like: Array) -> Array:
        """A value for each lane (or TxB), with axes of one for the others that `like` has."""
        first = a_B.ndim - self.lanes_last
        return lax.expand_dims(a_B, range(first, first + like.ndim - a_B.ndim))

    def choose(self, where_B: Array, one: Any, other: Any) -> Any:
        """Lane by lane a leaf of the first tree or of the second, which may be a number for all."""
        if not isinstance(other, int):
            return jax.tree.map(lambda a, b: jnp.where(self.spread(where_B, a), a, b), one, other)
        return jax.tree.map(lambda a: jnp.where(self.spread(where_B, a), a, other), one)


ROWS = Layout("rows", lanes_last=False)
# For CPUs: `lstm_columns` says why.
COLUMNS = Layout("columns", lanes_last=True)


def reset(state: Any, resets_B: Array | None, layout: Layout = ROWS) -> Any:
    """(S1), (T4): the state with the lanes named by the boolean `resets_B` set to zero."""
    if resets_B is None:
        return state
    return jax.tree.map(lambda s: jnp.where(layout.spread(resets_B, s), 0, s), state)


def zone_out(before: Any, after: Any, share: Any) -> Any:
    """(S3)."""
    return jax.tree.map(lambda old, new, k: k * old + (1 - k) * new, before, after, share)


def settle(state: Any, before: Any, after: Any, marks: Marks, layout: Layout = ROWS) -> Any:
    """(S3): the state that a step leaves, where the cell went from `before` to `after`."""
    if marks.zoneout is not None:
        after = zone_out(before, after, marks.zoneout)
    return after if marks.live is None else layout.choose(marks.live, after, state)


def put_out(h: Array, marks: Marks, layout: Layout = ROWS) -> Array:
    """The output of a step, or of all: 0 where it is not live."""
    return h if marks.live is None else layout.choose(marks.live, h, 0)


def blank(x: Array, live_TxB: Array | None) -> Array:
    """What is read, with vectors that are padding set to 0: 0 times NaN would be NaN."""
    if live_TxB is None or x.ndim == 2:
        return x
    return jnp.where(live_TxB[..., None], x, 0)


def enter_marks(marks: Marks, T: int, layout: Layout = ROWS) -> Marks:
    """The marks as the loop takes them: zoneout for every step, laid out as the states are."""
    zoneout = jax.tree.map(
        lambda k: layout.enter(jnp.broadcast_to(k, (T, *k.shape[1:]))), marks.zoneout
    )
    return marks._replace(zoneout=zoneout)


def scan_cell(
    cell: Cell,
    params: Any,
    state: Any,
    x: Array,
    mask_BxD: Array | None,
    marks: Marks,
    *,
    truncated: bool = False,
) -> tuple[Any, Array]:
    """(S1) to (S3) over a sequence, for JAX to differentiate: the final state and outputs TxBxH."""

    if truncated and cell.truncate is None:
        raise TypeError(f"{type(params).__name__} are of a cell that has no truncated rule")
    truncate = cell.truncate if truncated else None

    def step(state: Any, inputs: tuple[Any, Marks]) -> tuple[Any, Array]:
        prepared, marks = inputs
        before = reset(state, marks.resets)
        read = before if truncate is None else truncate(before)
        state = settle(state, before, cell.step(params, read, prepared), marks)
        return state, put_out(state.h, marks)

    prepared = cell.prepare(params, x, mask_BxD)
    return lax.scan(step, state, (prepared, enter_marks(marks, x.shape[0])))


class Calculus(NamedTuple):
    """One step of a cell and its derivative, as a person derives it, in one layout.

    forward_weights: (params, x) -> what every step multiplies by, laid out once before the loop.
    prepare: (params, x, mask_BxD) -> any pytree, T first, as `Cell.prepare`.
    forward: (forward weights, before, prepared) -> (after, kept): a step, and what else the
      backward needs of it.
    reads: (before, after) -> what of the states the backward step needs; states or their sequences.
    backward_weights: (params, x, truncated) -> what every backward step multiplies by.
    backward: (backward weights, read, kept, dafter) -> (dbefore, dz), where dz is any pytree.
    collect: (params, x, mask_BxD, before, after, kept, dz), sequences all -> (dparams, dx): the
      large products. dx is None where x is ids.
    """

    forward_weights: Callable[..., Any]
    prepare: Callable[..., Any]
    forward: Callable[..., tuple[Any, Any]]
    reads: Callable[..., Any]
    backward_weights: Callable[..., Any]
    backward: Callable[..., tuple[Any, Any]]
    collect: Callable[..., tuple[Any, Array | None]]


class Residuals(NamedTuple):
    """What a layer's backward needs of its forward, T first."""

    x: Array
    before: Any  # (S1), the state that each step read
    after: Any  # (S2)
    kept: Any


def shift(start: Any, states: Any, marks: Marks, layout: Layout) -> Any:
    """(S1) for all steps: what each read, from the states after them."""
    T = jax.tree.leaves(states)[0].shape[0]  # may be 0
    before = jax.tree.map(lambda s0, s: jnp.concatenate([s0[None], s[:-1]])[:T], start, states)
    if marks.resets is None:
        return before
    return jax.vmap(partial(reset, layout=layout))(before, marks.resets)


def forward_in_time(
    calculus: Calculus,
    layout: Layout,
    params: Any,
    state: Any,
    x: Array,
    mask_BxD: Array | None,
    marks: Marks,
) -> tuple[Any, Array, Residuals]:
    """`Passes.forward`: (S1) to (S3)."""
    weights = calculus.forward_weights(params, x)

    def step(state: Any, inputs: tuple[Any, Marks]) -> tuple[Any, tuple[Any, Any, Any]]:
        prepared, marks = inputs
        before = reset(state, marks.resets, layout)
        after, kept = calculus.forward(weights, before, prepared)
        state = settle(state, before, after, marks, layout)
        # The cell's own state is another one only where some of it stayed.
        return state, (state, kept, None if marks.zoneout is None else after)

    start = jax.tree.map(layout.enter, state)
    inputs = calculus.prepare(params, x, mask_BxD), enter_marks(marks, x.shape[0], layout)
    final, (states, kept, after) = lax.scan(step, start, inputs)
    before = shift(start, states, marks, layout)
    residuals = Residuals(x, before, states if after is None else after, kept)
    return jax.tree.map(layout.leave, final), put_out(states.h, marks, layout), residuals


def backward_in_time(
    calculus: Calculus,
    layout: Layout,
    params: Any,
    residuals: Residuals,
    mask_BxD: Array | None,
    marks: Marks,
    e: Array,
    dfinal: Any,
    *,
    truncated: bool = False,
) -> tuple[Any, Any, Array | None]:
    """`Passes.backward`: (T1) to (T4), and the large products."""
    x, before, after, kept = residuals
    weights = calculus.backward_weights(params, x, truncated)

    def step(dstate: Any, inputs: tuple[Any, Any, Marks, Array]) -> tuple[Any, Any]:
        read, kept, marks, e = inputs
        dsettled = dstate._replace(h=e + dstate.h)  # (T1)
        if marks.zoneout is None:
            dbefore, dz = calculus.backward(weights, read, kept, dsettled)
        else:
            stays = jax.tree.map(jnp.multiply, marks.zoneout, dsettled)
            dafter = jax.tree.map(jnp.subtract, dsettled, stays)  # (T2)
            dbefore, dz = calculus.backward(weights, read, kept, dafter)
            dbefore = jax.tree.map(jnp.add, dbefore, stays)  # (T3)
        dbefore = reset(dbefore, marks.resets, layout)  # (T4)
        if marks.live is not None:
            dbefore = layout.choose(marks.live, dbefore, dstate)
            dz = layout.choose(marks.live, dz, 0)
        return dbefore, dz

    marked = enter_marks(marks, x.shape[0], layout)
    inputs = calculus.reads(before, after), kept, marked, e
    dstart, dz = lax.scan(step, jax.tree.map(layout.enter, dfinal), inputs, reverse=True)
    dparams, dx = calculus.collect(params, x, mask_BxD, before, after, kept, dz)
    return dparams, jax.tree.map(layout.leave, dstart), dx


def make_passes(calculus: Calculus, layout: Layout = ROWS) -> Passes:
    """The loops around one step and its derivative."""
    return Passes(
        partial(forward_in_time, calculus, layout), partial(backward_in_time, calculus, layout)
    )
