"""The configuration of an experiment: frozen dataclasses, one a section.

Every field says what it means and what values it takes; a section that exists is valid. The
command line, `config.json` and the checkpoints are all written from these definitions.
"""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from lstm_jax.averaging import AverageOptions
from lstm_jax.cells import CELLS
from lstm_jax.data.options import DataConfig as DataConfig
from lstm_jax.errors import UserError, shorten
from lstm_jax.gradients import GRADIENTS
from lstm_jax.gradients.known import missing_by_hand
from lstm_jax.model import ModelConfig as ModelConfig
from lstm_jax.optimizer import OptimizerConfig as OptimizerConfig
from lstm_jax.options import Section, option


@dataclass(frozen=True)
class TrainConfig(AverageOptions, Section):
    prefix = "train."
    steps: int = option(2000, "training steps", low=1, high=2**31 - 1)
    batch_size: int = option(64, "B, streams read side by side", low=1, high=2**20)
    sequence_length: int = option(
        128, "T, characters a step reads of each stream", low=1, high=2**24
    )
    seed: int = option(
        0, "seeds the initial weights and all that is drawn in training", low=0, high=2**32 - 1
    )
    reset_rate: float = option(
        0.0,
        "the share of lanes that start afresh, from the zero state, at each training step: what "
        "`windows` asks of a model",
        low=0,
        high=1,
    )
    gradient: str = option("bptt", "which backward", choices=GRADIENTS)
    remat_every: int = option(
        0,
        "keep the state every so many steps of a sequence and compute the rest again for the "
        "backward: the same gradient in less memory; 0: keep everything",
        low=0,
        high=2**24,
    )
    on_nonfinite: str = option(
        "stop",
        "where a loss or a gradient is not finite: stop the run, or skip that update and count it",
        choices=("stop", "skip"),
    )
    steps_per_dispatch: int = option(
        20, "training steps in one call to the device", low=1, high=2**20
    )
    validate_every: int = option(
        200, "steps from a validation, sample and checkpoint to the next", low=1, high=2**40
    )
    sample_length: int = option(400, "characters of each sample", low=1, high=2**20)
    keep_checkpoints: int = option(
        2, "how many of the latest checkpoints to keep, besides the best", low=1, high=1000
    )


@dataclass(frozen=True)
class EvaluateConfig(Section):
    prefix = "evaluate."
    window_length: int = option(
        256, "`windows`: characters predicted from each zero state", low=1, high=2**24
    )
    lanes: int = option(
        64,
        "`stream`: pieces of the split read side by side; 1: strictly one after another",
        low=1,
        high=2**20,
    )
    warmup: int = option(
        1024,
        "`stream`: unscored characters that each piece but the first reads beforehand",
        low=0,
        high=2**24,
    )


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    def __post_init__(self) -> None:
        gradient = self.train.gradient
        truncated = gradient == "truncated"
        missing = missing_by_hand([CELLS[self.model.cell]], truncated=truncated)
        if missing and gradient != "autodiff":
            raise UserError(
                f"train.gradient={gradient} is derived by hand, and {missing}: take "
                "--config.train.gradient=autodiff"
            )
        if self.train.average == "triggered" and not self.data.validation_fraction:
            raise UserError(
                "train.average=triggered waits for a validation loss, and "
                "data.validation_fraction=0 keeps no text for one"
            )

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """A copy with changed values, named like `model.hidden_size`."""
        sections: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            section, _, key = name.partition(".")
            if section not in SECTIONS or key not in fields_of(section):
                raise UserError(f"the config has no key {shorten(name)}")
            sections.setdefault(section, {})[key] = value
        return dataclasses.replace(
            self,
            **{s: dataclasses.replace(getattr(self, s), **kv) for s, kv in sections.items()},
        )

    def flatten(self) -> dict[str, Any]:
        """Every value, as JSON has it, under its full name, such as `model.hidden_size`."""
        values = {f"{s}.{k}": getattr(getattr(self, s), k) for s in SECTIONS for k in fields_of(s)}
        return {k: [*v] if isinstance(v, tuple) else v for k, v in values.items()}


SECTIONS: dict[str, type[Section]] = {
    f.name: typing.cast(type[Section], f.type) for f in dataclasses.fields(Config)
}


def check_read(config: Config, given: Collection[str]) -> None:
    """Refuses a value that was given, such as `evaluate.warmup`, and that the others leave without
    a meaning. Only what was given can be told from a default, so a config alone is not refused."""
    for section in SECTIONS:
        values = getattr(config, section)
        for name, why in values.unread().items():
            if f"{section}.{name}" in given:
                raise UserError(f"--config.{values.say(name, why)}")
    train, evaluate = config.train, config.evaluate
    in_one_piece = train.remat_every >= train.sequence_length
    for names, meaningless, reason in (
        (
            [f"evaluate.{name}" for name in fields_of("evaluate")],
            not config.data.validation_fraction,
            "at data.validation_fraction=0, where nothing is validated",
        ),
        (["evaluate.warmup"], evaluate.lanes == 1, "at evaluate.lanes=1, the strict form"),
        (
            ["model.hidden_size", "model.num_layers"],
            config.model.hidden_sizes,
            "beside model.hidden_sizes, which says both",
        ),
        (
            ["train.remat_every"],
            in_one_piece,
            f"at train.sequence_length={train.sequence_length}, which is no longer",
        ),
        (
            ["optimizer.schedule", "optimizer.final_ratio"],
            config.optimizer.warmup_steps >= train.steps,
            f"at optimizer.warmup_steps={config.optimizer.warmup_steps}: nothing comes after it",
        ),
    ):
        for name in names:
            if meaningless and name in given:
                raise UserError(f"--config.{name} means nothing {reason}: leave it out")


def fields_of(section: str) -> dict[str, dataclasses.Field]:
    """The fields of a section, by name."""
    return {f.name: f for f in dataclasses.fields(SECTIONS[section])}
