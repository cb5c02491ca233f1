"""The alphabet of a text, and the text as ids.

The text is read in pieces, once to collect the alphabet, once to encode it and once to hash it. So
a file of any size costs one piece and its ids, in the smallest integer type that holds them.
"""

import codecs
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np

from lstm_jax.errors import UserError, shorten
from lstm_jax.terminal import warn

PIECE_BYTES = 1 << 22
CODE_POINTS = 0x110000
CONTROLS = [point for point in range(32) if chr(point) not in "\t\n\f\r"]
MANY_CONTROLS, MANY_REPLACED = 0.05, 0.001  # shares of a text that is probably something else
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Vocabulary:
    """The sorted characters of a text; a character's id is its place among them."""

    chars: str

    def __post_init__(self) -> None:
        chars = self.chars
        if not isinstance(chars, str) or not chars or "".join(sorted(set(chars))) != chars:
            raise UserError(f"{shorten(chars)} is no alphabet: sorted characters, each once")
        if SURROGATE.search(chars):
            raise UserError(f"{shorten(chars)} is no alphabet: no text in UTF-8 has surrogates")

    def __len__(self) -> int:
        return len(self.chars)

    @cached_property
    def char_to_idx(self) -> dict[str, int]:
        return {char: idx for idx, char in enumerate(self.chars)}

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer type that holds every id."""
        return np.min_scalar_type(len(self.chars) - 1)

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text; a UserError names the first character outside the alphabet."""
        for char in text:
            if char not in self.char_to_idx:
                raise UserError(
                    f"the character {char!r} is not in the model's alphabet: {summary(self.chars)}"
                )
        return np.array([self.char_to_idx[char] for char in text], self.dtype)

    def decode(self, ids: np.ndarray) -> str:
        return "".join(self.chars[idx] for idx in np.asarray(ids).tolist())


def summary(chars: str, limit: int = 120) -> str:
    """The characters as Python shows them, cut at `limit`."""
    more = len(chars) - limit
    return repr(chars) if more <= 0 else f"{chars[:limit]!r} and {more} more"


@dataclass(frozen=True)
class Text:
    """A text as ids, with its alphabet and its identity."""

    name: str
    ids: np.ndarray  # N, of the vocabulary's dtype
    vocabulary: Vocabulary
    sha256: str  # of the UTF-8 bytes


def code_points(file: BinaryIO, name: str) -> Iterator[np.ndarray]:
    """The code points of a UTF-8 file, piece by piece; says where a byte is not UTF-8."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    while True:
        piece = file.read(PIECE_BYTES)
        held = len(decoder.getstate()[0])  # bytes of a character cut by the last piece's end
        try:
            chars = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name} is not UTF-8: byte {offset - held + error.start} is wrong "
                f"({error.reason}); convert it first, with iconv say"
            ) from error
        offset += len(piece)
        yield np.frombuffer(chars.encode("utf-32-le"), np.uint32)
        if not piece:
            return


def doubts(counts: np.ndarray) -> str | None:
    """What is odd about a text with so many of each character, and what to do; None: nothing."""
    length, replaced = counts.sum(), counts[ord("\ufffd")]
    if (controls := counts[CONTROLS].sum()) > MANY_CONTROLS * length:
        return (
            f"{controls:,} of its {length:,} characters are NULs or others that no text has; "
            "if it is UTF-16, convert it first, with iconv say"
        )
    if replaced > MANY_REPLACED * length:
        return (
            f"{replaced:,} of its {length:,} characters stand for what somebody could not decode "
            "(U+FFFD); decode the original again"
        )
    if counts[ord("\r")] > 100 * counts[ord("\n")]:
        return "its lines end with a carriage return alone; put a line feed in its place"
    return None


def encode_file(file: BinaryIO, name: str) -> Text:
    """Reads a seekable UTF-8 file into ids over its own sorted alphabet."""
    counts = np.zeros(CODE_POINTS, np.int64)
    for points in code_points(file, name):
        counts += np.bincount(points, minlength=CODE_POINTS)
    length, seen = int(counts.sum()), counts > 0
    if not length:
        raise UserError(f"{name} is empty: there is nothing to learn from it")
    if (doubt := doubts(counts)) is not None:
        warn(f"{name} is probably not the text that you mean: {doubt}")

    vocabulary = Vocabulary("".join(map(chr, np.flatnonzero(seen))))
    table = np.zeros(CODE_POINTS, vocabulary.dtype)
    table[seen] = np.arange(len(vocabulary), dtype=vocabulary.dtype)
    ids, filled = np.empty(length, vocabulary.dtype), 0
    for points in code_points(file, name):
        ids[filled : filled + len(points)] = table[points]
        filled += len(points)

    file.seek(0)
    return Text(name, ids, vocabulary, hashlib.file_digest(file, "sha256").hexdigest())
