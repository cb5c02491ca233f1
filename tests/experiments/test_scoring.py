"""What is said of a loss, what is scored, and what is shown while that lasts."""

from functools import partial
from typing import ClassVar

import numpy as np
import pytest

from experiments.support import scoring
from lstm_jax.config import Config, DataConfig, EvaluateConfig
from lstm_jax.data.vocabulary import Text, Vocabulary
from lstm_jax.errors import UserError
from lstm_jax.scoring.dynamic import DynamicConfig
from lstm_jax.scoring.protocols import Evaluation, in_words


@pytest.mark.parametrize(
    "lanes, how",
    [
        (1, "strictly in order"),
        (2, "as 2 pieces, each warmed up on the 9 characters before"),
    ],
)
def test_a_protocol_says_how_strict_it_is(lanes, how):
    found = in_words(EvaluateConfig(window_length=7, lanes=lanes, warmup=9))
    assert found == {
        "stream": f"the state is carried through the text, read {how}",
        "windows": "the state starts from zero every 7 characters",
    }


def text_of(length):
    return Text("text", np.arange(length, dtype=np.uint8), Vocabulary("ab"), "hash")


def test_the_end_of_the_training_split_is_as_long_as_the_validation_split():
    ids, config = np.arange(100), Config(data=DataConfig(validation_fraction=0.2))
    for split, start, end in (("validation", 80, 100), ("training_end", 60, 80)):
        before, scored = scoring.split_to_score(text_of(100), config, split)
        np.testing.assert_array_equal(before, ids[:start])
        np.testing.assert_array_equal(scored, ids[start:end])


def test_a_training_split_shorter_than_two_of_them_has_no_such_end():
    config = Config(data=DataConfig(validation_fraction=0.4))
    before, scored = scoring.split_to_score(text_of(10), config, "validation")
    assert (len(before), len(scored)) == (6, 4)
    with pytest.raises(UserError, match=r"a training split of twice the 4 characters .* it has 6"):
        scoring.split_to_score(text_of(10), config, "training_end")
    config = Config(data=DataConfig(validation_fraction=1 / 3))
    before, scored = scoring.split_to_score(text_of(9), config, "training_end")
    assert (len(before), len(scored)) == (3, 3)


class Bar:
    """Stands for tqdm's; `shares` is what all of them showed."""

    shares: ClassVar[list[float]] = []

    def __init__(self, *, total, **_):
        self.n, self.total = 0, total

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, more):
        self.n += more
        self.shares.append(self.n / self.total)


def in_three_parts(*args):
    """Stands for an evaluation."""
    (report,) = (arg for arg in args if callable(arg))
    for part in (0.25, 0.5, 1.0):
        report(part)
    return Evaluation(1.5, 2.5)


@pytest.mark.parametrize(
    "evaluation, score",
    [
        ("evaluate_dynamic", partial(scoring.score_dynamically, config=DynamicConfig("sgd"))),
        ("evaluate_monte_carlo", lambda *_: scoring.score_draws(None, Config(), None, 3)),
    ],
)
def test_a_bar_shows_the_share_that_is_done(evaluation, score, monkeypatch):
    monkeypatch.setattr(scoring, "Bar", Bar)
    monkeypatch.setattr(scoring, evaluation, in_three_parts)
    Bar.shares.clear()
    score(None, None, None, None)
    assert Bar.shares == [0.25, 0.5, 1.0]
