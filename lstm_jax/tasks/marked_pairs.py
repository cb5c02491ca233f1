"""Sequences of pairs of which two are marked: what adding and multiplication are about."""

from typing import NamedTuple

import numpy as np


class MarkedPairs(NamedTuple):
    inputs: np.ndarray  # TxBx2, a value and a marker, whatever the length
    X1: np.ndarray  # B, the values of the two that are marked
    X2: np.ndarray
    lengths: np.ndarray


def draw_pairs(
    rng: np.random.Generator, count: int, length: int, lowest: float, neutral: float
) -> MarkedPairs:
    """So many sequences side by side, as `adding` describes them.

    Args:
      length: T, the steps of the shortest; T + T/10 are the most.
      lowest: values are uniform from this to 1.
      neutral: what the value of the first pair is if that gets marked.
    """
    steps, lanes_B = length + length // 10, np.arange(count)
    lengths_B = rng.integers(length, steps, count, endpoint=True)
    values_TxB = rng.uniform(lowest, 1, (steps, count))
    first_B = rng.integers(10, size=count)
    second_B = rng.integers(length // 2 - 1, size=count)
    second_B += second_B >= first_B  # of the pairs without the one that is marked
    markers_TxB = np.zeros((steps, count))
    markers_TxB[0] = markers_TxB[lengths_B - 1, lanes_B] = -1
    markers_TxB[first_B, lanes_B] = markers_TxB[second_B, lanes_B] = 1
    values_TxB[0, markers_TxB[0] == 1] = neutral
    return MarkedPairs(
        np.stack([values_TxB, markers_TxB], -1),
        values_TxB[first_B, lanes_B],
        values_TxB[second_B, lanes_B],
        lengths_B,
    )
