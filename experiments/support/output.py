"""What the process prints to, whatever it is: a terminal, a file, a closed stream, a notebook's."""

import inspect
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from lstm_jax.errors import UserError
from lstm_jax.terminal import say, warn

READER_LEFT = 141  # as the shell has it of a process that SIGPIPE ended: 128 + 13


def open_streams() -> None:
    """Makes sure that something can be printed to stdout and stderr, if only to the null device.

    Where one is closed, the next file that is opened gets its number, and what a library prints
    there would be written into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        # A character that the terminal's encoding lacks is written as \\x…, not as a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")


def flush_streams(code: int) -> int:
    """Prints what is still kept back; the exit code, another where stdout takes no more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        code = READER_LEFT
    except OSError as error:
        say(f"error: cannot write to stdout: {error.strerror}")
        code = code or 2
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
    return code


def end_with(work: Callable[[], int | None]) -> NoReturn:
    """What a module's own command does; ends the process with its exit code, as the main command
    ends where nobody reads its results."""
    open_streams()
    try:
        code = work() or 0
    except UserError as error:
        say(f"error: {error}")
        code = 2
    except BrokenPipeError:
        code = READER_LEFT
    sys.exit(flush_streams(code))


def silence(stream: TextIO) -> None:
    """Lets what is still kept back go nowhere: Python would try again, and end with code 120."""
    with suppress(OSError, AttributeError):  # a notebook's has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say_written(workdir: Path, *patterns: str) -> None:
    """Says what a study has left in its folder; a picture that could not be drawn is not there."""
    names = [path.relative_to(workdir) for each in patterns for path in sorted(workdir.glob(each))]
    say(f"written to {workdir}: {', '.join(map(str, names))}")


def use_hooks() -> None:
    """Has what Python prints by itself printed as everything else is."""
    sys.unraisablehook = show_unraisable
    warnings.showwarning = show_warning


def show_unraisable(unraisable: Any) -> None:
    """Shows what nobody can catch, as ever, but for complaints about a loop that was given up.

    When one write of a checkpoint fails, or one read, orbax gives up the loop that waits for them
    all. Tensorstore and the coroutines then have a traceback for each of the others. The failure
    itself is raised as it should be.
    """
    given_up = str(unraisable.exc_value) == "Event loop is closed"
    if not given_up and not inspect.iscoroutine(unraisable.object):
        sys.__unraisablehook__(unraisable)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Shows what a library warns of like any other warning, without the line of code."""
    warn(message)
