"""What the user can mend, in one line."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """Something the user can mend: shown as one line, without a traceback."""


SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = 200


def shorten(value: Any) -> str:
    """The value as Python shows it, cut in the middle where it is long: it may come from a file."""
    if isinstance(value, int) and value.bit_length() > 10_000:  # Python does not show those
        return f"a number of {value.bit_length():,} bits"
    return SHORT.repr(value)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The end of a refusal of a name: the known ones that look like it; empty: none does."""
    close = difflib.get_close_matches(wrong, [*known])
    return f": did you mean {' or '.join(close)}?" if close else ""
