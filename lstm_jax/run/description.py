"""What a run is, as its `config.json` and each of its checkpoints say it: everything but numbers
that training makes. It is enough to restore a checkpoint without the task's data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from lstm_jax.config import Config, foreign_to
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import read_json
from lstm_jax.heads import HEADS
from lstm_jax.model import Interface
from lstm_jax.optimizer import follows_end
from lstm_jax.tasks import TASKS, Task

FORMAT = 1  # of checkpoints and config.json
PARTS = {"config": dict, "identity": dict, "interface": dict, "dtype": str}
LONGEST_UNIT = 100  # characters
LARGEST = 2**40  # more inputs or outputs than any task has


def own_options(config: Config) -> dict[str, Any]:
    """A config's values without the options of other tasks, which may not be there later."""
    others = {name for name in foreign_to(config.data.task) if name.startswith("data.")}
    return {name: value for name, value in config.flatten().items() if name not in others}


class Description(NamedTuple):
    """What a run is: everything but its numbers."""

    config: Config
    identity: Mapping[str, Any]  # of the task
    interface: Interface
    dtype: str  # of the parameters
    unit: str = Task.unit  # what its losses are counted in
    source: str = ""  # of the data, for people
    begun_from: Mapping[str, Any] | None = None  # the `workdir` and the `step` of another run

    @classmethod
    def of(cls, config: Config, task: Task) -> "Description":
        identity = json.loads(json.dumps(dict(task.identity)))  # as it will be read again
        interface, unit, source = task.interface, task.unit, task.source
        return cls(config, identity, interface, default_dtype(), unit, source)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "config": own_options(self.config),
            "identity": dict(self.identity),
            "interface": self.interface._asdict(),
            "dtype": self.dtype,
            "unit": self.unit,
            "source": self.source,
            **({"begun_from": dict(self.begun_from)} if self.begun_from else {}),
        }

    def differences(self, other: dict[str, Any]) -> list[str]:
        """How this run differs from a described one (its `to_json`), one phrase per difference.

        What may change while a run goes on is none; nor is another end, where the rates before it
        are the same. A text is known by its hash, so its files may lie elsewhere.
        """
        there, here = options_of(other["config"]), options_of(own_options(self.config))
        free, reason = self.config.free(), ""
        if type(end := there["train.steps"]) is int:  # it may be of a file that somebody edited
            reason = self._why_not_another_end(min(end, here["train.steps"]))
            free |= {"train.steps"} if not reason else set()
        differ = unequal("", *({k: v[k] for k in v if k not in free} for v in (there, here)))
        differ = [f"{d}{reason}" if d.startswith("train.steps ") else d for d in differ]
        differ += self._other_data(other)
        return [*differ, *unequal("", {"dtype": other["dtype"]}, {"dtype": self.dtype})]

    def _why_not_another_end(self, first: int) -> str:
        """Why a run would not be the same up to the first of two ends; empty: it would be."""
        if follows_end(self.config.optimizer):
            return ", from which a cosine's rates follow (optimizer.schedule=constant has no end)"
        if self.config.follows_validation and first % self.config.train.validate_every:
            return f", and the validation out of turn, at step {first}, decides about the training"
        return ""

    def _other_data(self, other: dict[str, Any]) -> list[str]:
        """How the task's data and interface differ; where the data has a name, by that alone."""
        there, source = other["identity"], source_in(other)
        if source and self.source and there != self.identity:
            what = "text" if self.config.data.task == "text" else "data"
            if source == self.source:
                here = self.identity
                keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
                changed = " and another ".join(keys)
                return [f"the {what} {source[:100]} has another {changed} than there"]
            return [f"the {what} is another: {source[:100]} there, {self.source[:100]} here"]
        interface = self.interface._asdict()
        return [
            *unequal("the task's ", there, self.identity),
            *unequal("the interface's ", other["interface"], interface),
        ]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Description":
        config = Config().replace(data["config"])
        interface, unit = (
            interface_of(data["interface"]),
            data.get("unit", TASKS[config.data.task].unit),
        )
        if type(unit) is not str or len(unit) > LONGEST_UNIT:
            raise ValueError(f"its unit is {shorten(unit)}")
        source, begun_from = source_in(data), begun_from_in(data)
        return cls(config, data["identity"], interface, data["dtype"], unit, source, begun_from)


def source_in(data: Mapping[str, Any]) -> str:
    """What people call a described run's data; empty: nobody has said."""
    source = data.get("source")
    return source if isinstance(source, str) else ""


def begun_from_in(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where a described run began, if not from scratch; ValueError where that is no folder."""
    if (begun_from := data.get("begun_from")) is None:
        return None
    if not isinstance(begun_from, dict) or not isinstance(begun_from.get("workdir"), str):
        raise ValueError(f"it was begun from {shorten(begun_from)}")
    return begun_from


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a described config; a run from before one existed did without, as its default
    does."""
    return {**Config().flatten(), **config}


def unequal(what: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A phrase for each key whose values differ."""
    return [
        f"{what}{key} is {shorten(there.get(key))} there and {shorten(here.get(key))} here"
        for key in {**here, **there}
        if there.get(key) != here.get(key)
    ]


def interface_of(described: dict[str, Any]) -> Interface:
    """An interface out of a file; ValueError where it is none."""
    if described.keys() == {*Interface._fields}:
        interface = Interface(**described)
        sizes = (interface.input_size, interface.output_size)
        if (
            all(type(size) is int and 0 < size < LARGEST for size in sizes)
            and type(interface.reads_ids) is bool
            and interface.head in [*HEADS]  # which may be nothing that can be hashed
        ):
            return interface
    raise ValueError(f"its interface is {shorten(described)}")


def default_dtype() -> str:
    """The dtype of new parameters; it follows `jax_enable_x64`."""
    return str(jnp.zeros(()).dtype)


class OtherFormat(UserError):
    """Another version wrote in a format that this one does not know."""


def read_description(path: Path) -> dict[str, Any]:
    """What a file says that a run is (`Description.to_json`).

    Raises OtherFormat for another version's, and ValueError for what is no description.
    """
    described = read_json(path)
    if not isinstance(described, dict):
        raise ValueError("it describes no run")
    if type(number := described.get("format")) is not int:
        raise ValueError(f"its format is {shorten(number)}")
    if number != FORMAT:
        raise OtherFormat(
            f"{path} was written by another version of lstm_jax, in format {shorten(number)}, and "
            f"this one reads format {FORMAT}: choose another --workdir"
        )
    for key, kind in PARTS.items():
        if type(described.get(key)) is not kind:
            raise ValueError(f"its {key} is {shorten(described.get(key))}")
    return described
