"""Compiled programs, kept on disk so that the next process need not compile them again.

JAX keeps them (its persistent compilation cache), each under a hash of all that it is made from:
the computation, the compiler's options, JAX's version, the kind of processor. Settled here is what
JAX leaves open. A program is made for a number of cores, and even the smallest is worth keeping.
There is a limit to what is kept, and a program that was cut short is deleted.
"""

import atexit
import os
import re
import shutil
import stat
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from lstm_jax.container import schedulable_cpus
from lstm_jax.errors import UserError
from lstm_jax.files import write_atomically
from lstm_jax.run.checksums import SUMS, sha256_of
from lstm_jax.terminal import warn

LIMIT_BYTES = 2**28  # a run's programs take half a megabyte on a CPU
PROGRAMS = "*-cache"  # the names that JAX gives them
# JAX's warnings: what it was doing with which program, and the error.
TROUBLE = re.compile("Error (reading|writing) persistent compilation cache entry for '.*': (.*)")


def keep_programs(folder: Path) -> None:
    """Has JAX look in the folder before it compiles a program, and put there what it compiles.

    The programs found there are run: it must be a folder that nobody else can write. It may be
    deleted at any time, and where it cannot be used the run goes on without it.
    """
    place = place_in(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
        delete_oldest(place, LIMIT_BYTES)
        delete_changed(place)
    except OSError as error:
        warn_of_none(place, str(error.strerror))
        return
    if others_can_write(folder):
        warn(f"others can write {folder}, and the programs that are found there are run")
    watch_for_trouble(place)
    atexit.register(write_sums, place)
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def keep_programs_unasked(cache: Path | None) -> None:
    """`keep_programs` in the user's cache folder, where there is one and nobody else can put a
    program into it."""
    if cache is None:
        warn_of_none("the user's cache folder", "there is none")
        return
    folder = cache / "programs"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for made in (folder, place_in(folder)):
            made.mkdir(mode=0o700, exist_ok=True)
        others = others_can_write(folder) or others_can_write(place_in(folder))
    except OSError as error:
        warn_of_none(folder, str(error.strerror))
        return
    if others:
        warn_of_none(
            folder,
            "others can write there, and what is found there is run (`chmod -R go-w` mends it)",
        )
        return
    keep_programs(folder)


def place_in(folder: Path) -> Path:
    """The folder of the programs for as many cores as XLA divides their work among."""
    return folder / f"cores-{schedulable_cpus()}"


def others_can_write(folder: Path) -> bool:
    """Whether users other than this one and the administrator may; Windows does not tell."""
    if os.name == "nt":
        return False
    status = folder.stat()
    mine = status.st_uid in (0, os.geteuid())
    return not mine or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def warn_of_none(place: Path | str, reason: str) -> None:
    warn(
        f"compiled programs are not kept in {place}: {reason}; the run goes on without "
        "(--compile_cache names another folder)"
    )


def keep_no_programs() -> None:
    """Has JAX compile everything itself, whatever cache the machine is set up with."""
    jax.config.update("jax_enable_compilation_cache", False)


def delete_oldest(place: Path, limit: int) -> None:
    """Deletes what has not been used for longest until the rest takes no more than `limit` bytes.

    JAX's own limit would need a package more, and takes a lock for every program it reads.
    """
    files = []
    for path in place.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be deleting, too
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    excess = sum(size for _, size, _ in files) - limit
    for _, size, path in sorted(files):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


def delete_changed(place: Path) -> None:
    """Deletes what is no longer as the checksums of an earlier process have it, and folders.

    JAX runs whatever program it finds under a name: of two that were exchanged each would do the
    other's work, and nobody would be told. Programs that have no checksum yet are left alone.
    """
    there = read_sums(place)
    names = {name_in(line) for line in there}
    changed = [line for line in program_sums(place).splitlines() if line not in there]
    wrong = {name_in(line) for line in changed} & names
    wrong |= {path.name for path in place.glob(PROGRAMS) if path.is_dir()}
    for name in wrong:
        delete(place / name)
    if wrong:
        warn(
            f"{len(wrong)} compiled programs in {place} are not what they were: these are deleted "
            "and compiled again"
        )


def read_sums(place: Path) -> set[str]:
    """The lines of the checksums; none where they were not written yet."""
    if not (place / SUMS).is_file():
        delete(place / SUMS)  # a pipe would never be read to its end
    try:
        return {*(place / SUMS).read_text(errors="replace").splitlines()}
    except FileNotFoundError:
        return set()


def name_in(line: str) -> str:
    """The name in a line of checksums."""
    return line.partition("  ")[2]


def program_sums(place: Path) -> str:
    """A line for each program, as `checksums.sums_of` has it."""
    lines = []
    for path in sorted(place.glob(PROGRAMS)):
        with suppress(OSError):  # a folder; or another process has just deleted it
            lines.append(f"{sha256_of(path)}  {path.name}\n")
    return "".join(lines)


def write_sums(place: Path) -> None:
    """Writes down what the programs are; where that fails, nothing is known of the newest."""
    with suppress(OSError, UserError):
        write_atomically(place / SUMS, program_sums(place).encode())


def delete(program: Path) -> None:
    """Deletes a program, or whatever is in its place."""
    if program.is_dir() and not program.is_symlink():
        shutil.rmtree(program, ignore_errors=True)
    else:
        program.unlink(missing_ok=True)


def watch_for_trouble(place: Path) -> None:
    """Makes one line of JAX's warnings, of which there is one for each program, and starts afresh.

    A full disk, or a process killed while it was writing, leaves a program cut short, over which
    JAX would stumble in every later run.
    """
    show_others, warned = warnings.showwarning, False

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        nonlocal warned
        trouble = TROUBLE.match(str(message))
        if trouble is None:
            show_others(message, *args, **kwargs)
            return
        with suppress(OSError):
            for path in place.glob(PROGRAMS):
                delete(path)
            place.mkdir(parents=True, exist_ok=True)
        if not warned:
            warn(
                f"{trouble[1]} compiled programs in {place} failed ({trouble[2]}): those kept "
                "there are deleted, the run goes on"
            )
        warned = True

    warnings.filterwarnings("always", TROUBLE.pattern)
    warnings.showwarning = show
