"""The options of a text."""

from dataclasses import dataclass

from lstm_jax.options import Section, option


@dataclass(frozen=True)
class DataConfig(Section):
    prefix = "data."
    corpus: str = option(
        "shakespeare",
        "the text, unless data.path names a file",
        choices=("shakespeare", "tiny_shakespeare", "python_topics"),
    )
    path: str = option("", "a UTF-8 text file of your own, instead of a corpus")
    validation_fraction: float = option(
        0.1, "the share of the text, at its end, kept for validation; 0: none", low=0, high=0.9
    )
    train_chars: int = option(
        0, "train on that many first characters of the training split; 0: all", low=0, high=2**40
    )
