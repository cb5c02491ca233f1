"""Writing a file whole or not at all, and saying why a disk refuses."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

from lstm_jax.config import UserError

PART = ".part"  # ends the name of what is not whole yet
NO_ROOM = [os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


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
    return UserError(f"cannot write {path}: {reason}")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside the file's place first, then moves it there; makes the folders it needs."""
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=PART, delete=False
        ) as file:
            part = file.name
            file.write(data)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the path
        if part is not None and os.path.exists(part):
            os.unlink(part)
        raise cannot_write(path, error) from error


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
