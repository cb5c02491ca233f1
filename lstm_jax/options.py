"""Options with types and ranges: what configs, and the flags for them, are made of."""

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lstm_jax.errors import UserError, shorten

KINDS = {int: "an integer", float: "a number", str: "a text"}


def option(
    default: Any,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: Collection[str] | None = None,
) -> Any:
    """A config field with its help text and its valid values (`low` to `high`, both included)."""
    meta = {"help": help, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=meta)


def value_type(f: dataclasses.Field) -> type:
    """The type of a field's value, None aside; `tuple` for integers with commas between them."""
    if isinstance(f.type, types.UnionType):
        return next(t for t in typing.get_args(f.type) if t is not types.NoneType)
    return typing.get_origin(f.type) or typing.cast(type, f.type)


def _checked_each(name: str, values: Any, meta: Mapping[str, Any]) -> tuple[int, ...]:
    """Integers within the bounds, or a UserError; JSON has them in a list."""
    if type(values) not in (tuple, list) or any(type(value) is not int for value in values):
        raise UserError(f"{name} takes integers with commas between them, not {shorten(values)}")
    if not all(meta["low"] <= value <= meta["high"] for value in values):
        low, high = meta["low"], meta["high"]
        raise UserError(f"{name} lie between {low} and {high}; not {shorten(values)}")
    return tuple(values)


def _checked(name: str, value: Any, f: dataclasses.Field) -> Any:
    """The value in the field's own type, or a UserError that says what is wrong with it."""
    kind, meta = value_type(f), f.metadata
    if value is None and isinstance(f.type, types.UnionType):
        return None
    if kind is tuple:
        return _checked_each(name, value, meta)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UserError(f"{name} takes {KINDS[kind]}, not {shorten(value)}")
    if meta["choices"] is not None and value not in meta["choices"]:
        raise UserError(f"{name} is one of {', '.join(meta['choices'])}; not {shorten(value)}")
    if kind in (int, float) and not meta["low"] <= value <= meta["high"]:
        raise UserError(
            f"{name} lies between {meta['low']} and {meta['high']}; not {shorten(value)}"
        )
    return kind(value)


@dataclass(frozen=True)
class Section:
    """Checks every field against its definition."""

    prefix: ClassVar[str]  # what stands before a field's name on the command line

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = _checked(f"{self.prefix}{f.name}", getattr(self, f.name), f)
            object.__setattr__(self, f.name, value)
        for name, why in self.unread().items():
            if self.differs(name):
                raise UserError(self.say(name, why))

    def unread(self) -> dict[str, str]:
        """The options that the others leave without a meaning, and why; set, they are refused."""
        return {}

    def say(self, name: str, why: str) -> str:
        """The refusal of an option, which is not ignored in silence."""
        return f"{self.prefix}{name}={getattr(self, name)} {why}"

    def differs(self, name: str) -> bool:
        """Whether an option is not at its default."""
        return getattr(self, name) != type(self).__dataclass_fields__[name].default
