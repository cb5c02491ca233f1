"""Temporal order: which of two symbols came first, and second, and third.

Experiment 6 of Hochreiter and Schmidhuber 1997, "Long Short-Term Memory" (Neural Computation 9).

    symbols   E, B, a, b, c, d, X, Y, each a one-hot vector
    lengths   100 to 110; E comes first, B last, and a, b, c or d elsewhere, but for
    6a        X or Y at a position from 10 to 20, and at one from 50 to 60
    6b        X or Y at a position from 10 to 20, at one from 33 to 43, and at one from 66 to 76
    target    the class, one-hot at the last step: in 6a XX, XY, YX, YY; in 6b XXX to YYY likewise
    correct   a sequence with an absolute error below 0.3 at each output

Positions count from 1: so the least lags from the last X or Y to the end are 40 and 24, as in the
paper's table of conditions. Everything is uniform.

A trial is solved when the 2,000 most recent training sequences are correct and the "average
training error" is below 0.1. Here that is the absolute error, the mean over outputs as well, of the
same sequences; the paper does not say.
"""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.model import Interface
from lstm_jax.options import option
from lstm_jax.tasks.drawn import (
    DrawnTask,
    HeldOut,
    Score,
    Stopping,
    absolute_errors,
    one_hot,
    one_target_each,
)

SYMBOLS = "EBabcdXY"
E, B, a, X = (SYMBOLS.index(symbol) for symbol in "EBaX")
SHORTEST, LONGEST = 100, 110
POSITIONS = {2: ((10, 20), (50, 60)), 3: ((10, 20), (33, 43), (66, 76))}
TOLERANCE = 0.3  # an output that is as far from its target is wrong


@dataclass(frozen=True)
class TemporalOrderOptions(HeldOut):
    relevant: int = option(
        2, "how many X and Y a sequence has, whose order is its class", low=2, high=3
    )


class TemporalOrderTask(DrawnTask):
    """The classes of sequences with 2 or 3 `relevant` symbols."""

    Options = TemporalOrderOptions
    unit = "nats/sequence"
    meanings = MappingProxyType(
        {
            "loss": "on held-out sequences",
            "wrong": f"the share of them with an output that is off by {TOLERANCE} or more",
        }
    )
    stopping = Stopping(window=2000, wrong_below=1, error_below=0.1)

    def __init__(self, held_out: int, relevant: int, batch_size: int, seed: int) -> None:
        super().__init__(held_out, batch_size, seed)
        self.relevant = relevant
        self.interface = Interface(len(SYMBOLS), 2**relevant, reads_ids=False, head="bernoulli")

    def describe(self) -> str:
        return (
            f"temporal order: {2**self.relevant} classes by {self.relevant} symbols of "
            f"{SHORTEST} to {LONGEST}, {self.held_out:,} held out"
        )

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        lanes_B = np.arange(count)
        lengths_B = rng.integers(SHORTEST, LONGEST, count, endpoint=True)
        ids_TxB = rng.integers(a, X, (LONGEST, count))
        class_B = np.zeros(count, int)
        for first, last in POSITIONS[self.relevant]:
            Y_B = rng.integers(2, size=count)  # 0: X
            ids_TxB[rng.integers(first - 1, last, count), lanes_B] = X + Y_B
            class_B = 2 * class_B + Y_B
        ids_TxB[0], ids_TxB[lengths_B - 1, lanes_B] = E, B
        inputs_TxBxD = one_hot(ids_TxB, len(SYMBOLS))
        return one_target_each(inputs_TxBxD, one_hot(class_B, 2**self.relevant), lengths_B)

    def score(self, predictions_TxBxN: Array, batch: Batch) -> Score:
        """The error is the mean of the absolute ones of the outputs."""
        errors_BxN = absolute_errors(predictions_TxBxN, batch).sum(axis=0)
        return Score(errors_BxN.mean(axis=1), (errors_BxN >= TOLERANCE).any(axis=1))
