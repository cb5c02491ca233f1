"""How often each gate is shut or wide open, and which units do nothing.

Karpathy, Johnson and Li 2015, "Visualizing and understanding recurrent networks", section 4.2: a
gate is left-saturated in the steps where it is below 0.1, and right-saturated where it is above
0.9.
"""

from typing import NamedTuple

import numpy as np

from lstm_jax.inspection.traces import Trace

LEFT, RIGHT = 0.1, 0.9
STILL = 0.01  # the deviation over time below which a unit's output says nothing


class Saturation(NamedTuple):
    """The share of steps in which each unit's gate is saturated, N each."""

    left: np.ndarray
    right: np.ndarray


def saturation(trace: Trace) -> dict[str, Saturation]:
    """Of each gate of a layer, by its name."""
    return {
        name: Saturation(
            np.mean(trace.fields[name] < LEFT, axis=0), np.mean(trace.fields[name] > RIGHT, axis=0)
        )
        for name in trace.gates
    }


def dead_units(trace: Trace) -> list[int]:
    """The units whose output hardly changes over the text."""
    return np.flatnonzero(np.std(trace.states.h, axis=0) < STILL).tolist()


def norms(trace: Trace) -> dict[str, np.ndarray]:
    """The length of h, and that of the memory, at every step: T each."""
    names = dict.fromkeys(["h", trace.memory])
    return {name: np.linalg.norm(trace.fields[name], axis=1) for name in names}
