"""The text that a config asks for: which file, read in which tokens, and its splits."""

import re
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from lstm_jax.data.batches import Documents, Ids, Split, bare, split_ids
from lstm_jax.data.corpora import CORPORA, load_text, read_file
from lstm_jax.data.made_ids import SUFFIX, MadeIds
from lstm_jax.data.octets import Bytes
from lstm_jax.data.tokens import Tokens
from lstm_jax.data.vocabulary import Part, Text, Vocabulary, sha256_of
from lstm_jax.data.words import Words
from lstm_jax.errors import UserError, shorten
from lstm_jax.options import Section, option

TOKENS: dict[str, type[Tokens]] = {
    "characters": Vocabulary,
    "bytes": Bytes,
    "words": Words,
    "ids": MadeIds,
}
ESCAPED = re.compile(r"\\(.?)", re.DOTALL)
LOOK = 2**20  # ids that are looked through at a time
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


@dataclass(frozen=True)
class TextOptions(Section):
    prefix = "data."
    corpus: str = option("shakespeare", "the text, unless data.path names a file", choices=CORPORA)
    # A file may lie elsewhere: what is in it decides, which is the identity of the task.
    path: str = option(
        "",
        "a file of your own, instead of a corpus: a UTF-8 text, unless tokens",
        decides="nothing",
    )
    tokens: str | None = option(
        None,
        "what the text is read in; of itself characters, and of a file x.bin the ids in it, which "
        "x.json beside it describes",
        choices=TOKENS,
        decides="nothing",  # the identity says which they are
    )
    max_types: int = option(
        0,
        "words: keep the most frequent, so many with <unk>, which all others become; 0: all",
        low=0,
        high=2**24,
    )
    validation_path: str = option(
        "", "a file to validate on, instead of a share of the text", decides="nothing"
    )
    test_path: str = option(
        "", "a file that --mode=evaluate --split=test alone scores", decides="nothing"
    )
    validation_fraction: float = option(
        0.1, "the share of the text, at its end, kept for validation; 0: none", low=0, high=0.9
    )
    test_fraction: float = option(
        0.0, "the share of the text behind that, kept for --split=test; 0: none", low=0, high=0.9
    )
    train_chars: int = option(
        0,
        "train on that many first characters (bytes, words, ids) of the training split; 0: all",
        low=0,
        high=2**40,
    )
    document_separator: str = option(
        "", r"what ends a document: behind it the state starts afresh; \n, \t, \r, \\ as in Python"
    )


def kind_of(options: TextOptions) -> type[Tokens]:
    """The tokens that a config asks for."""
    of_itself = "ids" if options.path.endswith(SUFFIX) else "characters"
    return TOKENS[options.tokens or of_itself]


def published_paths(options: TextOptions) -> dict[str, str]:
    """The splits that lie in files of their own, by name."""
    paths = {"validation": options.validation_path, "test": options.test_path}
    return {name: path for name, path in paths.items() if path}


def fractions_of(options: TextOptions) -> tuple[float, float]:
    """The shares of the text that are held out of it, to validate and to test on."""
    return (
        0.0 if options.validation_path else options.validation_fraction,
        0.0 if options.test_path else options.test_fraction,
    )


def read_text(options: TextOptions) -> Text:
    """The text, and the splits that were published with it; UserError where it cannot be had."""
    kind, fractions = kind_of(options), fractions_of(options)
    if kind is MadeIds and not options.path:
        raise UserError("data.tokens=ids takes the file that data.path names: name one")
    if sum(fractions) >= 1:
        raise UserError(
            "data.validation_fraction and data.test_fraction leave nothing to train on: together "
            "they are below 1"
        )

    def read(file: BinaryIO, name: str) -> Text:
        vocabulary = kind.learn(file, name, 1 - fractions[0] - fractions[1], options.max_types)
        return Text(name, vocabulary.encode_file(file, name), vocabulary, sha256_of(file))

    text = load_text(options.corpus, options.path, read)
    published = {
        name: read_part(text.vocabulary, path, f"data.{name}_path")
        for name, path in published_paths(options).items()
    }
    return Text(text.name, text.ids, text.vocabulary, text.sha256, published)


