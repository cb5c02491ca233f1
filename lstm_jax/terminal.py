"""All that is printed.

Much of it was written by others: names, settings and texts out of files, and what a model makes of
a text. A terminal obeys control characters, so these are shown as Python writes them, and a line
that nobody would read to its end is cut.
"""

import re
import sys
from contextlib import suppress
from typing import Any

from tqdm import tqdm

LINE_LIMIT = 800  # characters
silent = False  # whether another process says what this one would
UNHEARD = (OSError, ValueError)  # what a stream raises that takes nothing, or was closed
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but for tabs and the ends of lines


def escaped(text: str) -> str:
    """The text with what cannot be printed as Python writes it, as `\\x1b`."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def printable(line: str) -> str:
    """A line that any terminal shows, cut in the middle where it is too long to be read."""
    line = line if line.isprintable() else escaped(line)
    if len(line) > LINE_LIMIT:
        line = f"{line[: LINE_LIMIT // 2]} … {line[-LINE_LIMIT // 2 :]}"
    return line


def one_line(message: object) -> str:
    """A message, whatever it has of line breaks, as one printable line."""
    lines = map(str.strip, str(message).splitlines())
    return printable(" ".join(filter(None, lines)))


def on_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; a notebook's may not say, and a process may have none."""
    return hasattr(stream, "isatty") and stream.isatty() and not silent


class Bar(tqdm):
    """A progress bar that leaves no lock behind where what it writes to has gone away.

    tqdm's own keeps it then, and every bar of another thread waits for ever.
    """

    def refresh(
        self, nolock: bool = False, lock_args: tuple[Any, ...] | None = None
    ) -> bool | None:
        with self.get_lock():  # which the same thread may hold twice
            return super().refresh(nolock=True)


def put(message: object, begin: str = "", end: str = "\n", width: int = 0) -> None:
    """A line on stderr, where there is one; one of UNHEARD where it takes none."""
    if sys.stderr is not None and not silent:  # `print` would take stdout for it
        print(f"{begin}{one_line(message):{width}}", end=end, file=sys.stderr, flush=True)


def say(message: object) -> None:
    """A line on stderr; where it cannot be printed there is nobody to tell."""
    with suppress(*UNHEARD):
        put(message)


def warn(message: object) -> None:
    """A line on stderr for what the user may want to mend, while all goes on."""
    say(f"warning: {message}")


def overwrite(message: object, end: str = "") -> None:
    """A line on stderr in place of the one before."""
    with suppress(*UNHEARD):
        put(message, "\r", end, width=79)  # as wide as what it covers


def show(lines: str = "") -> None:
    """Results on stdout, one line or several."""
    if not silent:
        print("\n".join(map(printable, lines.split("\n"))), flush=True)


def write(text: str) -> None:
    """A text on stdout as it is; a terminal gets its tabs and line breaks, but no other control
    characters."""
    if silent:
        return
    if on_terminal(sys.stdout):
        text = CONTROL.sub(lambda found: escaped(found[0]), text)
    sys.stdout.write(text)
    sys.stdout.flush()
