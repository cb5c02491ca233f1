"""A split in documents: each of them alone, from the zero state, by the oracle; its targets are its
own symbols but the first, and the one that follows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import EvaluateConfig, ModelConfig
from lstm_jax.data.batches import Documents
from lstm_jax.model import init_carry, init_model
from lstm_jax.scoring.dynamic import DynamicConfig, evaluate_dynamic
from lstm_jax.scoring.ensemble import evaluate_ensemble
from lstm_jax.scoring.monte_carlo import evaluate_monte_carlo
from lstm_jax.scoring.protocols import evaluate
from tests import oracle

V, WINDOW = 4, 5
TEXT = "0112001230120310112010031203102202312"  # documents end with 12
STARTS = [0, *(n for n in range(len(TEXT)) if TEXT[:n].endswith("12"))]
CONFIG = EvaluateConfig(window_length=WINDOW, lanes=1)


def chances(params, starts):
    """The probability of every target, read from the zero state at each start."""
    ids, found = np.array([*map(int, TEXT)]), []
    for begin, end in zip(starts, [*starts[1:], len(ids) - 1], strict=True):
        piece = ids[begin : end + 1]
        logits, _ = oracle.language_model(params, init_carry(params, 1), piece[:-1, None])
        powers = np.exp(logits[:, 0])
        found += [*(powers / powers.sum(axis=1, keepdims=True))[np.arange(end - begin), piece[1:]]]
    return np.array(found)


def test_each_is_scored_alone_by_every_kind_of_scoring(x64, rng):
    def model():
        params = init_model(jax.random.key(0), ModelConfig(hidden_size=3), V)
        return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

    documents = Documents(np.array([*map(int, TEXT)], np.uint8), np.array([1, 2], np.uint8))
    assert len(STARTS) > 5
    models = [model(), model()]
    cut = sorted({*STARTS, *range(0, len(TEXT) - 1, WINDOW)})
    stream, windows = ([chances(params, at) for params in models] for at in (STARTS, cut))
    wanted = -np.log(stream[0]).mean(), -np.log(windows[0]).mean()
    whole = -np.log(chances(models[0], [0])).mean()
    assert abs(wanted[0] - whole) > 1e-2 and abs(wanted[0] - wanted[1]) > 1e-3

    assert evaluate(models[0], documents, CONFIG) == pytest.approx(wanted, abs=1e-12)
    lanes = EvaluateConfig(window_length=WINDOW, lanes=3, warmup=len(TEXT))
    assert evaluate(models[0], documents, lanes).stream == pytest.approx(wanted[0], abs=1e-12)
    drawn = evaluate_monte_carlo(models[0], documents, ModelConfig(hidden_size=3), CONFIG, 2)
    assert drawn == pytest.approx(wanted, abs=1e-12)
    both = [-np.log(np.mean(each, axis=0)).mean() for each in (stream, windows)]
    found = evaluate_ensemble([(params, None) for params in models], documents, CONFIG)
    assert found == pytest.approx(both, abs=1e-12)
    still = DynamicConfig("sgd", 4, rate=0.0, decay=0.0)
    found = evaluate_dynamic(models[0], documents, documents, still)
    assert found == pytest.approx(wanted[0], abs=1e-12)
