"""What a task is: its data, what goes in and comes out of a model, and how that is scored.

A new one is a file beside this with a subclass of `Task`, and a line in `TASKS`. A run takes any
instance; what stands under "by flags" below is for those that the command line is to find.
"""

import copy
from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from lstm_jax.data.batches import Batch
from lstm_jax.model import Interface, Masks, ModelParams
from lstm_jax.options import Section


class Task:
    """What a model learns.

    interface: what the model reads and puts out, and the head that scores it.
    unit: what a loss is counted in, over what it is a mean of, such as `nats/char`.
    carries: whether a batch goes on where the one before ended. Else every sequence of a training
      batch starts from the zero state, whatever its `resets` say of the first step.
    meanings: what `evaluate` measures, in words, by its names; one that says it itself needs none.
    identity: what else a checkpoint must agree with to be of the same run, as JSON.
    source: what people call the data; where the identity differs, a refusal names this.
    """

    interface: Interface
    unit: str = "loss/target"
    carries: bool = False
    meanings: Mapping[str, str] = MappingProxyType({})
    identity: Mapping[str, Any] = MappingProxyType({})
    source: str = ""

    def describe(self) -> str:
        """The task in a line for people."""
        return f"{self.interface.input_size} in, {self.interface.output_size} out"

    def batch_at(self, step: int) -> Batch:
        """The batch of training step `step`, from 0: `train.batch_size` lanes, and the same shapes
        and dtypes at every step. It follows the step alone, so a run has nothing of it to save."""
        raise NotImplementedError

    def training_batch(self, step: int) -> Batch:
        """`batch_at`, where the state is not to be carried with the resets that this takes."""
        batch = self.batch_at(step)
        if self.carries:
            return batch
        first_Tx1 = np.arange(len(batch.inputs))[:, None] == 0
        shape = batch.inputs.shape[:2]
        resets_TxB = np.zeros(shape, bool) if batch.resets is None else np.asarray(batch.resets)
        return batch._replace(resets=resets_TxB | first_Tx1)

    def lanes_at(self, step: int, lanes: slice) -> Batch:
        """Some lanes of `training_batch`: what one of several processes trains on. A task whose
        batches are read, and not drawn, need read no others."""
        values = self.training_batch(step)
        return Batch._make(None if field is None else field[:, lanes] for field in values)

    def evaluate(self, params: ModelParams, masks: Masks | None) -> dict[str, float]:
        """What is measured on data that training does not see, by name; the first is minimised.

        Names that begin with `loss` are of what is counted in `unit`. Always the same names, or
        none: there is nothing to validate on. `masks`: what stands for the drawn ones
        (`masks.evaluation_masks`).
        """
        return {}

    def scored_on(self, split: str) -> Self:
        """This task with `evaluate` of another split, one of `SPLITS`."""
        if split not in self.SPLITS:
            raise ValueError(f"there is no split {split!r}, only {self.SPLITS}")
        return copy.copy(self)

    def sample(self, params: ModelParams, masks: Masks | None) -> str | None:
        """What the model makes of something, for people; None: there is nothing to show."""
        return None

    @classmethod
    def symbols_of(cls, identity: Mapping[str, Any]) -> Sequence[Hashable] | None:
        """What the ids of a run stand for, in order, out of its identity; None: it has no such."""
        return None

    def references(self) -> dict[str, float]:
        """What is easily reached, by its name in plain words: the first score of `evaluate`, of
        predictions that need no model."""
        return {}

    # By flags: the options, and what can be said of them before there is any data.

    Options: ClassVar[type[Section]]  # the config's, under `data.`
    SPLITS: ClassVar[tuple[str, ...]] = ()  # what can be scored besides what is validated on
    READS: ClassVar[tuple[str, ...]] = ()  # the names of others that not every task reads

    @classmethod
    def of(cls, config: Any) -> Self:
        """The task that a `Config` asks for; UserError where it cannot be had."""
        raise NotImplementedError

    def sharing(self, config: Any) -> "Task":
        """The task of a config with the same `data`, which need not be read again."""
        return type(self).of(config)

    @classmethod
    def validates(cls, config: Any) -> bool:
        """Whether `evaluate` will measure anything."""
        return True

    @classmethod
    def steps_of(cls, config: Any) -> int:
        """How many steps the batches of a config's task have."""
        raise NotImplementedError

    @classmethod
    def without_meaning(cls, config: Any) -> Iterable[tuple[str, str]]:
        """Options, such as `evaluate.warmup`, that others of the config leave without a meaning,
        each with what does, such as `at evaluate.lanes=1`."""
        return ()
