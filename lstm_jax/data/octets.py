"""The bytes of a file, whatever it is: 256 symbols."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import numpy as np

from lstm_jax.data.mapped import mapped
from lstm_jax.data.tokens import Tokens
from lstm_jax.errors import UserError, shorten


@dataclass(frozen=True)
class Bytes(Tokens):
    """All 256 bytes, also those that a text has not: so none is ever outside, in no other text and
    no prompt, and a loss per byte is of the same symbols for every file."""

    kind = plural = "bytes"
    unit = "byte"
    start = "\n"

    @classmethod
    def learn(cls, file: BinaryIO, name: str, share: float = 1, max_types: int = 0) -> Self:
        return cls()

    @classmethod
    def from_json(cls, alphabet: Any) -> Self:
        if alphabet != 256 or type(alphabet) is not int:
            raise UserError(f"{shorten(alphabet)} is no alphabet: there are 256 bytes")
        return cls()

    def to_json(self) -> int:
        return 256

    @property
    def symbols(self) -> range:
        return range(256)

    def __len__(self) -> int:
        return 256

    def encode(self, text: str) -> np.ndarray:
        try:  # what the command line could not decode is the bytes that it was given
            return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
        except UnicodeEncodeError as error:
            raise UserError(
                f"{shorten(text)} cannot be written as UTF-8: {error.reason}"
            ) from error

    def encode_file(self, file: BinaryIO, name: str) -> np.ndarray:
        return mapped(file, name, np.dtype(np.uint8))

    def decode_pieces(self, pieces: Iterable[np.ndarray]) -> Iterator[str]:
        """What is no UTF-8 is shown as U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for ids in pieces:
            yield decoder.decode(np.asarray(ids, np.uint8).tobytes())
        yield decoder.decode(b"", final=True)
