"""Tasks whose sequences are drawn: what those of the papers have in common.

Each sequence begins from the zero state, and all of a batch are padded to one length. Training
never sees a sequence twice, and others are held out. A task of this kind says how sequences are
drawn, which of them a model has processed correctly, and when a trial counts as solved.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.heads import HEADS
from lstm_jax.model import Masks, ModelParams, apply, init_carry
from lstm_jax.options import Section, option
from lstm_jax.tasks.task import Task

HELD_OUT_SEED, AFTER_THE_LAST_STEP = 1997, 2**31  # no batch of any run is drawn from these
SHOWN = 5  # sequences of a sample


class Score(NamedTuple):
    """How each sequence of a batch was processed; both B."""

    error: Array  # what the mean error of a stopping rule is the mean of
    wrong: Array  # bool: not processed correctly, as the task's paper defines it


class Stopping(NamedTuple):
    """When a trial counts as solved."""

    window: int  # over so many of the most recent training sequences; 0: over `held_out_part(0)`
    wrong_below: int = 1  # fewer than so many of them are wrong
    error_below: float = math.inf  # and their mean error is below this


@dataclass(frozen=True)
class HeldOut(Section):
    """The option that all these tasks have."""

    prefix = "data."
    held_out: int = option(
        2560,
        "sequences that are scored and not trained on",
        low=1,
        high=10**6,
        decides="validation",
    )


@dataclass(frozen=True)
class Length(Section):
    """The option of those whose sequences are of a length that is drawn."""

    prefix = "data."
    length: int = option(
        100,
        "T, steps of the shortest sequences; others have up to T/10 more",
        low=20,
        high=10**4,
    )


@jax.jit
def outputs_of(params: ModelParams, batch: Batch, masks: Masks | None) -> Array:
    """What the model puts out at every step, TxBxN, from the zero state."""
    carry = init_carry(params, batch.inputs.shape[1])
    return apply(params, carry, batch.inputs, masks, batch.resets)[0]


def one_hot(ids: np.ndarray, width: int) -> np.ndarray:
    """A vector of that width for each id, with one 1 and else 0, in float32."""
    vectors = np.zeros((ids.size, width), np.float32)
    vectors[np.arange(ids.size), ids.ravel()] = 1
    return vectors.reshape(*ids.shape, width)


def one_target_each(inputs: np.ndarray, targets_BxN: np.ndarray, lengths_B: Any) -> Batch:
    """Sequences of ids TxB or vectors TxBxD with a target at their last step alone, and zeros
    behind that."""
    t_Tx1 = np.arange(len(inputs))[:, None]
    live_TxB, mask_TxB = t_Tx1 < lengths_B, t_Tx1 == lengths_B - 1
    live, dtype = (live_TxB, np.int32) if inputs.ndim == 2 else (live_TxB[..., None], np.float32)
    return Batch(
        (inputs * live).astype(dtype, copy=False),
        np.where(mask_TxB[..., None], targets_BxN, 0).astype(np.float32),
        mask=mask_TxB,
        resets=np.broadcast_to(t_Tx1 == 0, live_TxB.shape),
        live=live_TxB,
    )


def counted_at(batch: Batch) -> np.ndarray:
    """Where a target counts, TxB: the batches of drawn tasks always say."""
    assert batch.mask is not None
    return np.asarray(batch.mask)


def absolute_errors(predictions_TxBxN: Array, batch: Batch) -> Array:
    """Of each output where a target counts; 0 elsewhere, TxBxN."""
    assert batch.mask is not None
    errors_TxBxN = jnp.abs(predictions_TxBxN - batch.targets)
    return jnp.where(batch.mask[..., None], errors_TxBxN, 0)


class DrawnTask(Task):
    """A task whose sequences are drawn by a seed.

    A subclass gives Options, interface, stopping, describe, and these two methods; a constructor
    that takes its options by their names, and hands the last three arguments on.

    stopping: when a trial counts as solved: data, which whoever runs trials applies.
    side_by_side: held-out sequences that are drawn and scored at a time.
    """

    stopping: Stopping
    side_by_side: int = 256
    meanings = MappingProxyType(
        {"loss": "on held-out sequences", "wrong": "the share of them that are wrong"}
    )

    def __init__(self, held_out: int, batch_size: int, seed: int) -> None:
        self.held_out, self.batch_size, self.seed = held_out, batch_size, seed

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """So many sequences side by side, from the zero state, padded to one length: `mask`,
        `resets` and `live` are there, and T is the same at each call."""
        raise NotImplementedError

    def score(self, predictions_TxBxN: Array, batch: Batch) -> Score:
        """How each sequence was processed; a pure function, for use under `jit` and `vmap`.

        Args:
          predictions_TxBxN: on the scale of the targets, such as probabilities.
        """
        raise NotImplementedError

    def draw_scored(self, rng: np.random.Generator, count: int) -> Batch:
        """As `draw`, what is scored and not trained on; another, where training has noise on the
        targets that scores are not to have."""
        return self.draw(rng, count)

    @classmethod
    def of(cls, config: Any) -> Self:
        data, train = config.data, config.train
        options = {f.name: getattr(data, f.name) for f in dataclasses.fields(cls.Options)}
        return cls(**options, batch_size=train.batch_size, seed=train.seed)

    @classmethod
    def steps_of(cls, config: Any) -> int:
        return len(cls.of(config).draw(np.random.default_rng(0), 1).inputs)

    def batch_at(self, step: int) -> Batch:
        return self.draw(np.random.default_rng([self.seed, step]), self.batch_size)

    def held_out_part(self, n: int) -> Batch:
        """`side_by_side` sequences that no run of any seed is trained on."""
        rng = np.random.default_rng([HELD_OUT_SEED, AFTER_THE_LAST_STEP + n])
        return self.draw_scored(rng, self.side_by_side)

    def held_out_parts(self) -> Iterator[tuple[Batch, int]]:
        """All parts, and how many sequences of each count."""
        for first in range(0, self.held_out, self.side_by_side):
            count = min(self.side_by_side, self.held_out - first)
            yield self.held_out_part(first // self.side_by_side), count

    def held_out_outputs(
        self, params: ModelParams, masks: Masks | None
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """All held-out sequences in parts, with what the model puts out, TxBxN in float64."""
        for part, count in self.held_out_parts():
            outputs_TxBxN = np.asarray(outputs_of(params, part, masks), np.float64)
            yield first_lanes(part, count), outputs_TxBxN[:, :count]

    def evaluate(self, params: ModelParams, masks: Masks | None) -> dict[str, float]:
        """The mean loss of a target, and the share of sequences that are wrong."""
        losses, wrongs, head = [], [], HEADS[self.interface.head]
        for part, outputs_TxBxN in self.held_out_outputs(params, masks):
            with jax.enable_x64(True):
                outputs, targets = jnp.asarray(outputs_TxBxN), jnp.asarray(part.targets)
                losses_TxB = np.asarray(head.losses(outputs, targets))
                wrongs.append(np.asarray(self.score(head.predict(outputs), part).wrong))
            losses.append(losses_TxB.T[counted_at(part).T])
        return {
            "loss": float(np.mean(np.concatenate(losses))),
            "wrong": float(np.mean(np.concatenate(wrongs))),
        }

    def show(self, values_N: np.ndarray) -> str:
        """What a sample has of a target, and of an answer to it."""
        return " ".join(f"{value:.3f}" for value in np.atleast_1d(values_N))

    def sample(self, params: ModelParams, masks: Masks | None) -> str:
        """The last target of some held-out sequences: what was to be said, and what is."""
        part, outputs_TxBxN = next(self.held_out_outputs(params, masks))
        predict = HEADS[self.interface.head].predict
        predictions_TxBxN = np.asarray(predict(jnp.asarray(outputs_TxBxN)))
        lines = []
        for lane in range(min(SHOWN, outputs_TxBxN.shape[1])):
            last = np.flatnonzero(counted_at(part)[:, lane])[-1]
            target, answer = np.asarray(part.targets)[last, lane], predictions_TxBxN[last, lane]
            lines.append(f"target {self.show(target)}  answer {self.show(answer)}")
        return "\n".join(lines)

    def references(self) -> dict[str, float]:
        """The loss of the best constant: for a squared error, the variance of the targets."""
        count, total_N, squares_N = 0, np.zeros(1), np.zeros(1)
        for part, lanes in self.held_out_parts():
            scored = first_lanes(part, lanes)
            targets_KxN = np.asarray(scored.targets)[counted_at(scored)]
            count += len(targets_KxN)
            total_N = total_N + targets_KxN.sum(axis=0)
            squares_N = squares_N + np.square(targets_KxN).sum(axis=0)
        mean_N = total_N / count
        losses_N = {
            "squared": squares_N / count - mean_N**2,
            "bernoulli": entropy(mean_N) + entropy(1 - mean_N),
        }
        head = self.interface.head
        return {"always saying the mean": float(losses_N[head].sum())} if head in losses_N else {}


def first_lanes(batch: Batch, count: int) -> Batch:
    """So many sequences of a batch, their targets in float64 where they are no ids."""
    batch = jax.tree.map(lambda values: values[:, :count], batch)
    if not np.issubdtype(batch.targets.dtype, np.floating):
        return batch
    return batch._replace(targets=batch.targets.astype(np.float64))


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """-p ln p, which is 0 at 0."""
    return -probabilities * np.log(np.where(probabilities > 0, probabilities, 1))
