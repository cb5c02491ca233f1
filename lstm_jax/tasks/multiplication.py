"""The multiplication problem: the product of two numbers that a long sequence marks.

Experiment 5 of Hochreiter and Schmidhuber 1997, "Long Short-Term Memory" (Neural Computation 9).
The sequences are those of `adding`, but for this:

    values    uniform in [0, 1]; that of the first pair is set to 1, if it gets marked
    target    X1 X2, at the last step alone
    wrong     an absolute error above 0.04

As in `adding`, what the paper says of X1 in the first pair holds for X2 as well.

The paper judges a trial twice: when fewer than 140, and when fewer than 13, of the 2,000 most
recent training sequences are wrong. It reports an "MSE" of 0.0223 and 0.0139, with 139 and 14 wrong
of 2,560. No error is above 1, so the second cannot be a square, whose mean would be below 0.008. It
may be the mean absolute error.
"""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.model import Interface
from lstm_jax.tasks.drawn import (
    DrawnTask,
    HeldOut,
    Length,
    Score,
    Stopping,
    absolute_errors,
    one_target_each,
)
from lstm_jax.tasks.marked_pairs import draw_pairs

TOLERANCE = 0.04  # an answer that is further from its target is wrong


@dataclass(frozen=True)
class MultiplicationOptions(HeldOut, Length):
    pass


class MultiplicationTask(DrawnTask):
    """The multiplication problem with sequences of `length` steps and up to a tenth more."""

    Options = MultiplicationOptions
    interface = Interface(2, 1, reads_ids=False, head="squared")
    unit = "squared error/sequence"
    meanings = MappingProxyType(
        {
            "loss": "on held-out sequences",
            "wrong": f"the share of them whose answer is off by more than {TOLERANCE}",
        }
    )
    stopping = Stopping(window=2000, wrong_below=13)

    def __init__(self, length: int, held_out: int, batch_size: int, seed: int) -> None:
        super().__init__(held_out, batch_size, seed)
        self.length = length

    def describe(self) -> str:
        longest = self.length + self.length // 10
        return (
            f"multiplication: sequences of {self.length} to {longest} steps, "
            f"{self.held_out:,} held out"
        )

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        inputs_TxBx2, X1_B, X2_B, lengths_B = draw_pairs(rng, count, self.length, 0, 1)
        return one_target_each(inputs_TxBx2, (X1_B * X2_B)[:, None], lengths_B)

    def score(self, predictions_TxBxN: Array, batch: Batch) -> Score:
        """The error is the absolute one."""
        errors_B = absolute_errors(predictions_TxBxN, batch).sum(axis=(0, 2))
        return Score(errors_B, errors_B > TOLERANCE)
