"""The configuration of an experiment: frozen dataclasses, one per section.

Every field says what it means and what values it takes; a section that exists is valid. The
command line, `config.json` and the checkpoints are all written from these definitions.
"""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lstm_jax.averaging import AverageOptions
from lstm_jax.cells import CELLS
from lstm_jax.errors import UserError, did_you_mean, shorten
from lstm_jax.gradients import GRADIENTS
from lstm_jax.gradients.known import missing_by_hand
from lstm_jax.heads import Head, softmax
from lstm_jax.model_config import ModelConfig
from lstm_jax.optimizer import OptimizerConfig
from lstm_jax.options import Section, checked, extend, option
from lstm_jax.precision import PRECISIONS
from lstm_jax.scoring.protocols import EvaluateConfig
from lstm_jax.tasks import TASKS


def read_by(task: str) -> frozenset[str]:
    """The options that a task reads and not every task does, such as `data.corpus`."""
    own = (f"data.{f.name}" for f in dataclasses.fields(TASKS[task].Options))
    return frozenset([*own, *TASKS[task].READS])


def foreign_to(task: str) -> frozenset[str]:
    """The options that other tasks read and this one does not."""
    return frozenset().union(*map(read_by, TASKS)) - read_by(task)


def without_meaning_to(task: str) -> str:
    """Why a task does not read an option of others."""
    reads = sorted(name for name in read_by(task) if name.startswith("data."))
    return (
        f"means nothing to data.task={task}, whose own options are {', '.join(reads)}: leave it "
        "out, or take another data.task"
    )


@dataclass(frozen=True)
class DataConfig(*(task.Options for task in TASKS.values())):  # type: ignore[misc]
    """Which task, and every task's options."""

    task: str = option("text", "what is learnt", choices=TASKS)

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """With the options of tasks that were put into TASKS since."""
        extend(DataConfig, [task.Options for task in TASKS.values()])
        return super().__new__(cls)

    def unread(self) -> dict[str, str]:
        foreign = (name.removeprefix("data.") for name in foreign_to(self.task))
        names = {f.name for f in dataclasses.fields(self)}
        unread = {name: without_meaning_to(self.task) for name in foreign if name in names}
        return unread | TASKS[self.task].Options.unread(self)


