"""What the process prints to, whatever it is: a terminal, a file, a closed stream, a notebook's."""

import os
import sys
from contextlib import suppress
from typing import TextIO

from lstm_jax.terminal import say

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


def silence(stream: TextIO) -> None:
    """Lets what is still kept back go nowhere: Python would try again, and end with code 120."""
    with suppress(OSError, AttributeError):  # a notebook's has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
