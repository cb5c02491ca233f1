"""Which traces a page has room for: the memory of as many units as it can take, then the gates of
those that stand out most."""

import numpy as np

from lstm_jax.inspection.ranking import Found
from lstm_jax.inspection.traces import Trace

FOR_MEMORY = 3 / 4  # of the room, where not everything fits

Unit = tuple[int, int]  # the layer, and its number in it


def by_interest(layers: tuple[Trace, ...], found: dict[str, list[Found]]) -> list[Unit]:
    """All units: first the best one of each feature, then the second best, and so on; then those
    whose memory moves most."""
    deepest = max(map(len, found.values()), default=0)
    order = [
        (each[place].layer, each[place].unit)
        for place in range(deepest)
        for each in found.values()
        if place < len(each)
    ]
    moves = {
        (n, unit): -float(deviation)
        for n, layer in enumerate(layers)
        for unit, deviation in enumerate(np.std(layer.fields[layer.memory], axis=0))
    }
    return [*dict.fromkeys([*order, *sorted(moves, key=lambda unit: moves[unit])])]


def chosen(layers: tuple[Trace, ...], order: list[Unit], room: int) -> dict[Unit, tuple[str, ...]]:
    """The fields to show of each unit, of at most `room` traces in all."""
    fields = {
        unit: tuple(
            name for name, a_TxN in layers[unit[0]].fields.items() if unit[1] < a_TxN.shape[1]
        )
        for unit in order
    }
    if sum(map(len, fields.values())) <= room:
        return fields
    shown = {unit: fields[unit][:1] for unit in order[: int(room * FOR_MEMORY)]}
    left = room - len(shown)
    for unit in shown:
        if (more := len(fields[unit]) - 1) <= left:
            shown[unit], left = fields[unit], left - more
    return shown