@dataclass(frozen=True)
class TrainConfig(AverageOptions, Section):
    prefix = "train."
    steps: int = option(2000, "training steps", low=1, high=2**31 - 1)
    batch_size: int = option(64, "B, streams read side by side", low=1, high=2**20)
    sequence_length: int = option(
        128, "T, steps of time per batch: of a text, characters or other tokens", low=1, high=2**24
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
    precision: str = option(
        "float32",
        "what the matrix products of a training step read; a CPU is no faster with bfloat16; all "
        "sums, states, parameters and the loss are float32, and so are validation and samples",
        choices=PRECISIONS,
    )
    remat_every: int = option(
        0,
        "keep the state every so many steps of a sequence and compute the rest again for the "
        "backward: the same gradient in less memory; 0: keep everything",
        low=0,
        high=2**24,
    )
    accumulate: int = option(
        1,
        "parts of the batch that are taken one after another: the same gradient in less memory",
        low=1,
        high=2**20,
    )
    on_nonfinite: str = option(
        "stop",
        "where a loss or a gradient is not finite: stop the run, or skip that update and count it",
        choices=("stop", "skip"),
    )
    steps_per_dispatch: int = option(
        20, "training steps in one call to the device", low=1, high=2**20, decides="nothing"
    )
    validate_every: int = option(
        200,
        "steps from a validation, sample and checkpoint to the next",
        low=1,
        high=2**40,
        decides="validation",
    )
    sample_length: int = option(
        400, "characters of each sample", low=1, high=2**20, decides="nothing"
    )
    patience: int = option(
        0,
        "end the run after so many validations in a row without a loss lower in float32; 0: never",
        low=0,
        high=2**31 - 1,
    )
    keep_checkpoints: int = option(
        2,
        "how many of the latest checkpoints to keep, besides the best",
        low=1,
        high=1000,
        decides="nothing",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise UserError(
                f"train.accumulate={self.accumulate} does not divide train.batch_size="
                f"{self.batch_size}: the parts are to be of one size"
            )


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        self.check_gradient(softmax)  # the head is the task's, which may not be there yet
        self.check_validation(TASKS[self.data.task].validates(self))

    def check_validation(self, validates: bool) -> None:
        """Raises UserError where there is no validation loss, and something waits for one."""
        if self.follows_validation and not validates:
            raise UserError(
                f"{self.follows_validation[0]} waits for a validation loss, and this task keeps "
                "nothing to validate on"
            )

    def check_gradient(self, head: Head) -> None:
        """Raises UserError where the gradient is one by hand, and of this model there is none."""
        gradient = self.train.gradient
        truncated = gradient == "truncated"
        missing = missing_by_hand([CELLS[self.model.cell]], head, truncated=truncated)
        if missing and gradient != "autodiff":
            raise UserError(
                f"train.gradient={gradient} is derived by hand, and {missing}: take "
                "--config.train.gradient=autodiff"
            )

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """A copy with changed values, named like `model.hidden_size`. Of the others in their
        section those that they leave without a meaning are at their defaults again."""
        sections: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            check_key(name)
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = value
        return dataclasses.replace(
            self,
            **{s: getattr(self, s).replace(changed) for s, changed in sections.items()},
        )

    @property
    def follows_validation(self) -> list[str]:
        """The options by which what is measured decides about the training."""
        train = self.train
        waits = {
            "train.average=triggered": train.average == "triggered",
            f"train.patience={train.patience}": train.patience,
            "optimizer.schedule=plateau": self.optimizer.schedule == "plateau",
        }
        return [name for name in waits if waits[name]]

    def free(self) -> frozenset[str]:
        """The options that may change where a run goes on: with other values it is the same."""
        kinds = {"nothing"} if self.follows_validation else {"nothing", "validation"}
        return frozenset(
            f"{section}.{key}"
            for section in SECTIONS
            for key, field in fields_of(section).items()
            if field.metadata["decides"] in kinds
        )

    def flatten(self) -> dict[str, Any]:
        """Every value, as JSON has it, under its full name, such as `model.hidden_size`."""
        values = {f"{s}.{k}": getattr(getattr(self, s), k) for s in SECTIONS for k in fields_of(s)}
        return {k: [*v] if isinstance(v, tuple) else v for k, v in values.items()}


SECTIONS: dict[str, type[Section]] = {
    f.name: typing.cast(type[Section], f.type) for f in dataclasses.fields(Config)
}


def check_key(name: str) -> None:
    """Raises UserError where the config has no such key."""
    section, _, key = name.partition(".")
    if section not in SECTIONS or key not in fields_of(section):
        known = [f"{s}.{k}" for s in SECTIONS for k in fields_of(s)]
        meant = did_you_mean(name[:100], known)
        raise UserError(f"the config has no key {shorten(name)}{meant}")


def check_value(name: str, value: Any) -> None:
    """Raises UserError where a key of the config takes no such value, whatever the others are."""
    check_key(name)
    section, _, key = name.partition(".")
    checked(name, value, fields_of(section)[key])


def check_read(config: Config, given: Collection[str]) -> None:
    """Refuses a value that was given, such as `evaluate.warmup`, and that the others leave without
    a meaning. Only what was given can be told from a default, so a config alone is not refused."""
    for section in SECTIONS:
        values = getattr(config, section)
        for name, why in values.unread().items():
            if f"{section}.{name}" in given:
                raise UserError(f"--config.{values.say(name, why)}")
    train, task = config.train, config.data.task
    for name in sorted(foreign_to(task)):
        if name in given:
            raise UserError(f"--config.{name} {without_meaning_to(task)}")
    for name, reason in TASKS[task].without_meaning(config):
        if name in given:
            raise UserError(f"--config.{name} means nothing {reason}: leave it out")
    steps = TASKS[task].steps_of(config)
    for names, meaningless, reason in (
        (
            ["model.hidden_size", "model.num_layers"],
            config.model.hidden_sizes,
            "beside model.hidden_sizes, which says both",
        ),
        (
            ["train.remat_every"],
            train.remat_every >= steps,
            f"at sequences of {steps} steps, which are no longer",
        ),
        (
            ["optimizer.schedule", "optimizer.final_ratio"],
            config.optimizer.warmup_steps >= train.steps,
            f"at train.steps={train.steps}, which end within optimizer.warmup_steps="
            f"{config.optimizer.warmup_steps}",
        ),
    ):
        for name in names:
            if meaningless and name in given:
                raise UserError(f"--config.{name} means nothing {reason}: leave it out")


def fields_of(section: str) -> dict[str, dataclasses.Field]:
    """The fields of a section, by name."""
    return {f.name: f for f in dataclasses.fields(SECTIONS[section])}
