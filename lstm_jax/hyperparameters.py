"""What of a config is data to the compiled program, so that one program serves many runs.

A seed, a rate or a number of steps enters the training step as a scalar. What changes the program
itself stays a constant of it: a size, a name, or whether anything is dropped or clipped at all.
"""

from typing import NamedTuple, Self

import jax
import numpy as np

from lstm_jax.cells import CELLS
from lstm_jax.config import Config
from lstm_jax.data.batches import Values
from lstm_jax.gradients import GRADIENTS
from lstm_jax.masks import Chances
from lstm_jax.optimizer import OPTIMIZERS, Numbers, number

# The options that are data, and what stands for them in a program's config. Where it is not 0, a
# value of 0 or None stays, because it leaves a part of the program out.
AS_DATA = {
    "train.seed": 0,
    "train.steps": 1,
    "train.reset_rate": 0.5,
    "optimizer.learning_rate": 0.0,
    "optimizer.warmup_steps": 0,
    "optimizer.final_ratio": 0.0,
    "optimizer.weight_decay": 0.0,
    "optimizer.momentum": 0.5,
    "optimizer.clip_norm": 1.0,
    "model.dropout": 0.5,
    "model.input_dropout": 0.5,
    "model.embedding_dropout": 0.5,
    "model.weight_drop": 0.5,
    "model.zoneout_cell": 0.5,
    "model.zoneout_hidden": 0.5,
}


class Hyperparameters(NamedTuple):
    """The numbers of a run that its training step takes as arguments: scalars.

    `jax.vmap` over them, each with a leading axis, trains many runs side by side.
    """

    seed: Values
    optimizer: Numbers
    chances: Chances
    reset_rate: Values | None

    @classmethod
    def of(cls, config: Config) -> Self:
        train = config.train
        return cls(
            seed=np.asarray(train.seed, np.uint32),
            optimizer=Numbers.of(config.optimizer, train.steps),
            chances=jax.tree.map(number, Chances.of(config.model)),
            reset_rate=number(train.reset_rate) if train.reset_rate else None,
        )


class Part:
    """An object that equals itself alone: somebody may put another one under its name."""

    def __init__(self, it: object) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


class Program(NamedTuple):
    """What a compiled program is made of, to find it again by."""

    structure: Config  # `structure_of`
    parts: tuple[Part, ...]  # what the structure's names stood for

    @classmethod
    def of(cls, config: Config) -> Self:
        named = (
            CELLS[config.model.cell],
            OPTIMIZERS[config.optimizer.name],
            GRADIENTS[config.train.gradient],
        )
        return cls(structure_of(config), tuple(map(Part, named)))


def structure_of(config: Config) -> Config:
    """The config of the program that a config's runs share with all others of its shape."""
    values, unread = config.flatten(), config.optimizer.unread()
    return config.replace(
        {
            name: stand_in
            for name, stand_in in AS_DATA.items()
            if values[name] not in (0, None) and name.removeprefix("optimizer.") not in unread
        }
    )
