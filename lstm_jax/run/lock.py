"""One process at a time in a run's folder.

The lock is the system's, on the file `.lock`: it goes with the process that holds it, however that
ends. The file says which process it is; left behind by a killed one it locks nothing.

A lock holds a file, not its name: somebody may delete the folder, and make it again, and another
process may lock the new one. So whoever holds a lock asks it (`Lock.check`) before each write.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lstm_jax.errors import UserError
from lstm_jax.files import cannot_write
from lstm_jax.terminal import warn

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
# Windows locks bytes, and against reading, too: one far behind the few that the file has.
LOCKED_BYTE = 1 << 30


def try_lock(file: BinaryIO) -> None:
    """Locks an open file for this process; BlockingIOError or PermissionError: another has it."""
    if sys.platform == "win32":
        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_here(path: Path) -> BinaryIO:
    """Opens a file, or makes it; not what a link of that name points to."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)


class Lock:
    """A folder's lock, held until it is released."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        file.truncate(0)
        with suppress(OSError):  # on a full disk it locks all the same
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        file.seek(0)
        self._mark = file.read()

    def is_held(self) -> bool:
        """Whether the lock file is still at its place, and says what this process wrote into it.

        What it says tells where the file system locks nothing and another process has come.
        """
        try:
            return is_at(self._file, self._path) and self._path.read_bytes() == self._mark
        except OSError:  # the folder's name leads nowhere, or to a file
            return False

    def check(self) -> None:
        """Raises a UserError where the folder is no longer this process's to write in."""
        if self._file.closed:
            raise UserError(f"the run in {self._path.parent} is closed: begin it again")
        if not self.is_held():
            raise UserError(
                f"{self._path.parent} was deleted, moved or taken over while this process trained "
                "there, which has stopped and writes nothing more: run the same command again, "
                "with another --workdir if that one is in use"
            )

    def release(self) -> None:
        """Deletes the lock file, unless it is another's by now, and unlocks it."""
        with self._file, suppress(PermissionError):  # Windows deletes no file that is open
            if self.is_held():
                self._path.unlink(missing_ok=True)


def is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def take(path: Path) -> BinaryIO:
    """The lock file, open and locked; a UserError names the process that has it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open_here(path)
        except (OSError, ValueError) as error:  # ValueError: a NUL inside the path
            raise cannot_write(path, error) from error
        try:
            try_lock(file)
        except (BlockingIOError, PermissionError) as error:
            with file:
                file.seek(0)
                holder = file.read().decode(errors="replace").strip() or "another process"
            raise UserError(
                f"{path.parent} is in use by {holder}: wait until it has ended, or choose another "
                "--workdir"
            ) from error
        except OSError as error:  # some network file systems lock nothing
            warn(
                f"{path} cannot be locked ({error.strerror}): see to it that no other process "
                f"trains in {path.parent}"
            )
        if is_at(file, path):
            return file
        file.close()  # its holder has just deleted it: once more, with the new one


@contextmanager
def only_process(workdir: Path) -> Iterator[Lock]:
    """Holds the folder's lock (makes the folder if need be); a UserError where another has it."""
    path = workdir / LOCK
    lock = Lock(path, take(path))
    try:
        yield lock
    finally:
        lock.release()
