"""All that is found out about a model while it reads a text."""

from typing import NamedTuple

import numpy as np

from lstm_jax.data.batches import Ids, bare
from lstm_jax.data.tokens import Tokens
from lstm_jax.inspection.features import features
from lstm_jax.inspection.ranking import Found, ranked
from lstm_jax.inspection.reach import Reach, reach
from lstm_jax.inspection.saturation import Saturation, dead_units, norms, saturation
from lstm_jax.inspection.surprise import Surprise, surprise
from lstm_jax.inspection.traces import Trace, trace
from lstm_jax.model import Masks, ModelParams

SHOWN = 5_000  # symbols of a text, from its beginning
RANKED = 40_000  # as many are read to rank units by, where there are so many


class Report(NamedTuple):
    """What is shown of a model and a text; T symbols are shown, of `read` that were read.

    symbols: what an id is shown as. features: T each. found: by all that was read.
    saturated, dead, norms: of each layer, over what is shown.
    """

    symbols: list[str]
    ids: np.ndarray  # T
    read: int
    layers: tuple[Trace, ...]  # of T steps
    surprise: Surprise
    features: dict[str, np.ndarray]
    found: dict[str, list[Found]]
    saturated: list[dict[str, Saturation]]
    dead: list[list[int]]
    norms: list[dict[str, np.ndarray]]
    reach: Reach


def symbols_of(vocabulary: Tokens) -> list[str]:
    """What each symbol is shown as: a character, a byte, a word and the blank behind it."""
    if vocabulary.kind == "bytes":
        return [chr(n) if n < 128 else f"\\x{n:02x}" for n in vocabulary.symbols]
    shown = [str(symbol) for symbol in vocabulary.symbols]
    if vocabulary.kind == "characters":
        return shown
    return [symbol if symbol == "\n" else f"{symbol} " for symbol in shown]


def look_into(
    params: ModelParams, ids: Ids, symbols: list[str], masks: Masks | None = None
) -> Report:
    """Lets a model read a text from the zero state, and looks at what its units do.

    Args:
      ids: all that is to be read, at least one. The first SHOWN are shown, and all are ranked by.
      symbols: what each id is shown as (`symbols_of`).
      masks: what stands for the drawn ones where nothing is random (`masks.evaluation_masks`).
    """
    read, shown = trace(params, ids, masks), ids[:SHOWN]
    of_all = features([symbols[n] for n in bare(ids).tolist()])
    layers = tuple(
        Trace(
            type(layer.states)(*(a_TxN[:SHOWN] for a_TxN in layer.states)),
            {name: a_TxN[:SHOWN] for name, a_TxN in layer.kept.items()},
        )
        for layer in read.layers
    )
    ids_T = bare(shown)
    return Report(
        symbols,
        ids_T,
        len(ids),
        layers,
        surprise(read.logits[:SHOWN], ids_T),
        {name: y_T[:SHOWN] for name, y_T in of_all.items()},
        ranked(read.layers, of_all),
        [saturation(layer) for layer in layers],
        [dead_units(layer) for layer in layers],
        [norms(layer) for layer in layers],
        reach(params, shown, read._replace(layers=layers), masks),
    )
