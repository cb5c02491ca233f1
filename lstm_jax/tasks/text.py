"""A text: from each character, or byte, or word, and all before it, the model predicts the next."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np

from lstm_jax.data.batches import Batch, Streams, bare
from lstm_jax.data.frequencies import unigram_loss
from lstm_jax.data.texts import (
    TOKENS,
    TextOptions,
    kind_of,
    published_paths,
    read_text,
    say_unknown,
    split_text,
)
from lstm_jax.data.tokens import Tokens
from lstm_jax.data.vocabulary import Text, Vocabulary
from lstm_jax.data.words import Words
from lstm_jax.errors import UserError, shorten
from lstm_jax.model import Interface, Masks, ModelParams
from lstm_jax.sample import generate
from lstm_jax.scoring.protocols import EvaluateConfig, check_lanes, evaluate, in_words
from lstm_jax.tasks.task import Task

EVALUATE = tuple(f"evaluate.{f.name}" for f in dataclasses.fields(EvaluateConfig))


def vocabulary_of(identity: Mapping[str, Any], interface: Interface) -> Tokens:
    """The symbols of a text, out of what a checkpoint says; UserError where it says none."""
    if "alphabet" not in identity:
        raise UserError(
            "this run is of a task of your own, which the command line cannot know: load it with "
            "lstm_jax.load_model"
        )
    kind = identity.get("tokens", Vocabulary.kind)
    if kind not in [*TOKENS]:
        raise UserError(f"{shorten(kind)} are no tokens that are known: {', '.join(TOKENS)}")
    vocabulary = TOKENS[kind].from_json(identity["alphabet"])
    if interface != (wanted := interface_of(vocabulary)):
        raise UserError(
            f"the run is of no text of {len(vocabulary)} symbols: its interface is {interface}, "
            f"not {wanted}"
        )
    return vocabulary


def interface_of(vocabulary: Tokens) -> Interface:
    return Interface(len(vocabulary), len(vocabulary))


class TextTask(Task):
    """A text, read in `train.batch_size` streams.

    Raises UserError where the text is too short for the config, or would never be scored.
    """

    Options = TextOptions
    READS = (*EVALUATE, "train.sequence_length", "train.sample_length", "train.reset_rate")
    unit = "nats/char"  # of characters: each text says its own
    carries = True

    def __init__(self, config: Any, text: Text) -> None:
        data, train = config.data, config.train
        self.text, self.evaluation, self.sample_length = text, config.evaluate, train.sample_length
        self.unit, plural = f"nats/{text.vocabulary.unit}", text.vocabulary.plural
        self.split = split_text(text, data)
        self.streams = Streams(self.split.train, train.batch_size, train.sequence_length, plural)
        if self.split.validation is not None:
            check_lanes(len(self.split.validation), self.evaluation)
        said = in_words(config.evaluate, plural, bool(data.document_separator))
        self.meanings = {f"loss_{protocol}": words for protocol, words in said.items()}
        self.interface = interface_of(text.vocabulary)
        self.source = f"{text.name} ({len(text.ids):,} {plural})"
        self.identity = text.identity

    @classmethod
    def of(cls, config: Any) -> Self:
        return cls(config, read_text(config.data))

    def sharing(self, config: Any) -> Self:
        return type(self)(config, self.text)

    @classmethod
    def symbols_of(cls, identity: Mapping[str, Any]) -> Sequence[Any] | None:
        if "alphabet" not in identity:
            return None
        kind = TOKENS[identity.get("tokens", Vocabulary.kind)]
        return kind.from_json(identity["alphabet"]).symbols

    @classmethod
    def validates(cls, config: Any) -> bool:
        return bool(config.data.validation_path) or config.data.validation_fraction > 0

    @classmethod
    def steps_of(cls, config: Any) -> int:
        return config.train.sequence_length

    @classmethod
    def without_meaning(cls, config: Any) -> Iterator[tuple[str, str]]:
        data = config.data
        if data.path:
            yield "data.corpus", "beside data.path"
        for name in published_paths(data):
            yield f"data.{name}_fraction", f"beside data.{name}_path"
        if kind_of(data) is not Words:
            yield "data.max_types", "without data.tokens=words"
        if not (cls.validates(config) or data.test_path or data.test_fraction):
            for name in EVALUATE:
                yield name, "at data.validation_fraction=0, where nothing is validated"
        if config.evaluate.lanes == 1:
            yield "evaluate.warmup", "at evaluate.lanes=1, the strict form"

    def describe(self) -> str:
        split, vocabulary = self.split, self.text.vocabulary
        validation = 0 if split.validation is None else len(split.validation)
        test = "" if split.test is None else f"{len(split.test):,} to test on, "
        return (
            f"{self.text.name}: {len(split.train):,} {vocabulary.plural} to train on, "
            f"{validation:,} to validate on, {test}{len(vocabulary)} symbols"
            + say_unknown(split, vocabulary)
        )

    def batch_at(self, step: int) -> Batch:
        return self.streams.batch_at(step)

    def lanes_at(self, step: int, lanes: slice) -> Batch:
        return self.streams.batch_at(step, lanes)

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
        return unigram_loss(bare(training), bare(scored)[1:], self.interface.output_size)
