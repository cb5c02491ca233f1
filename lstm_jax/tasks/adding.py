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
And the end of it: a fixed number of steps, where the paper's ends at 2,000 correct sequences in a
row with a mean error below 0.01. As there, training never sees a sequence twice, and 2,560 others
are held out.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.model import Interface, Masks, ModelParams, apply, init_carry
from lstm_jax.options import Section, option
from lstm_jax.tasks.task import Task

TOLERANCE = 0.04  # an answer that is further from its target is wrong
HELD_OUT_SEED, AFTER_THE_LAST_STEP = 1997, 2**31  # no batch of any run is drawn from these
SIDE_BY_SIDE = 256  # held-out sequences that are drawn and scored at a time
SHOWN = 5  # sequences of a sample


@dataclass(frozen=True)
class AddingOptions(Section):
    prefix = "data."
    length: int = option(
        100,
        "T, steps of the shortest sequences; others have up to T/10 more",
        low=20,
        high=10**4,
    )
    held_out: int = option(
        2560,
        "sequences that are scored and not trained on",
        low=1,
        high=10**6,
        decides="validation",
    )


def longest_of(length: int) -> int:
    """The steps of the longest sequences; `length` is T, as above."""
    return length + length // 10


def draw_sequences(rng: np.random.Generator, count: int, length: int) -> Batch:
    """So many sequences side by side, from the zero state; `length` is T, as above.

    What follows a sequence's last step, up to the longest possible, is padding: zeros, not live.
    """
    steps = longest_of(length)
    lanes_B, t_Tx1 = np.arange(count), np.arange(steps)[:, None]
    lasts_B = rng.integers(length, steps, count, endpoint=True) - 1
    values_TxB = rng.uniform(-1, 1, (steps, count))
    first_B = rng.integers(10, size=count)
    second_B = rng.integers(length // 2 - 1, size=count)
    second_B += second_B >= first_B  # of the pairs without the one that is marked
    markers_TxB = np.zeros((steps, count))
    markers_TxB[0] = markers_TxB[lasts_B, lanes_B] = -1
    markers_TxB[first_B, lanes_B] = markers_TxB[second_B, lanes_B] = 1
    values_TxB[0, markers_TxB[0] == 1] = 0
    sums_B = values_TxB[first_B, lanes_B] + values_TxB[second_B, lanes_B]
    live_TxB = t_Tx1 <= lasts_B
    mask_TxB = t_Tx1 == lasts_B
    targets_TxB = np.where(mask_TxB, 0.5 + sums_B / 4, 0)
    inputs_TxBx2 = np.stack([values_TxB, markers_TxB], -1) * live_TxB[..., None]
    return Batch(
        inputs_TxBx2.astype(np.float32),
        targets_TxB[..., None].astype(np.float32),
        mask=mask_TxB,
        resets=np.broadcast_to(t_Tx1 == 0, live_TxB.shape),
        live=live_TxB,
    )


@jax.jit
def answers(params: ModelParams, batch: Batch, masks: Masks | None) -> Array:
    """What the model puts out at the last step of each sequence, B."""
    carry = init_carry(params, batch.inputs.shape[1])
    outputs_TxBx1, _ = apply(params, carry, batch.inputs, masks, batch.resets)
    assert batch.mask is not None  # `draw_sequences` makes one
    return jnp.where(batch.mask, outputs_TxBx1[..., 0], 0).sum(axis=0)


class AddingTask(Task):
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

    def __init__(self, length: int, held_out: int, batch_size: int, seed: int) -> None:
        self.length, self.held_out = length, held_out
        self.batch_size, self.seed = batch_size, seed

    @classmethod
    def of(cls, config: Any) -> Self:
        data, train = config.data, config.train
        return cls(data.length, data.held_out, train.batch_size, train.seed)

    @classmethod
    def steps_of(cls, config: Any) -> int:
        return longest_of(config.data.length)

    def describe(self) -> str:
        longest = longest_of(self.length)
        return f"adding: sequences of {self.length} to {longest} steps, {self.held_out:,} held out"

    def batch_at(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        return draw_sequences(rng, self.batch_size, self.length)

    def held_out_part(self, n: int) -> Batch:
        """SIDE_BY_SIDE sequences that no run of any seed is trained on."""
        rng = np.random.default_rng([HELD_OUT_SEED, AFTER_THE_LAST_STEP + n])
        return draw_sequences(rng, SIDE_BY_SIDE, self.length)

    def references(self) -> dict[str, float]:
        """The variance of the held-out targets."""
        parts = map(self.held_out_part, range(math.ceil(self.held_out / SIDE_BY_SIDE)))
        targets_N = np.concatenate([part.targets.sum(axis=(0, 2)) for part in parts])
        return {"always saying the mean": float(targets_N[: self.held_out].var(dtype=np.float64))}

    def answer(self, params: ModelParams, masks: Masks | None) -> np.ndarray:
        """The target and the answer of each held-out sequence, 2xN."""
        parts = map(self.held_out_part, range(math.ceil(self.held_out / SIDE_BY_SIDE)))
        pairs = [(part.targets.sum(axis=(0, 2)), answers(params, part, masks)) for part in parts]
        return np.concatenate(pairs, axis=1)[:, : self.held_out]

    def evaluate(self, params: ModelParams, masks: Masks | None) -> dict[str, float]:
        """The mean squared error, and the share of sequences that are not correct."""
        targets_N, answers_N = self.answer(params, masks).astype(np.float64)
        errors_N = np.abs(answers_N - targets_N)
        return {"loss": float(np.mean(errors_N**2)), "wrong": float(np.mean(errors_N >= TOLERANCE))}

    def sample(self, params: ModelParams, masks: Masks | None) -> str:
        """Some held-out sequences: what was to be said, and what is."""
        pairs = self.answer(params, masks)[:, :SHOWN].T
        return "\n".join(f"target {target:.3f}  answer {answer:.3f}" for target, answer in pairs)
