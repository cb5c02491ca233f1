"""Very long lags: a symbol returns after a trigger, which comes after many distractors.

Experiment 2c of Hochreiter and Schmidhuber 1997, "Long Short-Term Memory" (Neural Computation 9).
There are p + 4 symbols, a_1 to a_p, e, b, x and y, in this order, each a one-hot vector; and two
kinds of sequences with the same probability:

    b y a_i1 a_i2 … a_i(q+k) e y    and    b x a_i1 a_i2 … a_i(q+k) e x

The q distractors, and k more, are drawn from a_1 to a_p. k is random: after q distractors each
further symbol is e with probability 1/10, else another distractor. The last symbol alone is a
target, of two outputs: x, y. A sequence is correct where neither is off by 0.2 or more. A trial is
solved when 10,000 in a row are correct. In the paper those are a test set; here they are the most
recent of the training, each scored before it is learnt from. So what compares with the paper's
counts are the sequences before those.

Misprints of the paper: it draws the distractors from a_1 to a_q, which there are not where q > p;
some copies give another distractor the probability 1/10 as well; and the expected length is q + 13,
where it has q + 14.

So that all batches are of one length, k is at most 100: one k in 42,000 would be larger, and is
drawn again.
"""

import math
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

TOLERANCE = 0.2  # an output that is as far from its target is wrong
GOES_ON, MOST_MORE = 0.9, 100  # k: another distractor's probability; the greatest


@dataclass(frozen=True)
class VeryLongLagsOptions(HeldOut):
    least_distractors: int = option(
        100,
        "q, the fewest distractors of a sequence, of which it has 9 more on average",
        low=1,
        high=2000,
    )
    kinds: int = option(100, "p, the symbols that distractors are drawn from", low=1, high=2000)


class VeryLongLagsTask(DrawnTask):
    """Whether x or y came first, to be told after `least_distractors` and more.

    vectors: whether inputs are one-hot vectors. Ids are the same to a layer, and take p times less
      memory: a sequence of q = p = 1,000 is one of 4.4 MB.
    """

    vectors = True

    Options = VeryLongLagsOptions
    unit = "nats/sequence"
    meanings = MappingProxyType(
        {
            "loss": "on held-out sequences",
            "wrong": f"the share of them with an output that is off by {TOLERANCE} or more",
        }
    )
    stopping = Stopping(window=10_000)

    def __init__(
        self, held_out: int, least_distractors: int, kinds: int, batch_size: int, seed: int
    ) -> None:
        super().__init__(held_out, batch_size, seed)
        self.least_distractors, self.kinds = least_distractors, kinds
        self.interface = Interface(kinds + 4, 2, reads_ids=False, head="bernoulli")
        self.steps = least_distractors + MOST_MORE + 3  # b, x or y, and e
        # 64 MiB of vectors
        most = 2**24 // self.steps // (kinds + 4)
        self.side_by_side = max(1, min(DrawnTask.side_by_side, most))

    def describe(self) -> str:
        q, p = self.least_distractors, self.kinds
        return (
            f"very long lags: {q:,} distractors and more, of {p:,} kinds, "
            f"{self.held_out:,} held out"
        )

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        q, p = self.least_distractors, self.kinds
        e, b, x = p, p + 1, p + 2
        more_B = draw_more(rng, count)
        y_B = rng.integers(2, size=count)  # 0: x
        ids_TxB = rng.integers(p, size=(self.steps, count))
        ids_TxB[0], ids_TxB[1], ids_TxB[q + 2 + more_B, np.arange(count)] = b, x + y_B, e
        inputs = one_hot(ids_TxB, p + 4) if self.vectors else ids_TxB
        return one_target_each(inputs, one_hot(y_B, 2), q + 3 + more_B)

    def score(self, predictions_TxBxN: Array, batch: Batch) -> Score:
        """The error is the larger absolute one of the two outputs."""
        errors_B = absolute_errors(predictions_TxBxN, batch).max(axis=(0, 2))
        return Score(errors_B, errors_B >= TOLERANCE)


def draw_more(rng: np.random.Generator, count: int) -> np.ndarray:
    """k of each sequence: GOES_ON to the power of k + 1 is the probability of a larger one."""
    larger_B = rng.uniform(GOES_ON ** (MOST_MORE + 1), 1, count)
    return np.floor(np.log(larger_B) / math.log(GOES_ON)).astype(int)
