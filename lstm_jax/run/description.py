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
from lstm_jax.tasks import TASKS, Task

FORMAT = 1  # of checkpoints and config.json
PARTS = {"config": dict, "identity": dict, "interface": dict, "dtype": str}
PATHS = ("data.path", "data.validation_path", "data.test_path")
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

    @classmethod
    def of(cls, config: Config, task: Task) -> "Description":
        identity = json.loads(json.dumps(dict(task.identity)))  # as it will be read again
        return cls(config, identity, task.interface, default_dtype(), unit=task.unit)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "config": own_options(self.config),
            "identity": dict(self.identity),
            "interface": self.interface._asdict(),
            "dtype": self.dtype,
            "unit": self.unit,
        }

    def differences(self, other: dict[str, Any]) -> list[str]:
        """How this run differs from a described one (its `to_json`), one phrase per difference.

        A text is known by its hash, so its files may lie elsewhere (data.path).
        """

        def flatten(described: dict[str, Any]) -> dict[str, Any]:
            return {
                # A run from before an option existed did without it, as its default does.
                **Config().flatten(),
                **described["config"],
                **{f"the task's {key}": value for key, value in described["identity"].items()},
                **{
                    f"the interface's {key}": value for key, value in described["interface"].items()
                },
                "dtype": described["dtype"],
            }

        here, there = flatten(self.to_json()), flatten(other)
        return [
            f"{key} is {shorten(there.get(key))} there and {shorten(here.get(key))} here"
            for key in {**here, **there}
            if there.get(key) != here.get(key) and key not in PATHS
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
        return cls(config, data["identity"], interface, data["dtype"], unit=unit)


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