def read_part(vocabulary: Tokens, path: str, option: str) -> Part:
    """A file in the symbols of another; UserError where it has others."""

    def read(file: BinaryIO, name: str) -> Part:
        return Part(vocabulary.encode_file(file, name), sha256_of(file))

    part = read_file(path, read, option)
    if len(part.ids) < 2:
        raise UserError(f"{option}={shorten(path)} has fewer than 2 {vocabulary.plural}")
    return part


def split_text(text: Text, options: TextOptions) -> Split:
    """Its splits, each in documents where the config has a separator of them."""
    validation, test = (
        0.0 if name in text.published else fraction
        for name, fraction in zip(("validation", "test"), fractions_of(options), strict=True)
    )
    plural = text.vocabulary.plural
    split = split_ids(text.ids, validation, options.train_chars, test, plural)
    split = split._replace(**{name: part.ids for name, part in text.published.items()})
    if options.document_separator and not occurs(separator_of(text.vocabulary, options), text.ids):
        raise UserError(
            f"data.document_separator={shorten(options.document_separator)} is nowhere in "
            f"{text.name}: leave it out, or take what ends a document there"
        )
    parts = {name: ids for name, ids in split._asdict().items() if ids is not None}
    return split._replace(
        **{name: in_documents(ids, text.vocabulary, options) for name, ids in parts.items()}
    )


def in_documents(ids: np.ndarray, vocabulary: Tokens, options: TextOptions) -> Ids:
    """Ids as a config has them read: in documents, where it has a separator of them."""
    if not options.document_separator:
        return ids
    return Documents(ids, separator_of(vocabulary, options))


def unescaped(text: str) -> str:
    """A text of a flag, in which `\\n` is a line feed; UserError for an escape that is none."""
    try:
        return ESCAPED.sub(lambda found: ESCAPES[found[1]], text)
    except KeyError as error:
        raise UserError("a backslash stands before n, r, t or another alone") from error


def separator_of(vocabulary: Tokens, options: TextOptions) -> np.ndarray:
    """The ids of what ends a document; UserError where it is none of these symbols."""
    said = f"data.document_separator={shorten(options.document_separator)}"
    try:
        text = unescaped(options.document_separator)
        ids = vocabulary.encode(text)
    except UserError as error:
        raise UserError(f"{said}: {error}") from error
    unknown = vocabulary.unknown is not None and bool((ids == vocabulary.unknown).any())
    if not len(ids) or (unknown and vocabulary.decode(ids) != text):
        raise UserError(f"{said} is none of the {vocabulary.plural} of the training text")
    return ids


def occurs(separator: np.ndarray, ids: np.ndarray) -> bool:
    """Whether a document ends anywhere; of a long text no more is read than it takes to know."""
    documents, end = Documents(ids, separator), len(ids) + 1
    pieces = (np.arange(n, min(n + LOOK, end)) for n in range(0, end, LOOK))
    return any(documents.begin_at(positions).any() for positions in pieces)


def say_unknown(split: Split, vocabulary: Tokens) -> str:
    """How much of a split none of the symbols stands for; nothing, where that is refused."""
    if vocabulary.unknown is None:
        return ""

    word = vocabulary.decode(np.array([vocabulary.unknown]))
    parts = {"validation": split.validation, "test": split.test}
    shares = [f"{unknown_share(split.train, vocabulary)} of training"]
    shares += [
        f"{unknown_share(ids, vocabulary)} of {name}"
        for name, ids in parts.items()
        if ids is not None
    ]
    return f"; {' and '.join(shares)} is {word}"


def unknown_share(ids: Ids, vocabulary: Tokens) -> str:
    """The share of ids that none of the symbols stands for, in per cent."""
    return f"{np.mean(bare(ids) == vocabulary.unknown):.2%}"
