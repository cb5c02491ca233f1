"""The configuration of an experiment: frozen dataclasses, one a section.

Every field says what it means and what values it takes; a section that exists is valid. The
command line, `config.json` and the checkpoints are all written from these definitions.
"""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from lstm_jax.cells import CELLS
from lstm_jax.data.options import DataConfig as DataConfig
from lstm_jax.errors import UserError, shorten
from lstm_jax.gradients.known import missing_by_hand
from lstm_jax.model import ModelConfig as ModelConfig
from lstm_jax.options import Section, option

# Which options each optimizer reads; giving it another is an error, not a silence.
OPTIMIZER_OPTIONS: dict[str, tuple[str, ...]] = {
    "adam": ("b1", "b2"),
    "adamw": ("b1", "b2", "weight_decay"),
    "sgd": ("momentum",),
    "rmsprop": ("decay", "momentum"),
}


@dataclass(frozen=True)
class OptimizerConfig(Section):
    prefix = "optimizer."
    name: str = option("adamw", "the update rule, from optax", choices=tuple(OPTIMIZER_OPTIONS))
    learning_rate: float = option(2e-3, "the peak of the schedule", low=0, high=1e6)
    schedule: str = option(
        "cosine", "the learning rate after warm-up", choices=("constant", "cosine")
    )
    warmup_steps: int = option(
        0, "steps of linear warm-up; the first takes peak / warmup_steps", low=0, high=2**31 - 1
    )
    final_ratio: float | None = option(
        None, "cosine: where it ends, as a share of the peak (0)", low=0, high=1
    )
    clip_norm: float = option(1.0, "clip the gradient's global norm; 0: never", low=0, high=1e9)
    b1: float | None = option(None, "adam, adamw: decay of the mean (0.9)", low=0, high=0.999999)
    b2: float | None = option(
        None, "adam, adamw: decay of the square (0.999)", low=0, high=0.999999
    )
    weight_decay: float | None = option(None, "adamw: weight decay (1e-4)", low=0, high=1e3)
    momentum: float | None = option(None, "sgd, rmsprop: momentum (none)", low=0, high=1)
    decay: float | None = option(None, "rmsprop: decay of the square (0.9)", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "constant" and self.final_ratio is not None:
            raise UserError(
                "optimizer.final_ratio means nothing to the constant schedule: leave it out, or "
                "take optimizer.schedule=cosine"
            )
        read = OPTIMIZER_OPTIONS[self.name]
        for name in ("b1", "b2", "weight_decay", "momentum", "decay"):
            if getattr(self, name) is not None and name not in read:
                raise UserError(
                    f"optimizer.{name} means nothing to {self.name}, which reads "
                    f"{', '.join(read)}: leave it out, or take another optimizer.name"
                )


@dataclass(frozen=True)
class TrainConfig(Section):
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
    average: str = option(
        "none",
        "an average of the parameters, scored beside them: exponential moving, or triggered by a "
        "validation loss that has stalled",
        choices=("none", "ema", "triggered"),
    )
    average_decay: float | None = option(
        None, "ema: what an update leaves of the average (0.999)", low=0, high=0.999999
    )
    average_patience: int | None = option(
        None,
        "triggered: how many of the losses before the last are not looked at for a better one (5)",
        low=0,
        high=2**31 - 1,
    )
    gradient: str = option("bptt", "which backward", choices=("autodiff", "bptt", "truncated"))
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("average_decay", "ema"), ("average_patience", "triggered")):
            if getattr(self, name) is not None and self.average != kind:
                raise UserError(f"train.{name} needs train.average={kind}: give both, or neither")


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
class SamplingConfig(Section):
    """How to choose a character from the model's distribution; not a part of a run's config."""

    prefix = ""

    temperature: float = option(0.8, "divides the logits; 0: always the likeliest", low=0, high=1e3)
    top_k: int = option(0, "choose among the k likeliest; 0: all", low=0, high=2**31 - 1)
    top_p: float = option(1.0, "choose among the likeliest that make up p; 1: all", low=0, high=1)


@dataclass(frozen=True)
class DynamicConfig(Section):
    """How a model learns while it is scored (`dynamic`); not a part of a run's config."""

    prefix = "dynamic_"

    rule: str = option("rms", "dynamic evaluation: the rule", choices=("rms", "sgd"))
    segment_length: int = option(
        20, "dynamic evaluation: characters scored, then learnt from", low=1, high=2**24
    )
    rate: float = option(1e-3, "dynamic evaluation: the learning rate", low=0, high=1e6)
    decay: float = option(
        1e-3, "dynamic evaluation: how strongly the trained weights pull", low=0, high=1
    )
    epsilon: float | None = option(
        None,
        "dynamic evaluation, rms: added to the root of the mean square (1e-4)",
        low=1e-12,
        high=1e6,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule == "sgd" and self.epsilon is not None:
            raise UserError("dynamic_epsilon means nothing to the rule sgd: leave it out")
        if self.rule == "rms" and self.epsilon is None:
            object.__setattr__(self, "epsilon", 1e-4)


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
        """Every value under its full name, such as `model.hidden_size`."""
        return {f"{s}.{k}": getattr(getattr(self, s), k) for s in SECTIONS for k in fields_of(s)}


SECTIONS: dict[str, type[Section]] = {
    f.name: typing.cast(type[Section], f.type) for f in dataclasses.fields(Config)
}


def check_read(config: Config, given: Collection[str]) -> None:
    """Refuses a value that was given, such as `evaluate.warmup`, and that the others leave without
    a meaning. Only what was given can be told from a default, so a config alone is not refused."""
    train, evaluate = config.train, config.evaluate
    in_one_piece = train.remat_every >= train.sequence_length
    for names, meaningless, reason in (
        (
            [f"evaluate.{name}" for name in fields_of("evaluate")],
            not config.data.validation_fraction,
            "at data.validation_fraction=0, where nothing is validated",
        ),
        (
            ["model.hidden_size", "model.num_layers"],
            bool(config.model.hidden_sizes),
            "beside model.hidden_sizes, which has both",
        ),
        (["evaluate.warmup"], evaluate.lanes == 1, "at evaluate.lanes=1, the strict form"),
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
