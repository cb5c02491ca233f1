"""A text: from each character, and all before it, the model predicts the next."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np

from lstm_jax.data.batches import Batch, Streams, split_ids
from lstm_jax.data.corpora import CORPORA, load_text
from lstm_jax.data.frequencies import unigram_loss
from lstm_jax.data.vocabulary import Text, Vocabulary
from lstm_jax.errors import UserError
from lstm_jax.model import Interface, Masks, ModelParams
from lstm_jax.options import Section, option
from lstm_jax.sample import generate
from lstm_jax.scoring.protocols import EvaluateConfig, check_lanes, evaluate
from lstm_jax.tasks.task import Task

EVALUATE = tuple(f"evaluate.{f.name}" for f in dataclasses.fields(EvaluateConfig))


@dataclass(frozen=True)
class TextOptions(Section):
    prefix = "data."
    corpus: str = option("shakespeare", "the text, unless data.path names a file", choices=CORPORA)
    path: str = option("", "a UTF-8 text file of your own, instead of a corpus")
    validation_fraction: float = option(
        0.1, "the share of the text, at its end, kept for validation; 0: none", low=0, high=0.9
    )
    train_chars: int = option(
        0, "train on that many first characters of the training split; 0: all", low=0, high=2**40
    )


def vocabulary_of(identity: Mapping[str, Any], interface: Interface) -> Vocabulary:
    """The alphabet of a text, out of what a checkpoint says; UserError where it says none."""
    if "alphabet" not in identity:
        raise UserError(
            "this run is of a task of your own, which the command line cannot know: load it with "
            "lstm_jax.load_model"
        )
    vocabulary = Vocabulary(identity["alphabet"])
    if interface != (wanted := interface_of(vocabulary)):
        raise UserError(
            f"the run is of no text of {len(vocabulary)} symbols: its interface is {interface}, "
            f"not {wanted}"
        )
    return vocabulary


def interface_of(vocabulary: Vocabulary) -> Interface:
    return Interface(len(vocabulary), len(vocabulary))


class TextTask(Task):
    """The characters of a text, read in `train.batch_size` streams.

    Raises UserError where the text is too short for the config, or would never be scored.
    """

    Options = TextOptions
    READS = (*EVALUATE, "train.sequence_length", "train.sample_length", "train.reset_rate")
    unit = "nats/char"
    carries = True

    def __init__(self, config: Any, text: Text) -> None:
        data, train = config.data, config.train
        self.text, self.evaluation, self.sample_length = text, config.evaluate, train.sample_length
        self.split = split_ids(text.ids, data.validation_fraction, data.train_chars)
        self.streams = Streams(self.split.train, train.batch_size, train.sequence_length)
        if self.split.validation is not None:
            check_lanes(len(self.split.validation), self.evaluation)
        self.interface = interface_of(text.vocabulary)
        self.identity = {"alphabet": text.vocabulary.chars, "sha256": text.sha256}

    @classmethod
    def of(cls, config: Any) -> Self:
        return cls(config, load_text(config.data.corpus, config.data.path))

    @classmethod
    def validates(cls, config: Any) -> bool:
        return config.data.validation_fraction > 0

    @classmethod
    def steps_of(cls, config: Any) -> int:
        return config.train.sequence_length

    @classmethod
    def without_meaning(cls, config: Any) -> Iterator[tuple[str, str]]:
        if config.data.path:
            yield "data.corpus", "beside data.path"
        if not cls.validates(config):
            for name in EVALUATE:
                yield name, "at data.validation_fraction=0, where nothing is validated"
        if config.evaluate.lanes == 1:
            yield "evaluate.warmup", "at evaluate.lanes=1, the strict form"

    def describe(self) -> str:
        validation = 0 if self.split.validation is None else len(self.split.validation)
        return (
            f"{self.text.name}: {len(self.split.train):,} characters to train on, "
            f"{validation:,} to validate on, {len(self.text.vocabulary)} symbols"
        )

    def batch_at(self, step: int) -> Batch:
        return self.streams.batch_at(step)

    def evaluate(self, params: ModelParams, masks: Masks | None) -> dict[str, float]:
        """The losses on the validation split, by both protocols."""
        if self.split.validation is None:
            return {}
        losses = evaluate(params, self.split.validation, self.evaluation, masks)
        return {"loss_stream": losses.stream, "loss_windows": losses.windows}

    def sample(self, params: ModelParams, masks: Masks | None) -> str:
        """What the model makes of the text's first character; the same for the same parameters."""
        prompt = self.text.ids[:1]
        ids, _ = generate(params, jax.random.key(0), prompt, self.sample_length, masks=masks)
        return self.text.vocabulary.decode(np.concatenate([prompt, ids[0]]))

    def references(self) -> dict[str, float]:
        return {
            "uniform guessing": math.log(self.interface.output_size),
            "frequencies alone": self.unigram_loss,
        }

    @cached_property
    def unigram_loss(self) -> float:
        """Of what is validated on; of the training split where nothing is."""
        training, validation = self.split.train, self.split.validation
        scored = training if validation is None else validation
        return unigram_loss(training, scored[1:], self.interface.output_size)
