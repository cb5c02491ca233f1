"""The cells, by name: each owns its parameters, its state, its step and its backward by hand."""

from typing import Any

from lstm_jax.cells.carousel import CAROUSEL
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.coupled import COUPLED
from lstm_jax.cells.elman import ELMAN
from lstm_jax.cells.forgetting_blocks import FORGETTING_BLOCKS
from lstm_jax.cells.gru import GRU
from lstm_jax.cells.layer_norm import LAYER_NORM
from lstm_jax.cells.lstm import LSTM
from lstm_jax.cells.memory_blocks import MEMORY_BLOCKS
from lstm_jax.cells.mogrifier import MOGRIFIER
from lstm_jax.cells.vanilla import VANILLA

CELLS: dict[str, Cell] = {
    "lstm": LSTM,
    "coupled": COUPLED,
    "layer_norm": LAYER_NORM,
    "mogrifier": MOGRIFIER,
    **VANILLA,
    "gru": GRU,
    "elman": ELMAN,
    "memory_blocks": MEMORY_BLOCKS,
    "forgetting_blocks": FORGETTING_BLOCKS,
    "carousel": CAROUSEL,
}


def cell_of(params: Any) -> Cell:
    """The cell whose parameters these are; TypeError where no cell has such."""
    for cell in CELLS.values():
        if cell.params is type(params):
            return cell
    raise TypeError(f"{type(params).__name__} are the parameters of no cell in CELLS")
