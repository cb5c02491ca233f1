"""Files of a run: written whole or not at all, read with suspicion; and why a disk refuses."""

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lstm_jax.errors import UserError, shorten

JSON_LIMIT_BYTES = 2**25  # an alphabet of all of Unicode takes 13 million
PART = ".part"  # ends the name of what is not whole yet
NO_ROOM = [os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


def named(path: str) -> Path:
    """The path that a user names, with `~` for a home, as a shell has it.

    A shell itself puts the home in at the beginning of a word alone, and not in --workdir=~/runs.
    """
    if re.match(r"\w+://", path):
        raise UserError(f"{shorten(path)} is an address: name a folder or a file of this machine")
    if not path.startswith("~"):
        return Path(path)
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:  # ValueError: a NUL inside the path
        raise UserError(
            f"{shorten(path)} is in nobody's home here: write the path out, or ./ before it for "
            "one of that name"
        ) from error


def cannot_write(path: Path, error: Exception) -> UserError:
    """What to tell the user about a file, or folder, that could not be written."""
    # A library may bury what the system said in a message of its own.
    if reason := next((reason for reason in NO_ROOM if reason in str(error)), None):
        folder = next(folder for folder in path.absolute().parents if folder.is_dir())
        free = shutil.disk_usage(folder).free
        return UserError(
            f"cannot write {path}: {reason}, {free / 1e6:,.2f} MB are free in {folder}; make room "
            "and run the same command again"
        )
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return UserError(f"cannot write {path}: {reason}; mend that, or choose another folder")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside the file's place first, then moves it there; makes the folders it needs.

    Who may read it is for the umask to say, as with any new file: `tempfile` would make one that is
    its owner's alone, and some file systems refuse to change that afterwards.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "xb") as file:
                file.write(data)
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the path
        raise cannot_write(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON that people can read, atomically."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def append(path: Path, data: bytes) -> None:
    """Writes at the end of a file; a full disk or a crash may leave only a piece of it there."""
    try:
        with open(path, "ab") as file:
            file.write(data)
    except OSError as error:
        raise cannot_write(path, error) from error


def delete_parts(folder: Path) -> None:
    """Deletes what a killed process was writing in a folder that nobody else writes to."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def everything(path: Path) -> Iterator[Path]:
    """A path and all that is below it, through no link; no error for what vanishes meanwhile."""
    yield path
    for folder, folders, files in os.walk(path):
        yield from (Path(folder, name) for name in chain(folders, files))


def check_plain(folder: Path, names: Iterable[str]) -> None:
    """Refuses a link, a device or a pipe among a folder's named entries and all that is below them.

    What is written would go through a link to wherever it leads, and a pipe would never be read to
    its end. The folder itself may be a link: that one is the user's.
    """
    for name in names:
        for path in everything(folder / name):
            try:
                mode = path.lstat().st_mode
            except (OSError, ValueError):  # never there, or deleted by a run that is going on
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                what = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                raise UserError(
                    f"{path} is {what}, which a run does not make and would not be safe to use: "
                    "put the file itself there, or choose another folder"
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
