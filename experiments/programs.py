"""Compiled programs, kept on disk so that the next process need not compile them again.

JAX keeps them (its persistent compilation cache), each under a hash of all that it is made from:
the computation, the compiler's options, JAX's version, the kind of processor. Settled here is what
JAX leaves open: that a program is made for a number of cores, that even the smallest is worth
keeping, how much is kept, and what becomes of a program that was cut short.
"""

import re
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

import jax

from experiments.machine import schedulable_cpus
from lstm_jax.terminal import say

LIMIT_BYTES = 2**28  # a run's programs take half a megabyte on a CPU
# JAX's warnings: what it was doing with which program, and the error.
TROUBLE = re.compile("Error (reading|writing) persistent compilation cache entry for '.*': (.*)")


def keep_programs(folder: Path) -> None:
    """Has JAX look in the folder before it compiles a program, and put there what it compiles.

    The programs found there are run: it must be a folder that nobody else can write. It may be
    deleted at any time, and where it cannot be used the run goes on without it.
    """
    place = (
        folder / f"cores-{schedulable_cpus()}"
    )  # among which XLA divides the work, as it compiles
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
        delete_oldest(place, LIMIT_BYTES)
    except OSError as error:
        say(
            f"compiled programs are not kept in {place}: {error.strerror}; the run goes on without "
            "(--compile_cache names another folder)"
        )
        return
    watch_for_trouble(place)
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def keep_no_programs() -> None:
    """Has JAX compile everything anew, whatever cache the machine is set up with."""
    jax.config.update("jax_enable_compilation_cache", False)


def delete_oldest(place: Path, limit: int) -> None:
    """Deletes what has not been used for longest until the rest takes no more than `limit` bytes.

    JAX's own limit would need a package more, and takes a lock for every program it reads.
    """
    found = []
    for path in place.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be deleting, too
            stat = path.stat()
            if S_ISREG(stat.st_mode):
                found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    excess = sum(size for _, size, _ in found) - limit
    for _, size, path in sorted(found):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


def watch_for_trouble(place: Path) -> None:
    """Makes one line of JAX's warnings, of which there is one for each program, and starts afresh.

    A full disk, or a process killed while it was writing, leaves a program cut short, over which
    JAX would stumble in every later run.
    """
    show_others, told = warnings.showwarning, False

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        nonlocal told
        trouble = TROUBLE.match(str(message))
        if trouble is None:
            show_others(message, *args, **kwargs)
            return
        with suppress(OSError):
            for path in place.glob("*-cache"):
                path.unlink(missing_ok=True)
            place.mkdir(parents=True, exist_ok=True)
        if not told:
            say(
                f"{trouble[1]} compiled programs in {place} failed ({trouble[2]}): those kept "
                "there are deleted, the run goes on"
            )
        told = True

    warnings.filterwarnings("always", TROUBLE.pattern)
    warnings.showwarning = show
