"""What has a backward by hand: the one place that says so."""

from collections.abc import Iterable

from lstm_jax.cells import CELLS
from lstm_jax.cells.cell import Cell
from lstm_jax.heads import HEADS, Head, softmax


def missing_by_hand(
    cells: Iterable[Cell], head: Head = softmax, *, truncated: bool = False
) -> str | None:
    """Why a model of these cells and this head has no backward by hand; None: it has one.

    Every readout, dropout, zoneout and length is known by hand. `truncated`: by the truncated rule.
    """
    for cell in cells:
        name = next((name for name, known in CELLS.items() if known is cell), "of your own")
        if not cell.by_hand:
            return f"not for the cell {name}"
        if truncated and cell.truncate is None:
            return f"the cell {name} has no truncated rule"
    if head.by_hand is None:
        name = next((name for name, known in HEADS.items() if known is head), "of your own")
        return f"not for the head {name}"
    return None
