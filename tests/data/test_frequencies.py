"""Frequencies, against counting one by one."""

import math

import numpy as np
import pytest

from lstm_jax.data import frequencies
from lstm_jax.data.frequencies import unigram_loss


def test_the_loss_is_that_of_the_frequencies_one_symbol_after_another(monkeypatch, rng):
    """Of 3 symbols that occur in training, and a fourth that is scored alone."""
    monkeypatch.setattr(frequencies, "PIECE", 7)
    training = rng.choice(3, 50, p=[0.6, 0.3, 0.1]).astype(np.uint8)
    scored = rng.integers(4, size=20).astype(np.uint8)
    loss = 0.0
    for symbol in scored.tolist():
        loss -= math.log((training.tolist().count(symbol) + 1) / 54) / 20
    assert unigram_loss(training, scored, 4) == pytest.approx(loss, rel=1e-12)
    assert 3 in scored and math.isfinite(loss)
