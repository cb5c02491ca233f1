"""Copy memory: ten symbols are to be said again, long after they were read.

Arjovsky, Shah and Bengio 2016, "Unitary Evolution Recurrent Neural Networks" (section 4.1), after
Hochreiter and Schmidhuber 1997. A sequence of T + 20 steps, where T is `data.blanks`:

    reads   10 symbols, each one of 8   T - 1 blanks   a delimiter   10 blanks
    says    T + 10 blanks                                            the 10 symbols

The loss is the mean over all T + 20 steps. Without a memory it is 10 ln(8) / (T + 20): blanks are
said where they belong, and one of the 8 is guessed. Bai, Kolter and Koltun 2018 have the delimiter
in place of the last 10 blanks as well; here they are blanks.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.model import Interface, Masks, ModelParams
from lstm_jax.options import option
from lstm_jax.tasks.drawn import SHOWN, DrawnTask, HeldOut, Score, Stopping

SYMBOLS, REMEMBERED = 8, 10
BLANK, DELIMITER = 8, 9  # ids, after those of the symbols


@dataclass(frozen=True)
class CopyMemoryOptions(HeldOut):
    blanks: int = option(
        1000,
        "T, about as many blanks stand between the symbols and their repetition",
        low=1,
        high=10**5,
    )


class CopyMemoryTask(DrawnTask):
    """Copy memory. A trial is solved where the loss is a tenth of that without a memory."""

    Options = CopyMemoryOptions
    interface = Interface(SYMBOLS + 2, SYMBOLS + 2)
    unit = "nats/step"
    side_by_side = 128
    meanings = MappingProxyType(
        {
            "loss": "on held-out sequences",
            "wrong": "the share of them with a wrong symbol among the last ten",
        }
    )

    def __init__(self, blanks: int, held_out: int, batch_size: int, seed: int) -> None:
        super().__init__(held_out, batch_size, seed)
        self.blanks = blanks
        without_memory = REMEMBERED * math.log(SYMBOLS) / (blanks + 2 * REMEMBERED)
        anyhow = self.side_by_side + 1  # however many are wrong
        self.stopping = Stopping(0, wrong_below=anyhow, error_below=without_memory / 10)
        self.without_memory = without_memory

    def describe(self) -> str:
        return (
            f"copy memory: {REMEMBERED} symbols, to be said again after {self.blanks:,} steps, "
            f"{self.held_out:,} sequences held out"
        )

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        steps = self.blanks + 2 * REMEMBERED
        symbols_10xB = rng.integers(SYMBOLS, size=(REMEMBERED, count))
        inputs_TxB, targets_TxB = np.full((2, steps, count), BLANK, np.int32)
        inputs_TxB[:REMEMBERED] = targets_TxB[-REMEMBERED:] = symbols_10xB
        inputs_TxB[-REMEMBERED - 1] = DELIMITER
        everywhere_TxB = np.ones((steps, count), bool)
        resets_TxB = np.broadcast_to(np.arange(steps)[:, None] == 0, everywhere_TxB.shape)
        return Batch(inputs_TxB, targets_TxB, everywhere_TxB, resets_TxB, everywhere_TxB)

    def score(self, predictions_TxBxN: Array, batch: Batch) -> Score:
        """The loss of a sequence, and whether any of its last ten symbols is not the likeliest."""
        targets_TxB = jnp.asarray(batch.targets)
        said_TxB = jnp.take_along_axis(predictions_TxBxN, targets_TxB[..., None], -1)[..., 0]
        said_ids_TxB = jnp.argmax(predictions_TxBxN, -1).astype(targets_TxB.dtype)
        wrong_TxB = said_ids_TxB != targets_TxB
        return Score(-jnp.log(said_TxB).mean(axis=0), wrong_TxB[-REMEMBERED:].any(axis=0))

    def references(self) -> dict[str, float]:
        return {"remembering nothing": self.without_memory}

    def sample(self, params: ModelParams, masks: Masks | None) -> str:
        """The last symbols of some held-out sequences: what was to be said, and what is."""
        part, outputs_TxBxN = next(self.held_out_outputs(params, masks))
        targets, answers = (
            ["".join(map(str, ids)) for ids in ids_TxB[-REMEMBERED:].T]
            for ids_TxB in (part.targets, outputs_TxBxN.argmax(-1))
        )
        pairs = zip(targets[:SHOWN], answers, strict=False)
        return "\n".join(f"target {target}  answer {answer}" for target, answer in pairs)
