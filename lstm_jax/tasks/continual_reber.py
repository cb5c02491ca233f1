"""The continual embedded Reber grammar: one endless stream of strings, and nothing is ever reset.

The first experiment of Gers, Schmidhuber and Cummins 2000, "Learning to Forget: Continual
Prediction with LSTM" (Neural Computation 12): a cell without a forget gate breaks down here.
`grammar` has the grammar; string follows string, and no mark says where one ends but its symbols.

    inputs    seven symbols, one-hot
    targets   1 for each symbol that may come next, 0 for the others
    right     a step, where each output is off by less than 0.49
    test      10 streams of 100,000 symbols from the zero state, each up to its first wrong step
    perfect   no step of any of them is wrong; good: a stream has more than 1,000 right steps
              before its first wrong one, in the mean of the 10

So much is as in the paper, as far as it was to be had; targets are a choice. A target of 1 for the
symbol that does come next, alone, leaves outputs of 1/2 where two may come. These are never off by
less than 0.49.

The paper trains on one stream at a time, with an update at each symbol, up to the first wrong step
or 100,000 symbols. Then it tests, and begins another stream from the zero state; at most 30,000 of
them. `draw_stream` gives such streams. A run has `train.batch_size` of them side by side, each of
`data.stream_steps` training steps, and updates at each of these steps. So it goes on after a wrong
step. Streams without an end would never show what to do in the zero state, where a test begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.heads import HEADS
from lstm_jax.model import Carry, Interface, Masks, ModelParams, apply, init_carry
from lstm_jax.options import Section, option
from lstm_jax.tasks.drawn import one_hot
from lstm_jax.tasks.grammar import PLACES, SYMBOLS, NEXT_Px2, POSSIBLE_Px7, walk
from lstm_jax.tasks.task import Task

TOLERANCE = 0.49  # an output that is further off makes a step wrong
TEST_STREAMS, TEST_SEED, AFTER_THE_LAST_STEP = 10, 2000, 2**31
AT_A_TIME = 1000  # symbols of the test streams
SHOWN = 100  # symbols of a sample


@dataclass(frozen=True)
class ContinualReberOptions(Section):
    prefix = "data."
    stream_steps: int = option(
        20,
        "training steps of a stream, before another begins in the zero state",
        low=1,
        high=2**31 - 1,
    )
    test_symbols: int = option(
        100_000,
        f"symbols of each of the {TEST_STREAMS} streams to test with",
        low=1,
        high=10**8,
        decides="validation",
    )


def read_on(choices_TxB: np.ndarray, places_B: np.ndarray) -> tuple[Batch, np.ndarray]:
    """What comes after some places in the grammar, and the places where it ends."""
    ids_TxB, places_TxB = walk(choices_TxB, places_B)
    batch = Batch(one_hot(ids_TxB, len(SYMBOLS)), POSSIBLE_Px7[places_TxB].astype(np.float32))
    return batch, places_TxB[-1]


def draw_stream(rng: np.random.Generator, count: int, symbols: int) -> Batch:
    """So many streams side by side, each from the beginning of a string."""
    return read_on(rng.integers(2, size=(symbols, count)), np.zeros(count, int))[0]


def wrong_steps(predictions_TxBx7: Array, targets_TxBx7: Array) -> Array:
    """Where an output is too far off, TxB; a pure function."""
    return jnp.any(jnp.abs(predictions_TxBx7 - targets_TxBx7) >= TOLERANCE, axis=-1)


@jax.jit
def score_piece(
    params: ModelParams, carry: Carry, batch: Batch, masks: Masks | None
) -> tuple[Carry, Array, Array]:
    """The next carry; the loss of each step, and whether it is wrong, both TxB."""
    targets_TxBx7 = jnp.asarray(batch.targets)
    outputs_TxBx7, carry = apply(params, carry, batch.inputs, masks)
    losses_TxB = HEADS["bernoulli"].losses(outputs_TxBx7, targets_TxBx7)
    wrong_TxB = wrong_steps(jax.nn.sigmoid(outputs_TxBx7), targets_TxBx7)
    return carry, losses_TxB, wrong_TxB


class ContinualReberTask(Task):
    """What may come next, in endless streams of strings of the embedded Reber grammar."""

    Options = ContinualReberOptions
    READS = ("train.sequence_length",)
    interface = Interface(len(SYMBOLS), len(SYMBOLS), reads_ids=False, head="bernoulli")
    unit = "nats/symbol"
    carries = True
    meanings = MappingProxyType(
        {
            "loss": f"on {TEST_STREAMS} other streams",
            "wrong": "the share of their steps that are wrong",
            "before_wrong": "right steps of a stream before its first wrong one, in the mean",
        }
    )

    def __init__(
        self,
        stream_steps: int,
        test_symbols: int,
        sequence_length: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.stream_steps, self.test_symbols = stream_steps, test_symbols
        self.sequence_length = sequence_length
        self.batch_size, self.seed = batch_size, seed

    @classmethod
    def of(cls, config: Any) -> Self:
        data, train = config.data, config.train
        return cls(
            data.stream_steps,
            data.test_symbols,
            train.sequence_length,
            train.batch_size,
            train.seed,
        )

    @classmethod
    def steps_of(cls, config: Any) -> int:
        return config.train.sequence_length

    def describe(self) -> str:
        return (
            f"continual embedded Reber grammar: {TEST_STREAMS} streams of {self.test_symbols:,} "
            "symbols to test with"
        )

    def choices_at(self, step: int) -> np.ndarray:
        """The choices that make the streams in training step `step`, TxB."""
        rng = np.random.default_rng([self.seed, step])
        return rng.integers(2, size=(self.sequence_length, self.batch_size))

    def begins_at(self, step: int) -> np.ndarray:
        """Which lanes begin another stream in a training step, B: not all of them at once."""
        return (step + np.arange(self.batch_size)) % self.stream_steps == 0

    def places_before(self, step: int) -> np.ndarray:
        """Where in the grammar each lane is when a training step begins, B.

        Nobody needs to walk there from the stream's beginning. From some step on, the same choices
        lead from everywhere to one place, so it is enough to go back as far as that.
        """
        from_PxB = np.tile(np.arange(PLACES)[:, None], self.batch_size)
        led_PxB = np.where(self.begins_at(step), 0, from_PxB)  # by where a lane would have been
        while step and (led_PxB != led_PxB[0]).any():
            step -= 1
            ends_PxB = np.where(self.begins_at(step), 0, from_PxB)
            for choices_B in self.choices_at(step):
                ends_PxB = NEXT_Px2[ends_PxB, choices_B]
            led_PxB = np.take_along_axis(led_PxB, ends_PxB, axis=0)
        return led_PxB[0]

    def batch_at(self, step: int) -> Batch:
        batch, _ = read_on(self.choices_at(step), self.places_before(step))
        resets_TxB = np.zeros(batch.inputs.shape[:2], bool)
        resets_TxB[0] = self.begins_at(step)
        return batch._replace(resets=resets_TxB)

    def test_pieces(self) -> Iterator[Batch]:
        """The streams to test with, which no run of any seed is trained on, piece by piece."""
        rng = np.random.default_rng([TEST_SEED, AFTER_THE_LAST_STEP])
        places_B = np.zeros(TEST_STREAMS, int)
        for first in range(0, self.test_symbols, AT_A_TIME):
            symbols = min(AT_A_TIME, self.test_symbols - first)
            batch, places_B = read_on(rng.integers(2, size=(symbols, TEST_STREAMS)), places_B)
            yield batch

    def test(self, params: ModelParams, masks: Masks | None) -> tuple[np.ndarray, np.ndarray]:
        """The loss of each step of the test streams, and whether it is wrong, both TxB."""
        carry, losses, wrong = init_carry(params, TEST_STREAMS), [], []
        for piece in self.test_pieces():
            carry, losses_TxB, wrong_TxB = score_piece(params, carry, piece, masks)
            losses.append(np.asarray(losses_TxB, np.float64))
            wrong.append(np.asarray(wrong_TxB))
        return np.concatenate(losses), np.concatenate(wrong)

    def evaluate(self, params: ModelParams, masks: Masks | None) -> dict[str, float]:
        losses_TxB, wrong_TxB = self.test(params, masks)
        right_B = np.where(wrong_TxB.any(axis=0), wrong_TxB.argmax(axis=0), len(wrong_TxB))
        return {
            "loss": float(losses_TxB.mean()),
            "wrong": float(wrong_TxB.mean()),
            "before_wrong": float(right_B.mean()),
        }

    def references(self) -> dict[str, float]:
        """The loss of the best constant on the first piece of the test streams."""
        mean_7 = next(self.test_pieces()).targets.mean(axis=(0, 1), dtype=np.float64)
        losses_7 = -mean_7 * np.log(mean_7) - (1 - mean_7) * np.log1p(-mean_7)
        return {"always saying the mean": float(losses_7.sum())}

    def sample(self, params: ModelParams, masks: Masks | None) -> str:
        """The beginning of a test stream, with a mark below each symbol after which it is wrong."""
        piece = next(self.test_pieces())
        piece = Batch(piece.inputs[:SHOWN, :1], piece.targets[:SHOWN, :1])
        _, _, wrong_Tx1 = score_piece(params, init_carry(params, 1), piece, masks)
        symbols = "".join(SYMBOLS[n] for n in piece.inputs[:, 0].argmax(-1))
        return symbols + "\n" + "".join("^" if wrong else " " for wrong in wrong_Tx1[:, 0]).rstrip()
