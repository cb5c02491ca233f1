"""The alphabet of a text, and the text as ids: its characters.

The text is read in pieces, once to collect the alphabet, once to encode it and once to hash it. So
a file of any size costs one piece and its ids, in the smallest integer type that holds them.
"""

import codecs
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np

from lstm_jax.data.tokens import PIECE_BYTES, Tokens
from lstm_jax.errors import UserError, shorten
from lstm_jax.terminal import warn

CODE_POINTS = 0x110000
CONTROLS = [point for point in range(32) if chr(point) not in "\t\n\f\r"]
MANY_CONTROLS, MANY_REPLACED = 0.05, 0.001  # shares of a text that is probably something else
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Vocabulary(Tokens):
    """The sorted characters of a text; a character's id is its place among them."""

    kind = plural = "characters"
    unit = "char"
    chars: str

    def __post_init__(self) -> None:
        chars = self.chars
        if not isinstance(chars, str) or not chars or "".join(sorted(set(chars))) != chars:
            raise UserError(f"{shorten(chars)} is no alphabet: sorted characters, each once")
        if SURROGATE.search(chars):
            raise UserError(f"{shorten(chars)} is no alphabet: no text in UTF-8 has surrogates")

    @classmethod
    def learn(cls, file: BinaryIO, name: str, share: float = 1, max_types: int = 0) -> Self:
        """The alphabet of all of a file: what is held out of it has no character outside."""
        counts = np.zeros(CODE_POINTS, np.int64)
        for points in code_points(file, name):
            counts += np.bincount(points, minlength=CODE_POINTS)
        if not counts.any():
            raise UserError(f"{name} is empty: there is nothing to learn from it")
        if (doubt := doubts(counts)) is not None:
            warn(f"{name} is probably not the text that you mean: {doubt}")
        return cls("".join(map(chr, np.flatnonzero(counts))))

    @classmethod
    def from_json(cls, alphabet: Any) -> Self:
        return cls(alphabet)

    def to_json(self) -> str:
        return self.chars

    @property
    def symbols(self) -> str:
        return self.chars

    @property
    def start(self) -> str:  # type: ignore[override]
        return "\n" if "\n" in self.chars else self.chars[0]

    def __len__(self) -> int:
        return len(self.chars)

    @cached_property
    def char_to_idx(self) -> dict[str, int]:
        return {char: idx for idx, char in enumerate(self.chars)}

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text; a UserError names the first character outside the alphabet."""
        for char in text:
            if char not in self.char_to_idx:
                raise UserError(
                    f"the character {char!r} is not in the model's alphabet: {summary(self.chars)}"
                )
        return np.array([self.char_to_idx[char] for char in text], self.dtype)

    def encode_file(self, file: BinaryIO, name: str) -> np.ndarray:
        """The ids of a UTF-8 file; says in which line and column it has a character outside."""
        known = np.zeros(CODE_POINTS, bool)
        table = np.zeros(CODE_POINTS, self.dtype)
        of_alphabet = np.frombuffer(self.chars.encode("utf-32-le"), np.uint32)
        known[of_alphabet], table[of_alphabet] = True, np.arange(len(self), dtype=self.dtype)
        ids, filled = np.empty(sum(map(len, code_points(file, name))), self.dtype), 0
        for points in code_points(file, name):
            if not known[points].all():
                outside = int(np.argmin(known[points]))
                line, column = place_of(filled + outside, file, name)
                raise UserError(
                    f"{name} has the character {chr(points[outside])!r}, in line {line:,}, column "
                    f"{column:,}, which is not in the alphabet {summary(self.chars)}: take it out, "
                    "or train on both in --config.data.tokens=bytes"
                )
            ids[filled : filled + len(points)] = table[points]
            filled += len(points)
        return ids

    def decode_pieces(self, pieces: Iterable[np.ndarray]) -> Iterator[str]:
        for ids in pieces:
            yield "".join(self.chars[idx] for idx in np.asarray(ids).tolist())


def summary(chars: str, limit: int = 120) -> str:
    """The characters as Python shows them, cut at `limit`."""
    more = len(chars) - limit
    return repr(chars) if more <= 0 else f"{chars[:limit]!r} and {more} more"


class Part(NamedTuple):
    """A split that lies in a file of its own."""

    ids: np.ndarray
    sha256: str  # of the file


@dataclass(frozen=True)
class Text:
    """A text as ids, with its symbols and its identity.

    published: the splits that were published as files of their own, by name: `validation`, `test`.
    """

    name: str
    ids: np.ndarray  # N, of the vocabulary's dtype
    vocabulary: Tokens
    sha256: str  # of the file
    published: Mapping[str, Part] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be of this text, as JSON."""
        kind = self.vocabulary.kind
        return {
            "alphabet": self.vocabulary.to_json(),
            "sha256": self.sha256,
            **({} if kind == Vocabulary.kind else {"tokens": kind}),
            **{f"{name}_sha256": part.sha256 for name, part in self.published.items()},
        }


def utf8_pieces(file: BinaryIO, name: str) -> Iterator[str]:
    """The characters of a UTF-8 file, piece by piece; says where a byte is not UTF-8."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    while True:
        piece = file.read(PIECE_BYTES)
        held = len(decoder.getstate()[0])  # bytes of a character cut by the last piece's end
        try:
            yield decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name} is not UTF-8: byte {offset - held + error.start} is wrong "
                f"({error.reason}); convert it first, with iconv say"
            ) from error
        offset += len(piece)
        if not piece:
            return


def code_points(file: BinaryIO, name: str) -> Iterator[np.ndarray]:
    """The code points of a UTF-8 file, piece by piece."""
    for chars in utf8_pieces(file, name):
        yield np.frombuffer(chars.encode("utf-32-le"), np.uint32)


def place_of(position: int, file: BinaryIO, name: str) -> tuple[int, int]:
    """The line and the column, from 1, of the character at a position, from 0."""
    line = column = 1
    for points in code_points(file, name):
        before = points[:position]
        ends = np.flatnonzero(before == ord("\n"))
        line += len(ends)
        column = len(before) - int(ends[-1]) if len(ends) else column + len(before)
        position -= len(before)
        if not position:
            break
    return line, column


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


def sha256_of(file: BinaryIO) -> str:
    """The hash of a seekable file, read in pieces."""
    file.seek(0)
    # Every binary file has the `readinto` that it wants, and typing's BinaryIO lacks.
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def encode_file(file: BinaryIO, name: str) -> Text:
    """Reads a seekable UTF-8 file into ids over its own sorted alphabet."""
    vocabulary = Vocabulary.learn(file, name)
    return Text(name, vocabulary.encode_file(file, name), vocabulary, sha256_of(file))
