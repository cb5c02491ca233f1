"""What a text is read in: its symbols, each with an id. The contract of characters, bytes, words
and ids that somebody else made.

A new kind is a subclass of `Tokens` and a line in `texts.TOKENS`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np

PIECE_BYTES = 1 << 22  # of a file, as much as is read at a time


class Tokens:
    """The symbols of a text; a symbol's id is its place among them. Two that are equal have the
    same symbols in the same places.

    kind: its name in TOKENS.
    unit, plural: what one and many of its symbols are called.
    unknown: the id of whatever is none of the symbols; None: that is refused.
    start: what a sample begins with where nobody says it.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]
    plural: ClassVar[str]
    unknown: ClassVar[int | None] = None
    start: str

    @classmethod
    def learn(cls, file: BinaryIO, name: str, share: float, max_types: int) -> Self:
        """The symbols of a seekable file; UserError where it is none of this kind.

        Args:
          share: the first part of the file, which is trained on.
          max_types: how many symbols there may be; 0: all of them.
        """
        raise NotImplementedError

    @classmethod
    def from_json(cls, alphabet: Any) -> Self:
        """What `to_json` made; UserError for anything else, which a file may hold."""
        raise NotImplementedError

    def to_json(self) -> Any:
        raise NotImplementedError

    @property
    def symbols(self) -> Sequence[Any]:
        """All of them, in the order of their ids."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def dtype(self) -> np.dtype:
        """Of ids: the smallest unsigned integer type that holds every one."""
        return np.min_scalar_type(len(self) - 1)

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text; a UserError names the first symbol outside."""
        raise NotImplementedError

    def encode_file(self, file: BinaryIO, name: str) -> np.ndarray:
        """The ids of a seekable file; a UserError says where it has a symbol outside."""
        raise NotImplementedError

    def decode_pieces(self, pieces: Iterable[np.ndarray]) -> Iterator[str]:
        """A text piece by piece, as its ids come."""
        raise NotImplementedError

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids."""
        return "".join(self.decode_pieces([ids]))


def joined(pieces: Iterable[Sequence[str]]) -> Iterator[str]:
    """Words as a text: a blank between two, but none beside the end of a line."""
    before = "\n"
    for piece in pieces:
        words = []
        for word in piece:
            words += [word] if "\n" in (before, word) else [" ", word]
            before = word
        yield "".join(words)
