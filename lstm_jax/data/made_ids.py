"""Ids that somebody else made, one after another in a file without a head, lowest byte first.

`train.bin` is such a file, as nanoGPT's scripts write it. `train.json` beside it says what is in it

    {"dtype": "uint16", "vocabulary_size": 50257}

and may have `symbols`: the text of every id, by which samples are shown. The file is not read into
memory, so it may be larger. It is read through, in pieces, at the beginning of a run: once because
an id that is too large would make nonsense of everything, and once for its hash.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from lstm_jax.data.mapped import mapped
from lstm_jax.data.tokens import PIECE_BYTES, Tokens, joined
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import named, read_json
from lstm_jax.terminal import say

SUFFIX = ".bin"
DTYPES = ("uint8", "uint16", "uint32", "int32")
MOST = 2**31 - 1
LARGE_BYTES = 2**30  # to look through more takes seconds
EXAMPLE = '{"dtype": "uint16", "vocabulary_size": 50257}'


@dataclass(frozen=True)
class MadeIds(Tokens):
    """Ids below a size. A prompt is ids with blanks between them, because nobody here knows how to
    make them of a text."""

    kind = "ids"
    unit, plural = "token", "tokens"
    start = "0"
    width: str  # a name in DTYPES
    vocabulary_size: int
    texts: tuple[str, ...] = ()  # of each id; (): nobody says

    @classmethod
    def learn(cls, file: BinaryIO, name: str, share: float = 1, max_types: int = 0) -> Self:
        path = described_by(name)
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ValueError("it is no plain file")
            return cls.from_json(read_json(path))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{path} is to say what is in {name}, and cannot be read ({reason}): write "
                f"{EXAMPLE} there, with the file's own values"
            ) from error

    @classmethod
    def from_json(cls, alphabet: Any) -> Self:
        given = alphabet if isinstance(alphabet, dict) else {}
        width, size = given.get("dtype"), given.get("vocabulary_size")
        texts = given.get("symbols", [])
        if (
            given.keys() - {"dtype", "vocabulary_size", "symbols"}
            or width not in [*DTYPES]
            or type(size) is not int
            or not 0 < size <= MOST
        ):
            raise UserError(
                f"{shorten(alphabet)} is not like {EXAMPLE}, with a dtype of {', '.join(DTYPES)}"
            )
        if type(texts) is not list or len(texts) not in (0, size) or {*map(type, texts)} - {str}:
            raise UserError(f"symbols is a list of {size:,} texts, one for each id")
        return cls(width, size, tuple(texts))

    def to_json(self) -> dict[str, Any]:
        symbols = {"symbols": [*self.texts]} if self.texts else {}
        return {"dtype": self.width, "vocabulary_size": self.vocabulary_size, **symbols}

    @property
    def symbols(self) -> Sequence[Any]:
        return self.texts or range(self.vocabulary_size)

    def __len__(self) -> int:
        return self.vocabulary_size

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.width).newbyteorder("<")

    def encode(self, text: str) -> np.ndarray:
        ids = text.split()
        for word in ids:
            if not (word.isascii() and word.isdigit() and len(word) < 12) or int(word) >= len(self):
                raise UserError(
                    f"{shorten(word)} is no id: this run reads ids that somebody else made, from 0 "
                    f"to {len(self) - 1}, with blanks between them"
                )
        return np.array([int(word) for word in ids], self.dtype)

    def encode_file(self, file: BinaryIO, name: str) -> np.ndarray:
        if described_by(name).exists() and self.learn(file, name) != self:
            raise UserError(f"{described_by(name)} says that {name} has other ids than this model")
        self._check(file, name)
        return mapped(file, name, self.dtype)

    def _check(self, file: BinaryIO, name: str) -> None:
        """Refuses an id that is none. Not by the map, of which every page would stay in memory."""
        if (size := file.seek(0, os.SEEK_END)) > LARGE_BYTES:
            say(f"looking through {name}, {size / 1e9:,.1f} GB, before it is used")
        file.seek(0)
        position, size = 0, self.dtype.itemsize
        while piece := file.read(PIECE_BYTES):
            ids = np.frombuffer(piece[: len(piece) // size * size], self.dtype)
            if ids.max(initial=0) >= len(self) or ids.min(initial=0) < 0:
                first = int(np.argmax((ids >= len(self)) | (ids < 0)))
                raise UserError(
                    f"{name} has the id {ids[first]} at place {position + first:,}, from 0, and "
                    f"those of a vocabulary_size of {len(self):,} are below that"
                )
            position += len(ids)

    def decode_pieces(self, pieces: Iterable[np.ndarray]) -> Iterator[str]:
        if not self.texts:
            return joined([str(idx) for idx in np.asarray(ids).tolist()] for ids in pieces)
        return ("".join(self.texts[i] for i in np.asarray(ids).tolist()) for ids in pieces)


def described_by(name: str) -> Path:
    """The file beside one of ids that says what is in it."""
    return named(name).with_suffix(".json")
