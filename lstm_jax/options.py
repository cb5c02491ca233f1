"""Options with types and ranges: what configs, and the flags for them, are made of."""

import copy
import dataclasses
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from lstm_jax.errors import UserError, shorten

KINDS = {int: "an integer", float: "a number", str: "a text"}


def option(
    default: Any,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: Collection[str] | None = None,
    decides: str = "training",
) -> Any:
    """A config field with its help text and its valid values (`low` to `high`, both included).

    `decides` is what another value would change: the `training`, every bit of it from the first
    step on; the `validation`, what is measured and when; or `nothing` but what is kept and shown.
    """
    meta = {"help": help, "low": low, "high": high, "choices": choices, "decides": decides}
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


def checked(name: str, value: Any, f: dataclasses.Field) -> Any:
    """The value in the field's own type, or a UserError that says what is wrong with it."""
    kind, meta = value_type(f), f.metadata
    if value is None and isinstance(f.type, types.UnionType):
        return None
    if kind is tuple:
        return _checked_each(name, value, meta)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits:
        raise UserError(f"{name} takes {KINDS[kind]}, not {shorten(value)}")
    if meta["choices"] is not None and value not in meta["choices"]:
        raise UserError(f"{name} is one of {', '.join(meta['choices'])}; not {shorten(value)}")
    if kind in (int, float) and not meta["low"] <= value <= meta["high"]:
        raise UserError(
            f"{name} lies between {meta['low']} and {meta['high']}; not {shorten(value)}"
        )
    return kind(value)


# What `dataclass` writes into a class once its fields are known.
WRITTEN = ("__dataclass_fields__", "__init__", "__repr__", "__eq__", "__hash__", "__match_args__")


def extend(section: type["Section"], more: Iterable[type["Section"]]) -> None:
    """Gives a section the options of others, in place, as if they were among its bases.

    A cell or a task of one's own comes with options when the section is long made, and imported
    by name everywhere. UserError where an option of its name means something else.
    """
    for options in more:
        known = {f.name: f for f in dataclasses.fields(section)}
        for f in dataclasses.fields(options):
            if isinstance(f.type, str):  # `from __future__ import annotations`
                f.type = typing.get_type_hints(options)[f.name]
            there = known.get(f.name, f)
            if (there.type, there.default, there.metadata) != (f.type, f.default, f.metadata):
                raise UserError(
                    f"{options.__name__} has an option {section.prefix}{f.name}, and there is "
                    "another of that name: give it a name of its own"
                )
        news = [f for f in dataclasses.fields(options) if f.name not in known]
        if not news:
            continue
        bases = (section, options)
        grown: type[Section] = dataclass(frozen=True)(type(section.__name__, bases, {}))
        for name in WRITTEN:
            setattr(section, name, vars(grown)[name])
        for f in news:  # for instances that are older
            setattr(section, f.name, f.default)


@dataclass(frozen=True)
class Section:
    """Checks every field against its definition."""

    prefix: ClassVar[str]  # what stands before a field's name on the command line

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = checked(f"{self.prefix}{f.name}", getattr(self, f.name), f)
            object.__setattr__(self, f.name, value)
        for name, why in self.unread().items():
            if self.differs(name):
                raise UserError(self.say(name, why))

    def unread(self) -> dict[str, str]:
        """The options that the others leave without a meaning, and why; set, they are refused."""
        return {}

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """A copy with changed values. Those that were there before, and that the changes leave
        without a meaning, are at their defaults again; a change without a meaning is refused."""
        fields = type(self).__dataclass_fields__
        there = copy.copy(self)  # which nothing checks until it is what it is to be
        for name, value in changes.items():
            value = checked(f"{self.prefix}{name}", value, fields[name])
            object.__setattr__(there, name, value)
        while idle := [n for n in there.unread() if n not in changes and there.differs(n)]:
            for name in idle:
                object.__setattr__(there, name, fields[name].default)
        return dataclasses.replace(there)

    def beside(self, name: str) -> str:
        """Why an option means nothing where another is not at its default."""
        default = type(self).__dataclass_fields__[name].default
        other = f"{self.prefix}{name}"
        return (
            f"means nothing beside {other}={getattr(self, name)}: leave it out, or take "
            f"{other}={default}"
        )

    def say(self, name: str, why: str) -> str:
        """The refusal of an option, which is not ignored in silence."""
        return f"{self.prefix}{name}={getattr(self, name)} {why}"

    def differs(self, name: str) -> bool:
        """Whether an option is not at its default."""
        return getattr(self, name) != type(self).__dataclass_fields__[name].default
