"""The adding problem: the sum of two numbers that a long sequence marks.

Experiment 4 of Hochreiter and Schmidhuber 1997, "Long Short-Term Memory" (Neural Computation 9).
Each step of a sequence is a pair: a value, uniform in [-1, 1], and a marker.

    lengths   random, between T and T + T/10
    X1        the value of one of the first 10 pairs; its marker is 1
    X2        the value of one of the first T/2 - 1 pairs that are not yet marked; its marker is 1
    others    the marker is -1 at the first and at the last pair, else 0
    target    0.5 + (X1 + X2) / 4, at the last step alone
    correct   a sequence with an absolute error below 0.04

If the first pair gets marked its value is set to 0. The paper says so of X1, and here it holds for
X2 as well, the marker being 1 in both cases: the target always is the sum of what is marked.

What differs from the paper is the training: batches in place of one sequence after another; the
config's cell (its own has no forget gate), optimizer and gradient; an output without a sigmoid.
By flags it ends after a fixed number of steps, where the paper's ends at 2,000 correct sequences in
a row with a mean error below 0.01 (`stopping`). As there, training never sees a sequence twice, and
2,560 others are held out. The paper's "average training error" must be the absolute one: of errors
below 0.04 none has a square above 0.0016. It is taken over the same 2,000.
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
class AddingOptions(HeldOut, Length):
    pass


class AddingTask(DrawnTask):
    """The adding problem with sequences of `length` steps and up to a tenth more."""

    Options = AddingOptions
    interface = Interface(2, 1, reads_ids=False, head="squared")
    unit = "squared error/sequence"
    meanings = MappingProxyType(
        {
            "loss": "on held-out sequences",
            "wrong": f"the share of them whose answer is off by {TOLERANCE} or more",
        }
    )
    stopping = Stopping(window=2000, wrong_below=1, error_below=0.01)

    def __init__(self, length: int, held_out: int, batch_size: int, seed: int) -> None:
        super().__init__(held_out, batch_size, seed)
        self.length = length

    def describe(self) -> str:
        longest = self.length + self.length // 10
        return f"adding: sequences of {self.length} to {longest} steps, {self.held_out:,} held out"

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        inputs_TxBx2, X1_B, X2_B, lengths_B = draw_pairs(rng, count, self.length, -1, 0)
        targets_Bx1 = (0.5 + (X1_B + X2_B) / 4)[:, None]
        return one_target_each(inputs_TxBx2, targets_Bx1, lengths_B)

    def score(self, predictions_TxBxN: Array, batch: Batch) -> Score:
        """The error is the absolute one."""
        errors_B = absolute_errors(predictions_TxBxN, batch).sum(axis=(0, 2))
        return Score(errors_B, errors_B >= TOLERANCE)
