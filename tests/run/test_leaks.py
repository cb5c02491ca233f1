"""No character's loss depends on what comes after it: the future shuffled, the past keeps its bits.

Dynamic evaluation's own checks are in test_dynamic.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import EvaluateConfig, ModelConfig
from lstm_jax.model import init_carry, init_model
from lstm_jax.scoring.protocols import score, stream_segments, window_segments
from tests import oracle

V, N, MAX_TIME, WINDOW = 6, 83, 10, 15
CELLS = ["lstm", "mogrifier", "layer_norm", "coupled"]
# The first, around a segment's and a window's end, amid, and where little is left.
PLACES = [1, 9, 10, 11, 14, 15, 16, 20, 41, 70]


@pytest.fixture
def ids(rng):
    return rng.integers(V, size=N).astype(np.uint8)


def model(cell, rng):
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=5, num_layers=2, cell=cell), V)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)


def stream(params, ids):
    return np.concatenate([*score(params, stream_segments(ids, EvaluateConfig(lanes=1), MAX_TIME))])


def windows(params, ids):
    """The losses in the order of the text; windows are read side by side."""
    segments = window_segments(ids, EvaluateConfig(window_length=WINDOW), MAX_TIME)
    found = np.concatenate([*score(params, segments)])
    starts = range(0, N - 1, WINDOW)
    places = [start + t for t in range(WINDOW) for start in starts if start + t < N - 1]
    losses = np.full(N - 1, np.nan)
    losses[places] = found
    return losses


def read_plainly(params, ids, window=N):
    """The loss of each character but the first, in the order of the text, by the oracle."""
    losses = []
    for start in range(0, N - 1, window):
        piece = ids[start : start + window + 1]
        logits, _ = oracle.language_model(params, init_carry(params, 1), piece[:-1, None])
        losses += [
            oracle.cross_entropy(logits[t : t + 1], piece[t + 1 : t + 2, None])[0]
            for t in range(len(piece) - 1)
        ]
    return np.array(losses)


@pytest.mark.parametrize("protocol, window", [(stream, N), (windows, WINDOW)])
def test_each_characters_loss_in_the_order_of_the_text(protocol, window, ids, x64, rng):
    params = model("lstm", rng)
    found, wanted = protocol(params, ids), read_plainly(params, ids, window)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert abs(found[1:] - wanted[:-1]).max() > 0.1
    assert abs(found - read_plainly(params, ids, 20)).max() > 1e-3


@pytest.mark.parametrize("protocol", [stream, windows])
@pytest.mark.parametrize("cell", CELLS)
def test_shuffling_the_future_changes_no_earlier_loss(cell, protocol, ids, x64, rng):
    params = model(cell, rng)
    before = protocol(params, ids)
    assert np.isfinite(before).all()
    for n in PLACES:
        shuffled = np.concatenate([ids[: n + 1], rng.permutation(ids[n + 1 :])])
        after = protocol(params, shuffled)
        np.testing.assert_array_equal(after[:n], before[:n])
        first = np.argmax(shuffled != ids)
        assert n < first < N - 1
        # Not a loss too early, and not one too late: the first that differs is its own.
        assert after[first - 1] != before[first - 1]
        assert (after[n:] != before[n:]).sum() > 1


@pytest.mark.parametrize("cell", CELLS)
def test_the_past_reaches_on_in_the_stream_and_to_the_end_of_its_window(cell, ids, x64, rng):
    """Another first character changes losses beyond a segment's end, and none beyond a window's."""
    params = model(cell, rng)
    other = np.concatenate([[(ids[0] + 1) % V], ids[1:]]).astype(np.uint8)
    changed = stream(params, other) != stream(params, ids)
    assert changed[:MAX_TIME].any() and changed[MAX_TIME : 2 * MAX_TIME].any()
    changed = windows(params, other) != windows(params, ids)
    assert changed[MAX_TIME:WINDOW].any() and not changed[WINDOW:].any()
