"""Files of a run: written whole or not at all, and read with suspicion."""

import json
import os
import stat
import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from lstm_jax.config import UserError

JSON_LIMIT_BYTES = 2**25  # an alphabet of all of Unicode takes 13 million


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside the file's place first, then moves it there; makes the folders it needs."""
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            part = file.name
            file.write(data)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the path
        if part is not None and os.path.exists(part):
            os.unlink(part)
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', error)}") from error


def check_plain(folder: Path, names: Iterable[str]) -> None:
    """Refuses a link, a device or a pipe among a folder's named entries and all that is below them.

    What is written would go through a link to wherever it leads, and a pipe would never be read to
    its end. The folder itself may be a link: that one is the user's.
    """
    for name in names:
        for path in chain([folder / name], (folder / name).rglob("*")):
            if not os.path.lexists(path):
                continue
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                what = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                raise UserError(
                    f"{path} is {what}, which a run does not make and would not be safe to use: "
                    "put the file itself there, or choose another --workdir"
                )


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError where it is none, or larger than any of ours."""
    if (size := path.stat().st_size) > JSON_LIMIT_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than {JSON_LIMIT_BYTES:,}")
    return parse_json(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """A JSON value; ValueError where the text is none, or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
