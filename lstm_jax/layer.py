"""One layer over time, in either direction or in both: a cell of some kind, unrolled."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.cells import cell_of
from lstm_jax.cells.cell import Marks
from lstm_jax.cells.passes import blank, scan_cell
from lstm_jax.cells.projection import reads_ids
from lstm_jax.meshes import split_lanes, vary_alike

NO_MARKS = Marks()


def has_shapes(values: Any, wanted: Any) -> bool:
    """Whether the arrays among a NamedTuple's fields have the shapes of those that are wanted."""
    pairs = zip(values, wanted, strict=False)
    same = all(a.shape == b.shape for a, b in pairs if hasattr(a, "shape"))
    return same and len(values) == len(wanted)


def is_spread(shape: tuple[int, ...], over: tuple[int, ...]) -> bool:
    """Whether a shape has each axis of another one, in full or as 1."""
    return len(shape) == len(over) and all(n in (1, N) for n, N in zip(shape, over, strict=True))


def fit_each_other(params: Any, D: int, H: int) -> bool:
    """Whether input weights W, recurrent weights U and bias b, in a cell that has such, are of one
    number of gates."""
    if not {"W", "U", "b"} <= {*params._fields}:
        return True
    G = params.U.shape[-1]
    return (params.W.shape, params.U.shape, params.b.shape) == ((D, G), (H, G), (G,))


def check_dtypes(params: Any, state: Any, x: Array) -> None:
    """Raises TypeError for a state that is narrower than what it is computed from: after a step it
    would be of another dtype."""
    read = [a for a in jax.tree.leaves((params, x)) if jnp.issubdtype(a.dtype, jnp.floating)]
    widest = max(read, key=lambda a: jnp.finfo(a.dtype).bits).dtype
    for name, s in state._asdict().items():
        if jnp.finfo(s.dtype).bits < jnp.finfo(widest).bits:
            raise TypeError(
                f"the state's {name} is {s.dtype}, and parameters or inputs are {widest}: begin "
                "with a state of the widest dtype"
            )


def check_shapes(
    params: Any, state: Any, x: Array, mask_BxD: Array | None = None, marks: Marks = NO_MARKS
) -> None:
    """Raises ValueError for shapes that a layer cannot run over, some of which would broadcast, and
    TypeError for the state of another cell, or a narrower one."""
    cell = cell_of(params)
    if not isinstance(state, cell.state):
        raise TypeError(
            f"with {type(params).__name__} goes {cell.state.__name__}, not a "
            f"{type(state).__name__}: the cell's init_state makes one"
        )
    check_dtypes(params, state, x)
    D, H = cell.widths(params)
    T, B = x.shape[:2] if x.ndim >= 2 else (0, 0)
    good = (
        x.ndim >= 2
        and fit_each_other(params, D, H)
        and x.shape == ((T, B) if reads_ids(x) else (T, B, D))
        and has_shapes(state, jax.eval_shape(lambda: cell.init_state(params, B)))
        and all(m is None or m.shape == (T, B) for m in (marks.resets, marks.live))
        and (mask_BxD is None or mask_BxD.shape == (B, D))
        and all(
            is_spread(jnp.shape(k), (T, *field.shape))
            for k, field in zip(jax.tree.leaves(marks.zoneout), state, strict=False)
        )
    )
    if good:
        return
    of_state = {f"{name}_BxH": s for name, s in state._asdict().items()}
    of_marks = {"resets_TxB": marks.resets, "live_TxB": marks.live, "mask_BxD": mask_BxD}
    others = [f"{name} {a.shape}" for name, a in (of_state | of_marks).items() if a is not None]
    others += [f"zoneout {jnp.shape(k)}" for k in jax.tree.leaves(marks.zoneout)]
    weights = [f"{name} {a.shape}" for name, a in params._asdict().items() if hasattr(a, "shape")]
    raise ValueError(
        f"x_TxBxD (or ids TxB) {x.shape} does not fit {', '.join(others)} and parameters "
        f"{', '.join(weights)}, so D={D}, H={H}: time is the first axis, and the lanes the second"
    )


def live_of(lengths_B: Array, T: int) -> Array:
    """TxB, True in the first `lengths_B` steps of each lane."""
    return jnp.arange(T)[:, None] < lengths_B[None]


def flip(a_TxB: Array, lengths_B: Array | None) -> Array:
    """A sequence (TxB, TxBxD) read backwards, padding left where it is; its own inverse."""
    if lengths_B is None:
        return jnp.flip(a_TxB, 0)
    t_Tx1, lengths_1xB = jnp.arange(a_TxB.shape[0])[:, None], lengths_B[None]
    from_TxB = jnp.where(t_Tx1 < lengths_1xB, lengths_1xB - 1 - t_Tx1, t_Tx1)
    return jnp.take_along_axis(a_TxB, from_TxB.reshape(*from_TxB.shape, *[1] * (a_TxB.ndim - 2)), 0)


def flip_resets(resets_TxB: Array, lengths_B: Array | None) -> Array:
    """Where the reverse direction starts afresh: between the same two steps as the forward one,
    which is before the earlier of them."""
    if lengths_B is not None:  # one in the padding stands between no two steps
        resets_TxB = resets_TxB & live_of(lengths_B, resets_TxB.shape[0])
    later_TxB = jnp.roll(resets_TxB, -1, axis=0).at[-1:].set(False)
    return flip(later_TxB, lengths_B)


# (params, state, x, mask_BxD, marks) -> the final state and the outputs TxBxH
Run = Callable[[Any, Any, Array, Array | None, Marks], tuple[Any, Array]]


