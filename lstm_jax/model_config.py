"""The options of a model, with those of every cell."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from lstm_jax.cells import CELLS
from lstm_jax.cells.cell import Cell
from lstm_jax.errors import UserError
from lstm_jax.options import Section, extend, option

MOST_LAYERS = 64


# What a cell's `init` takes stands in the cell's own file.
def options_of_cells() -> tuple[type[Section], ...]:
    """The sections of all cells that there are by now."""
    return tuple(dict.fromkeys(s for cell in CELLS.values() for s in cell.options))


def cell_options(cell: Cell) -> list[str]:
    """The names of the config values that a cell reads."""
    return [field.name for section in cell.options for field in dataclasses.fields(section)]


def readers_of(name: str) -> str:
    """The cells that read an option, such as `model.cell=lstm, coupled`."""
    readers = [of for of, cell in CELLS.items() if name in cell_options(cell)]
    return f"model.cell={' or '.join(readers)}"


def needs(what: str) -> str:
    """Why an option means nothing where something is not there."""
    return f"needs {what}: give both, or neither"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(*options_of_cells(), Section):  # type: ignore[misc]
    """What a model is, with the options of every cell."""

    prefix = "model."
    hidden_size: int = option(128, "H, units per layer", low=1, high=65536)
    num_layers: int = option(1, "L, layers", low=1, high=MOST_LAYERS)
    hidden_sizes: tuple[int, ...] = option(
        (),
        "units of each layer, from the first, as in 256,512; instead of the two",
        low=1,
        high=65536,
    )
    embedding_size: int = option(
        0, "width of the embedding; 0: the first layer reads one-hot ids", low=0, high=65536
    )
    dropout: float = option(
        0.0, "variational dropout between layers and on the output", low=0, high=0.99
    )
    input_dropout: float = option(
        0.0, "variational dropout on what the first layer reads", low=0, high=0.99
    )
    embedding_dropout: float = option(
        0.0, "variational dropout of whole symbols before the embedding", low=0, high=0.99
    )
    weight_drop: float = option(
        0.0, "DropConnect on the recurrent weights U, drawn at every step", low=0, high=0.99
    )
    zoneout_cell: float = option(
        0.0,
        "how often a unit of the state besides h, an LSTM's c, stays what it was for a time step",
        low=0,
        high=0.99,
    )
    zoneout_hidden: float = option(
        0.0, "how often a unit of h stays what it was for a time step", low=0, high=0.99
    )
    cell: str = option("lstm", "the kind of cell", choices=CELLS)
    skip: str = option(
        "none",
        "weighted: to what a layer puts out is added what the layer below does, times a learned "
        "weight per unit, at first 1",
        choices=("none", "weighted"),
    )
    readout: str = option(
        "full", "tied: the readout's matrix is the embedding's", choices=("full", "tied")
    )
    readout_rank: int = option(
        0, "rank of the readout's matrix, a product of two then; 0: one matrix", low=0, high=65536
    )

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """With the options of cells that were put into CELLS since."""
        extend(ModelConfig, options_of_cells())
        return super().__new__(cls)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.hidden_sizes) > MOST_LAYERS:
            raise UserError(
                f"model.hidden_sizes names {len(self.hidden_sizes)} layers, and at most "
                f"{MOST_LAYERS} are possible"
            )

    def unread(self) -> dict[str, str]:
        cell, sizes = CELLS[self.cell], self.layer_sizes
        alike = len(sizes) > 1 and len({*sizes}) == 1
        plain = self.readout == "full" and not self.readout_rank
        others = {name for other in CELLS.values() for name in cell_options(other)}
        foreign = sorted(others - {*cell_options(cell)})
        unread = {name: needs(readers_of(name)) for name in foreign}
        for name, means_something, why in (
            ("mogrifier_rank", self.mogrifier_rounds, needs("rounds of it")),
            ("forget_bias", not self.chrono, self.beside("chrono")),
            ("zoneout_cell", len(cell.state._fields) > 1, needs("a cell with a state besides h")),
            ("embedding_dropout", self.embedding_size, needs("a model.embedding_size")),
            ("readout", self.embedding_size, needs("a model.embedding_size")),
            ("readout_rank", self.readout == "full", self.beside("readout")),
            ("skip", alike, needs("two layers of one size, or more")),
            ("init", plain, self.beside("readout_rank" if self.readout_rank else "readout")),
        ):
            if not means_something:
                unread.setdefault(name, why)
        return unread

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """H of each layer."""
        return self.hidden_sizes or (self.hidden_size,) * self.num_layers
