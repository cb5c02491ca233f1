"""Both protocols against a plain reading of the split with the NumPy oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import EvaluateConfig, ModelConfig
from lstm_jax.model import init_carry, init_model
from lstm_jax.scoring.protocols import evaluate, mean_loss, score, stream_segments, window_segments
from tests import oracle

V, N = 6, 83


@pytest.fixture
def model_and_ids(x64, rng):
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=5, num_layers=2), V)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    return params, rng.integers(V, size=N).astype(np.uint8)


def read_plainly(params, ids, window=None):
    """Mean nats over all characters but the first, read one after another by the oracle; with a
    window, from the zero state at each of its starts."""
    total = 0.0
    for start in range(0, N - 1, window or N):
        piece = ids[start : start + (window or N) + 1]
        carry = init_carry(params, 1)
        logits, _ = oracle.language_model(params, carry, piece[:-1, None])
        loss, count = oracle.cross_entropy(logits, piece[1:, None])
        total += loss * count
    return total / (N - 1)


@pytest.mark.parametrize("window", [1, 10, 82, 1000])
def test_windows_start_from_the_zero_state_and_count_everything(window, model_and_ids):
    params, ids = model_and_ids
    found = mean_loss(params, window_segments(ids, EvaluateConfig(window_length=window)))
    assert found == pytest.approx(read_plainly(params, ids, window), abs=1e-12)


def test_stream_with_one_lane_is_the_strict_protocol(model_and_ids):
    params, ids = model_and_ids
    found = mean_loss(params, stream_segments(ids, EvaluateConfig(lanes=1)))
    assert found == pytest.approx(read_plainly(params, ids), abs=1e-12)


def test_stream_in_lanes_is_the_same_after_enough_warm_up(model_and_ids):
    params, ids = model_and_ids
    strict = read_plainly(params, ids)
    whole = EvaluateConfig(lanes=7, warmup=N)
    assert mean_loss(params, stream_segments(ids, whole)) == pytest.approx(strict, abs=1e-12)
    cold = EvaluateConfig(lanes=7, warmup=0)
    assert abs(mean_loss(params, stream_segments(ids, cold)) - strict) > 1e-4


def test_a_narrow_models_losses_are_float32(model_and_ids):
    params, ids = model_and_ids
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    losses = np.concatenate([*score(low, stream_segments(ids, EvaluateConfig()))])
    assert losses.dtype == np.float32


def test_evaluate_names_the_protocols(model_and_ids):
    params, ids = model_and_ids
    found = evaluate(params, ids, EvaluateConfig(window_length=10, lanes=1))
    assert found.stream == pytest.approx(read_plainly(params, ids), abs=1e-12)
    assert found.windows == pytest.approx(read_plainly(params, ids, 10), abs=1e-12)
