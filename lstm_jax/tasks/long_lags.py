"""Long lags: a sequence ends as it began, and much lies between.

Experiments 2a and 2b of Hochreiter and Schmidhuber 1997, "Long Short-Term Memory" (Neural
Computation 9). There are p + 1 symbols, a_1 to a_{p-1}, x and y, in this order, each a one-hot
vector. Two sequences, or kinds of them, have the same probability:

    2a  `middle=ordered`   y a_1 a_2 … a_{p-1} y  and  x a_1 a_2 … a_{p-1} x
    2b  `middle=random`    the same with p - 1 symbols in the middle that are drawn from a_1 to
                           a_{p-1}

Every next symbol is a target. A sequence is correct where no output is off by 0.25 or more: in 2a
at any step, in 2b at the last, the only one that can be predicted. A trial is solved when 10,000
sequences in a row are correct. In the paper they follow the training, and are not among the 5,040
or 5,680 that it counts. Here they are the most recent that it was trained on, each scored before it
is learnt from: so what compares with the paper's counts are the sequences before those.
"""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.model import Interface
from lstm_jax.options import option
from lstm_jax.tasks.drawn import DrawnTask, HeldOut, Score, Stopping, absolute_errors, one_hot

TOLERANCE = 0.25  # an output that is as far from its target is wrong


@dataclass(frozen=True)
class LongLagsOptions(HeldOut):
    lag: int = option(
        100, "p, the steps for which the first symbol is to be remembered", low=2, high=2000
    )
    middle: str = option(
        "ordered",
        "what lies between: always the same symbols, or some drawn at random",
        choices=("ordered", "random"),
    )


class LongLagsTask(DrawnTask):
    """Sequences of `lag` predictions, the last of which is of the first symbol.

    last_only: whether that is the only target that counts.
    """

    last_only = False
    Options = LongLagsOptions
    unit = "nats/symbol"
    meanings = MappingProxyType(
        {
            "loss": "on held-out sequences",
            "wrong": f"the share of them with an output that is off by {TOLERANCE} or more",
        }
    )
    stopping = Stopping(window=10_000)

    def __init__(self, held_out: int, lag: int, middle: str, batch_size: int, seed: int) -> None:
        super().__init__(held_out, batch_size, seed)
        self.lag, self.middle = lag, middle
        self.interface = Interface(lag + 1, lag + 1, reads_ids=False, head="bernoulli")
        # 64 MiB of vectors
        self.side_by_side = max(1, min(DrawnTask.side_by_side, 2**24 // lag // (lag + 1)))

    def describe(self) -> str:
        return f"long lags: {self.lag} steps, {self.middle} symbols, {self.held_out:,} held out"

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        p, lag = self.lag, self.lag
        ends_B = rng.integers(p - 1, p + 1, count)  # x or y
        if self.middle == "random":
            middle_LxB = rng.integers(p - 1, size=(lag - 1, count))
        else:
            middle_LxB = np.broadcast_to(np.arange(p - 1)[:, None], (lag - 1, count))
        ids_SxB = np.concatenate([ends_B[None], middle_LxB, ends_B[None]])
        everywhere_TxB = np.ones((lag, count), bool)
        t_Tx1 = np.arange(lag)[:, None]
        return Batch(
            one_hot(ids_SxB[:-1], p + 1),
            one_hot(ids_SxB[1:], p + 1),
            mask=everywhere_TxB & (t_Tx1 == lag - 1) if self.last_only else everywhere_TxB,
            resets=np.broadcast_to(t_Tx1 == 0, (lag, count)),
            live=everywhere_TxB,
        )

    def show(self, values_N: np.ndarray) -> str:
        """Of x and y alone."""
        return super().show(values_N[-2:])

    def score(self, predictions_TxBxN: Array, batch: Batch) -> Score:
        """The error is the largest absolute one of those that count."""
        errors_TxBxN = absolute_errors(predictions_TxBxN, batch)
        if self.middle == "random":
            errors_TxBxN = errors_TxBxN[-1:]
        errors_B = errors_TxBxN.max(axis=(0, 2))
        return Score(errors_B, errors_B >= TOLERANCE)