def run(
    params: Any,
    state: Any,
    x: Array,
    mask_BxD: Array | None = None,
    marks: Marks = NO_MARKS,
    *,
    truncated: bool = False,
) -> tuple[Any, Array]:
    """`unroll`, with everything special about its steps in `marks`."""
    check_shapes(params, state, x, mask_BxD, marks)
    state = vary_alike(split_lanes(state, x), params, x, mask_BxD, marks)
    x = blank(x, marks.live)
    return scan_cell(cell_of(params), params, state, x, mask_BxD, marks, truncated=truncated)


def in_direction(
    run: Run,
    params: Any,
    state: Any,
    x: Array,
    mask_BxD: Array | None,
    marks: Marks,
    lengths_B: Array | None,
    *,
    reverse: bool,
) -> tuple[Any, Array]:
    """Runs a layer over sequences of some lengths (None: T all), from the first step to the last or
    the other way round; each output stands at the step whose input was read last for it."""
    if lengths_B is not None:
        lengths_B = jnp.minimum(jnp.asarray(lengths_B), x.shape[0])
        marks = marks._replace(live=live_of(lengths_B, x.shape[0]))
    if not reverse:
        return run(params, state, x, mask_BxD, marks)
    check_shapes(params, state, x, mask_BxD, marks)  # before anything is flipped
    if marks.resets is not None:
        marks = marks._replace(resets=flip_resets(marks.resets, lengths_B))
    state, h_TxBxH = run(params, state, flip(x, lengths_B), mask_BxD, marks)
    return state, flip(h_TxBxH, lengths_B)


def unroll(
    params: Any,
    state: Any,
    x: Array,
    *,
    mask_BxD: Array | None = None,
    resets_TxB: Array | None = None,
    lengths_B: Array | None = None,
    zoneout: Any = None,
    reverse: bool = False,
    truncated: bool = False,
) -> tuple[Any, Array]:
    """Runs the layer over a sequence; JAX differentiates it. The scan stands for this loop:

        for t in range(T):
            state = reset(state, resets_TxB[t])
            state = step(params, state, x[t] * mask_BxD)
            h_TxBxH[t] = state.h

    Args:
      params: one layer's parameters, of any cell in `cells.CELLS`.
      state: the initial state (the cell's `init_state`), B first.
      x: TxBxD, or integer ids TxB, which stand for one-hot vectors.
      mask_BxD: multiplies the input, the same at every step (Gal and Ghahramani 2016).
      resets_TxB: True where a lane starts from the zero state before it reads x[t]. None: nowhere.
      lengths_B: how many steps of each lane count. After them the state stays and outputs are 0.
        None: all. One beyond T counts as T.
      zoneout: a state of TxBxH (or 1x1x1: the same for all), the share of each unit that stays what
        it was, in the order in which steps are read. None: none.
      reverse: each lane is read from its last step to its first.
      truncated: error goes back in time through the cell state alone (`cells.lstm`).

    Returns:
      The state after the last step, and the outputs TxBxH.

    Raises ValueError, with all shapes, where they do not fit, and TypeError for another cell's
    state, one that is narrower than the parameters or the inputs, or a truncated rule that the cell
    does not have. Each cell's file names its source.

        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> params = lstm_jax.init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
        >>> state = lstm_jax.CELLS["lstm"].init_state(params, 2)  # of 2 lanes
        >>> final, h_TxBxH = lstm_jax.unroll(params, state, jnp.ones((7, 2, 3)))
        >>> final.c.shape, h_TxBxH.shape
        ((2, 5), (7, 2, 5))
    """
    marks = Marks(resets_TxB, zoneout=zoneout)
    in_time = partial(run, truncated=truncated)
    return in_direction(in_time, params, state, x, mask_BxD, marks, lengths_B, reverse=reverse)


class BothDirections(NamedTuple):
    """The parameters, or the states, of a layer that reads its sequence in both directions."""

    forward: Any
    backward: Any


def unroll_both(
    params: BothDirections,
    states: BothDirections,
    x: Array,
    *,
    layer: Callable[..., tuple[Any, Array]] = unroll,
    **options: Any,
) -> tuple[BothDirections, Array]:
    """Two layers over the same sequence, one from each end (Schuster and Paliwal 1997).

    Args:
      params: the parameters of both layers, which may be of two cells and two sizes.
      states: the initial state of each, B first; the backward one is read from the last step on.
      x: TxBxD, or integer ids TxB.
      layer: `unroll`, or `bptt_layer` for the backward by hand.
      options: as the layer takes them, such as `lengths_B`.

    Returns:
      The final states of both, and the outputs TxBx2H, the forward ones first.

    Raises what the layer raises: ValueError for shapes that do not fit, TypeError for another
    cell's state.

        >>> import jax, jax.numpy as jnp, lstm_jax
        >>> keys = jax.random.split(jax.random.key(0))
        >>> params = [lstm_jax.init_lstm(key, input_size=3, hidden_size=5) for key in keys]
        >>> states = [lstm_jax.CELLS["lstm"].init_state(each, 2) for each in params]
        >>> finals, h_TxBx2H = lstm_jax.unroll_both(
        ...     lstm_jax.BothDirections(*params), lstm_jax.BothDirections(*states),
        ...     jnp.ones((7, 2, 3)), lengths_B=jnp.array([7, 4]),
        ... )
        >>> finals.backward.h.shape, h_TxBx2H.shape
        ((2, 5), (7, 2, 10))
    """
    first, h_TxBxH = layer(params.forward, states.forward, x, **options)
    last, back_TxBxH = layer(params.backward, states.backward, x, reverse=True, **options)
    return BothDirections(first, last), jnp.concatenate([h_TxBxH, back_TxBxH], axis=-1)
