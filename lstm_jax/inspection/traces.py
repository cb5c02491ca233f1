"""What every unit of a model does, step by step, while it reads a text.

Names are the cell's own: the fields of its state, and those of what its backward by hand keeps. A
cell that keeps nothing with a name has its states alone.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax

from lstm_jax.cells import cell_of
from lstm_jax.cells.cell import Marks
from lstm_jax.cells.passes import ROWS, enter_marks, reset, settle
from lstm_jax.data.batches import Ids, bare, begin_at
from lstm_jax.model import Masks, ModelParams, embed, no_masks, read_out


class Trace(NamedTuple):
    """One layer over a text: a state of TxN, and what else the cell computes, by name."""

    states: Any
    kept: dict[str, np.ndarray]  # TxN each

    @property
    def memory(self) -> str:
        """The field of the state that is not put out; of a cell that has no such field, h."""
        return next((name for name in self.states._fields if name != "h"), "h")

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """All of it, TxN each: the memory first."""
        states = self.states._asdict()
        return {self.memory: states[self.memory], **states, **self.kept}

    @property
    def gates(self) -> list[str]:
        """The fields that are never below 0 or above 1, and not what is put out."""
        return [
            name
            for name, a_TxN in self.fields.items()
            if name != "h" and a_TxN.size and a_TxN.min() >= 0 and a_TxN.max() <= 1
        ]


class Traces(NamedTuple):
    """A model over a text."""

    layers: tuple[Trace, ...]
    logits: np.ndarray  # TxV


def resets_of(ids: Ids) -> np.ndarray | None:
    """Tx1, where a document begins; None: the text falls into none."""
    resets_T = begin_at(ids, np.arange(len(ids)))
    return resets_T[:, None] if resets_T.any() else None


def trace(params: ModelParams, ids: Ids, masks: Masks | None = None) -> Traces:
    """Reads a text from the zero state, and keeps what every unit does.

    Args:
      masks: what stands for the drawn ones where nothing is random (`masks.evaluation_masks`).
    """
    ids_Tx1 = bare(ids)[:, None].astype(np.int32)
    traced = _trace(params, ids_Tx1, masks, resets_of(ids))
    layers, logits_TxV = jax.tree.map(widened, jax.device_get(traced))
    named = tuple(Trace(states, names_in(kept)) for states, kept in layers)
    return Traces(named, logits_TxV)


@jax.jit
def _trace(
    params: ModelParams, ids_Tx1: Array, masks: Masks | None, resets_Tx1: Array | None
) -> tuple[list[tuple[Any, Any]], Array]:
    masks = masks or no_masks(params)
    x, layers = embed(params, ids_Tx1), []
    for n, layer in enumerate(params.layers):
        marks = Marks(resets_Tx1, zoneout=masks.zoneout and masks.zoneout[n])
        states = follow(layer, x, marks)
        alone = partial(jax.tree.map, lambda a: a[:, 0])  # the one lane
        layers.append((alone(states), alone(kept_of(layer, x, marks))))
        below, x = x, states.h
        if n and params.skips is not None:
            x = x + params.skips[n - 1][None, None] * below
    return layers, read_out(params, x)[:, 0]


def follow(layer: Any, x: Array, marks: Marks) -> Any:
    """The state after every step, TxBxN, from the zero state."""
    cell = cell_of(layer)

    def step(state: Any, inputs: tuple[Any, Marks]) -> tuple[Any, Any]:
        prepared, marks = inputs
        before = reset(state, marks.resets)
        state = settle(state, before, cell.step(layer, before, prepared), marks)
        return state, state

    start = cell.init_state(layer, x.shape[1])
    return lax.scan(step, start, (cell.prepare(layer, x, None), enter_marks(marks, len(x))))[1]


def kept_of(layer: Any, x: Array, marks: Marks) -> Any:
    """What the forward by hand keeps of every step; None: nothing, or there is none."""
    cell = cell_of(layer)
    if ROWS.name not in cell.by_hand:
        return None
    start = cell.init_state(layer, x.shape[1])
    return cell.by_hand[ROWS.name].forward(layer, start, x, None, marks)[2].kept


def names_in(kept: Any) -> dict[str, np.ndarray]:
    """What of it has a name, TxN each."""
    named = kept if isinstance(kept, dict) else getattr(kept, "_asdict", dict)()
    return {name: a for name, a in named.items() if np.ndim(a) == 2}


def widened(a: np.ndarray) -> np.ndarray:
    """In float32 at least, which NumPy knows."""
    return a if a.dtype.itemsize >= 4 else a.astype(np.float32)
