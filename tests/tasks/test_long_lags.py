"""Long lags, held against the paper's words."""

from collections import Counter

import numpy as np
import pytest

from lstm_jax.tasks.drawn import Stopping
from tests.tasks.drawn import assert_as_often, drawn, evenly, scored, sequence_of, symbols, task_of

N, P = 2000, 5
X, Y = P - 1, P  # behind a_1 to a_4, which are 0 to 3


@pytest.mark.parametrize("middle", ["ordered", "random"])
def test_every_sequence_is_one_of_the_papers(middle):
    batch = drawn(task_of("long_lags", lag=P, middle=middle), N)
    assert batch.inputs.shape == batch.targets.shape == (P, N, P + 1)
    ends, middles = Counter(), [Counter() for _ in range(P - 1)]
    for lane in range(N):
        inputs, targets = sequence_of(batch, lane)
        read = symbols(inputs)
        assert symbols([targets[t] for t in range(P)]) == [*read[1:], read[0]]
        ends[read[0]] += 1
        for counter, each in zip(middles, read[1:], strict=True):
            counter[each] += 1
    assert_as_often(ends, evenly([X, Y]), N)
    for t, counter in enumerate(middles):
        assert_as_often(counter, evenly([t] if middle == "ordered" else range(P - 1)), N)


def test_the_last_target_alone_may_count():
    task = task_of("long_lags", lag=P, middle="random")
    assert drawn(task, 2).mask.all()
    task.last_only = True
    np.testing.assert_array_equal(drawn(task, 2).mask, np.arange(P)[:, None] == [P - 1, P - 1])


def test_a_sample_shows_x_and_y_alone():
    assert task_of("long_lags", lag=P).show(np.arange(P + 1) / 8) == "0.500 0.625"


@pytest.mark.parametrize("middle", ["ordered", "random"])
def test_a_score_by_hand(middle):
    """What is wrong before the end counts in 2a alone."""
    task = task_of("long_lags", lag=P, middle=middle)
    off = np.zeros((P, 4, P + 1))
    off[2, 1, 3], off[-1, 2, 0], off[-1, 3, 5], off[-1, :, 2] = 0.9, -0.26, 0.26, 0.24
    errors, wrong = scored(task, drawn(task, 4), off)
    early = 0.9 if middle == "ordered" else 0.24
    np.testing.assert_allclose(errors, [0.24, early, 0.26, 0.26], rtol=1e-4)
    assert wrong == [False, middle == "ordered", True, True]
    assert task.stopping == Stopping(window=10_000, wrong_below=1)
