"""Config values from where the user gives them: a file, TOML or JSON, and flags, which win."""

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lstm_jax.config import Config, check_value
from lstm_jax.errors import UserError
from lstm_jax.files import JSON_LIMIT_BYTES, named, parse_json

KINDS = {".toml": lambda data: tomllib.loads(data.decode()), ".json": parse_json}


class Changes(NamedTuple):
    """What of an experiment's config is changed.

    values: by name, such as `model.hidden_size`.
    chosen: the names that the user chose; of a run's whole config nobody chose each.
    whole: such a config, which changes the experiment's before the user's choice does.
    """

    values: dict[str, Any]
    chosen: frozenset[str]
    whole: Mapping[str, Any]

    def applied_to(self, config: Config) -> Config:
        """The config with these changes, of which what was chosen is never dropped."""
        chosen = {name: value for name, value in self.values.items() if name in self.chosen}
        return config.replace(self.whole).replace(chosen)


def changes_of(file: str | None, by_flags: Mapping[str, Any], reads: Collection[str]) -> Changes:
    """What a file, if there is one, and flags change.

    Of a run's own config.json only what is in `reads` counts: it says everything about that run.
    """
    if file is None:
        return Changes({**by_flags}, frozenset(by_flags), {})
    content = read_config_file(file)
    if not {"format", "config"} <= content.keys():
        values = values_in(content, file)
        return Changes({**values, **by_flags}, frozenset([*values, *by_flags]), {})
    # What it does not name are the options of other tasks.
    values = Config().flatten() | values_in(content["config"], file)
    values = {name: value for name, value in values.items() if name in reads}
    return Changes({**values, **by_flags}, frozenset(by_flags), values)


def read_config_file(name: str) -> dict[str, Any]:
    """What a file says; UserError where it cannot be read."""
    parse = KINDS.get(Path(name).suffix)
    if parse is None:
        raise UserError(f"--config_file={name} ends with neither .toml nor .json")
    try:
        with open(named(name), "rb") as file:
            data = file.read(JSON_LIMIT_BYTES + 1)
        if len(data) > JSON_LIMIT_BYTES:
            raise ValueError(f"it has more than {JSON_LIMIT_BYTES:,} bytes")
        content = parse(data)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--config_file={name} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"--config_file={name} has no keys: it needs sections, such as model")
    return content


def values_in(content: Any, name: str) -> dict[str, Any]:
    """The config values in a file, as sections with keys or by full names; each is checked."""
    values: dict[str, Any] = {}
    for key, value in full_names(content):
        try:
            check_value(key, value)
        except UserError as error:
            raise UserError(f"--config_file={name}: {error}") from error
        if key in values:
            raise UserError(f"--config_file={name} has {key} twice")
        values[key] = value
    return values


def full_names(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value under its full name."""
    if not isinstance(content, dict):
        yield prefix, content
        return
    for key, value in content.items():
        yield from full_names(value, f"{prefix}.{key}" if prefix else key)
