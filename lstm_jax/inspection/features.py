"""What can be said of every character of a text, for units to be compared with.

Each feature is a function from a text to T values: True and False, or numbers. It is of the
character that a model has just read, and it may look at what comes after.
"""

import re
from collections.abc import Callable

import numpy as np

Feature = Callable[[str], np.ndarray]
PAIRS = {"(": ")", "[": "]", "{": "}"}
# A line that says who speaks: after an empty one, a capital first and a colon last.
SPEAKER = re.compile(r"(?:\A|(?<=\n\n))[A-Z][^\n:]{0,40}(?=:(?:\n|\Z))")
# Speech in single quotes, inside one paragraph: it begins with a capital that is no 'Tis, and ends
# with a stop before the quote. What is an apostrophe has a letter before it.
QUOTED = re.compile(
    r"(?<!\w)'(?!T(?:is|was|were|will)\b)[A-Z](?:(?!\n\n)[\s\S]){1,300}?[,.!?;:](?=')"
)


def of_each(test: Callable[[str], bool]) -> Feature:
    """A feature of a character by itself."""
    return lambda text: np.array([test(char) for char in text], bool)


def before_each(feature: Feature) -> Feature:
    """Whether the next character has a feature."""

    def ahead(text: str) -> np.ndarray:
        return np.append(feature(text)[1:], False) if text else np.zeros(0, bool)

    return ahead


def spans(pattern: re.Pattern) -> Feature:
    """Inside what a pattern matches."""

    def inside(text: str) -> np.ndarray:
        within = np.zeros(len(text), bool)
        for found in pattern.finditer(text):
            within[found.start() : found.end()] = True
        return within

    return inside


def inside_quotes(text: str) -> np.ndarray:
    """From an opening quote up to the one that closes it; an empty line closes any."""
    within, quoted = spans(QUOTED)(text), False
    for n, char in enumerate(text):
        if char in '"“”„«»':
            quoted = not quoted if char == '"' else char in "“„«"
        elif text[n - 1 : n + 1] == "\n\n":
            quoted = False
        within[n] |= quoted
    return within


def inside_brackets(text: str) -> np.ndarray:
    """After an opening bracket, up to its closing one; an empty line closes any."""
    within: np.ndarray = np.zeros(len(text), bool)
    closing: list[str] = []
    for n, char in enumerate(text):
        if char in PAIRS:
            closing.append(PAIRS[char])
        elif closing and char == closing[-1]:
            closing.pop()
        elif text[n - 1 : n + 1] == "\n\n":
            closing.clear()
        within[n] = bool(closing)
    return within


def since(test: Callable[[str], bool]) -> Feature:
    """How many characters ago a test was last true, or the text began."""

    def count(text: str) -> np.ndarray:
        counts, n = np.zeros(len(text)), 0
        for place, char in enumerate(text):
            n = 0 if test(char) else n + 1
            counts[place] = n
        return counts

    return count


def indentation(text: str) -> np.ndarray:
    """How many blanks the line begins with."""
    lines = text.splitlines(keepends=True)
    depths = [len(line) - len(line.lstrip(" \t")) for line in lines]
    return np.repeat(np.array(depths, float), [len(line) for line in lines])


def is_newline(char: str) -> bool:
    return char == "\n"


def is_no_letter(char: str) -> bool:
    return not char.isalpha()


def is_vowel(char: str) -> bool:
    return char.lower() in [*"aeiou"]


def is_punctuation(char: str) -> bool:
    return char.isprintable() and not (char.isalnum() or char.isspace())


FEATURES: dict[str, Feature] = {
    "inside quotes": inside_quotes,
    "inside brackets": inside_brackets,
    "inside a speaker's name": spans(SPEAKER),
    "inside a word in capitals": spans(re.compile(r"\b[A-Z]{2,}\b")),
    "position in the line": since(is_newline),
    "position in the word": since(is_no_letter),
    "indentation of the line": indentation,
    "a new line": of_each(is_newline),
    "an empty line": spans(re.compile(r"(?<=\n)\n")),
    "first word of a line": spans(re.compile(r"^[^\W\d_]+", re.M)),
    "a capital letter": of_each(str.isupper),
    "a vowel": of_each(is_vowel),
    "a digit": of_each(str.isdigit),
    "punctuation": of_each(is_punctuation),
    "a blank": of_each(lambda char: char == " "),
    "the word ends next": before_each(of_each(is_no_letter)),
    "the line ends next": before_each(of_each(is_newline)),
    "a capital comes next": before_each(of_each(str.isupper)),
}


def features(symbols: list[str]) -> dict[str, np.ndarray]:
    """Every feature of every symbol of a text, T each: where a symbol has several characters, that
    of its last one."""
    last_T = np.cumsum([len(symbol) for symbol in symbols]) - 1
    text = "".join(symbols)
    return {name: feature(text)[last_T] for name, feature in FEATURES.items()}
