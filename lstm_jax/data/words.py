"""The words of a text, as the files of the Penn Treebank and of WikiText have them.

A word is what stands between blanks, of whatever kind, and the end of a line is a word of its own
(it is `<eos>` there). A text is put together again with one blank between two words and none beside
the end of a line: more blanks than that are not kept.

The words are those of the training split alone, the most frequent first. All others are `<unk>`,
also where they are held out: a model cannot know of words that it is not trained on, and to count
them among its symbols would say that it did.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Self

import numpy as np

from lstm_jax.data.tokens import Tokens, joined
from lstm_jax.data.vocabulary import SURROGATE, utf8_pieces
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import JSON_LIMIT_BYTES

UNKNOWN = "<unk>"
LONGEST = 1 << 20  # characters; what has no blank for longer is no text in words


@dataclass(frozen=True)
class Words(Tokens):
    """`<unk>`, which also is a word of the text like others, and then the most frequent words."""

    kind = plural = "words"
    unit = "word"
    unknown = 0
    types: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.types[:1] != (UNKNOWN,) or len({*self.types}) != len(self.types):
            raise UserError(f"{shorten(self.types)} are no words: {UNKNOWN} first, and each once")

    @classmethod
    def learn(cls, file: BinaryIO, name: str, share: float = 1, max_types: int = 0) -> Self:
        left = sum(map(len, words_of(file, name)))
        if not left:
            raise UserError(f"{name} is empty: there is nothing to learn from it")
        left, counts = int(left * share), Counter[str]()
        for words in words_of(file, name):
            counts.update(words[:left])
            left -= min(left, len(words))
        del counts[UNKNOWN]
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        learnt = cls((UNKNOWN, *ranked[: max_types - 1 if max_types else None]))
        if len(json.dumps(learnt.to_json())) > JSON_LIMIT_BYTES // 2:
            raise UserError(
                f"{name} has {len(learnt):,} different words, more than a run can write down: take "
                "a --config.data.max_types"
            )
        return learnt

    @classmethod
    def from_json(cls, alphabet: Any) -> Self:
        words = alphabet.split(" ") if isinstance(alphabet, str) else []
        if SURROGATE.search("".join(words)) or any(split_words(word) != [word] for word in words):
            raise UserError(f"{shorten(alphabet)} are no words with a blank between them")
        return cls(tuple(words))

    def to_json(self) -> str:
        return " ".join(self.types)

    @property
    def symbols(self) -> tuple[str, ...]:
        return self.types

    @property
    def start(self) -> str:  # type: ignore[override]
        return "\n" if "\n" in self.index else self.types[:2][-1]

    def __len__(self) -> int:
        return len(self.types)

    @cached_property
    def index(self) -> dict[str, int]:
        return {word: idx for idx, word in enumerate(self.types)}

    def _ids(self, words: list[str]) -> np.ndarray:
        get = self.index.get
        return np.fromiter((get(word, 0) for word in words), self.dtype, len(words))

    def encode(self, text: str) -> np.ndarray:
        return self._ids(split_words(text))

    def encode_file(self, file: BinaryIO, name: str) -> np.ndarray:
        ids = bytearray()
        for words in words_of(file, name):
            ids += self._ids(words).tobytes()
        return np.frombuffer(ids, self.dtype)

    def decode_pieces(self, pieces: Iterable[np.ndarray]) -> Iterator[str]:
        return joined([self.types[idx] for idx in np.asarray(ids).tolist()] for ids in pieces)


def split_words(text: str) -> list[str]:
    """The words, and the ends of lines between them."""
    words: list[str] = []
    for line in text.split("\n"):
        words += line.split()
        words.append("\n")
    return words[:-1]


def words_of(file: BinaryIO, name: str) -> Iterator[list[str]]:
    """The words of a UTF-8 file, piece by piece."""
    held = ""  # the beginning of a word that goes on in the next piece, maybe
    for chars in utf8_pieces(file, name):
        text = held + chars
        words = split_words(text)
        held = words.pop() if words and not text[-1].isspace() else ""
        if len(held) > LONGEST:
            raise UserError(
                f"{name} has more than {LONGEST:,} characters without a blank between them, which "
                "are no words: take another --config.data.tokens"
            )
        yield words
    yield [held] if held else []
