"""How well one feature of a text goes with each unit, so that a quote cell is found, not hunted.

Units are chosen on one half of a text and scored on the other, which had no part in the choice. The
halves are blocks in turns, so that what is rare has its chance to be in both.

For a feature that is true or false the score is the area under the ROC curve (AUC): how often the
unit is higher where it is true than where it is false. Beside it stands the balanced accuracy at
one threshold, the best on the first half. For a number the score is Spearman's correlation. A unit
that goes the other way scores as well; its sign says so.
"""

from typing import NamedTuple

import numpy as np

from lstm_jax.inspection.traces import Trace

BEST = 12  # units of each feature
BLOCK = 1_000  # steps
FEWEST = 20  # steps of each kind, in each half: with fewer nothing can be said


class Found(NamedTuple):
    """A unit, and how well a feature goes with one of its fields.

    sign: 1, or -1 where the field falls with the feature.
    chosen, scored: AUC, or the size of the correlation, on the two halves; in the sign's direction.
    threshold, accuracy: the best one on the first half, and the balanced accuracy there on the
      second. None: the feature is a number.
    """

    layer: int
    unit: int
    field: str
    sign: int
    chosen: float
    scored: float
    threshold: float | None
    accuracy: float | None


class Columns(NamedTuple):
    """Every field of every unit side by side, C of them, and how each feature goes with it."""

    layer: np.ndarray  # C each
    unit: np.ndarray
    field: np.ndarray
    first: dict[str, np.ndarray]  # C, by the feature, from -1 to 1, on the first half
    second: dict[str, np.ndarray]


def ranked(
    layers: tuple[Trace, ...], features: dict[str, np.ndarray], best: int = BEST
) -> dict[str, list[Found]]:
    """The best units of each feature, by the first half; of each unit the one best field.

    No unit where the feature is too rare in a half, or the same all over it.
    """
    usable = {name: y_T for name, y_T in features.items() if all(map(is_usable, halves(y_T)))}
    columns = compare(layers, usable)
    found: dict[str, list[Found]] = {name: [] for name in features}
    for name, y_T in usable.items():
        for column in best_columns(columns, name, best):
            layer, unit = int(columns.layer[column]), int(columns.unit[column])
            field = str(columns.field[column])
            sign = 1 if columns.first[name][column] >= 0 else -1
            chosen, scored = sign * columns.first[name][column], sign * columns.second[name][column]
            threshold = accuracy = None
            if y_T.dtype == bool:
                chosen, scored = (1 + chosen) / 2, (1 + scored) / 2  # AUC
                threshold, accuracy = by_threshold(layers[layer].fields[field][:, unit], y_T, sign)
            found[name].append(
                Found(layer, unit, field, sign, float(chosen), float(scored), threshold, accuracy)
            )
    return found


def halves(a_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The steps to choose on, and those to score on: blocks in turns."""
    block = min(BLOCK, max(1, len(a_T) // 8))
    first_T = np.arange(len(a_T)) // block % 2 == 0
    return a_T[first_T], a_T[~first_T]


def is_usable(y_T: np.ndarray) -> bool:
    """Whether a feature varies enough over some steps for anything to be told from it."""
    if y_T.dtype != bool:
        return bool(np.ptp(y_T)) and len(y_T) >= 2 * FEWEST
    return FEWEST <= y_T.sum() <= len(y_T) - FEWEST


def compare(layers: tuple[Trace, ...], features: dict[str, np.ndarray]) -> Columns:
    """Every field of every unit with every feature."""
    parts = [
        (np.full(a_TxN.shape[1], n), np.arange(a_TxN.shape[1]), np.full(a_TxN.shape[1], name))
        for n, layer in enumerate(layers)
        for name, a_TxN in layer.fields.items()
    ]
    both: list[dict[str, np.ndarray]] = []
    for half in (0, 1):
        y = {name: halves(y_T)[half] for name, y_T in features.items()}
        rows: dict[str, list[np.ndarray]] = {name: [] for name in features}
        for layer in layers:
            for a_TxN in layer.fields.values():
                ranks_TxN = midranks(halves(a_TxN)[half])
                for name, y_T in y.items():
                    rows[name].append(association(ranks_TxN, y_T))
        both.append({name: np.concatenate(each) for name, each in rows.items()})
    layer_C, unit_C, field_C = map(np.concatenate, zip(*parts, strict=True))
    return Columns(layer_C, unit_C, field_C, *both)


def best_columns(columns: Columns, name: str, best: int) -> list[int]:
    """The columns that go best with a feature on the first half, at most one of each unit."""
    taken: dict[tuple[int, int], int] = {}
    for column in np.argsort(-np.abs(columns.first[name]), kind="stable").tolist():
        taken.setdefault((columns.layer[column], columns.unit[column]), column)
        if len(taken) == best:
            break
    return [*taken.values()]


def midranks(a_TxN: np.ndarray) -> np.ndarray:
    """The rank of each value in its column, from 1; equal ones share the mean of theirs."""
    return np.stack([midranks_of(a_T) for a_T in a_TxN.T], axis=1)


def midranks_of(a_T: np.ndarray) -> np.ndarray:
    order = np.argsort(a_T)
    ordered = a_T[order]
    begins = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # of equal values
    ends = np.append(begins[1:], len(a_T))
    ranks_T = np.empty(len(a_T), np.float32 if len(a_T) < 2**22 else np.float64)
    ranks_T[order] = np.repeat((begins + ends + 1) / 2, ends - begins)
    return ranks_T


def association(ranks_TxN: np.ndarray, y_T: np.ndarray) -> np.ndarray:
    """From -1 to 1, N: 2 AUC - 1 of a feature that is true or false, Spearman's correlation of a
    number."""
    if y_T.dtype == bool:
        positives, negatives = int(y_T.sum()), int((~y_T).sum())
        above = ranks_TxN[y_T].sum(0, dtype=float) - positives * (positives + 1) / 2
        return 2 * above / (positives * negatives) - 1
    y_T = midranks(y_T[:, None])[:, 0]
    y_T, centered_TxN = y_T - y_T.mean(), ranks_TxN - ranks_TxN.mean(0, dtype=float)
    size_N = np.sqrt(y_T @ y_T * np.sum(centered_TxN**2, axis=0))
    # A unit that never changes goes with nothing.
    return np.divide(y_T @ centered_TxN, size_N, out=np.zeros_like(size_N), where=size_N > 0)


def by_threshold(a_T: np.ndarray, y_T: np.ndarray, sign: int) -> tuple[float, float]:
    """The threshold with the best balanced accuracy on the first half, and that on the second."""
    (a, other_a), (y, other_y) = halves(sign * a_T), halves(y_T)
    order = np.argsort(-a, kind="stable")
    a, y = a[order], y[order]
    hits, alarms = np.cumsum(y) / y.sum(), np.cumsum(~y) / (~y).sum()
    # Between two equal values there is no place for a threshold.
    gain = np.where(np.append(a[1:] != a[:-1], True), hits - alarms, -1)
    threshold = a[int(np.argmax(gain))]
    above = other_a >= threshold
    accuracy = (above[other_y].mean() + (~above)[~other_y].mean()) / 2
    return float(sign * threshold), float(accuracy)
