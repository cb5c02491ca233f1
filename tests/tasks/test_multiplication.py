"""The multiplication problem, held against the paper's words."""

from collections import Counter

import numpy as np
import pytest

from lstm_jax.tasks.drawn import Stopping
from tests.tasks.drawn import assert_as_often, drawn, evenly, scored, sequence_of, task_of

T = 40


def test_every_sequence_is_one_of_the_papers():
    batch = drawn(task_of("multiplication", length=T), 4000)
    lengths, tenths, at_first = Counter(), Counter(), 0
    for lane in range(4000):
        inputs, targets = sequence_of(batch, lane)
        values, markers = inputs[:, 0], inputs[:, 1].tolist()
        marked = [t for t, marker in enumerate(markers) if marker == 1]
        one, other = marked
        # One of the first ten, and one of the first T/2 - 1 of the rest.
        assert one < 10 and other < T // 2
        others = [-1 if t in (0, len(inputs) - 1) else 0 for t in range(len(inputs))]
        assert [1 if t in marked else m for t, m in enumerate(others)] == markers
        assert values.min() >= 0 and values.max() <= 1 and (0 not in marked or values[0] == 1)
        ((at, target),) = targets.items()
        assert at == len(inputs) - 1
        assert target == pytest.approx([float(values[one]) * float(values[other])], abs=1e-6)
        lengths[len(inputs)] += 1
        tenths[int(10 * values[25])] += 1
        at_first += 0 in marked
    assert_as_often(lengths, evenly(range(T, T + T // 10 + 1)), 4000)
    assert_as_often(tenths, evenly(range(10)), 4000)
    # As the first, or as the second of what is left.
    assert_as_often({True: at_first}, {True: 1 / 10 + 9 / 10 / (T // 2 - 1)}, 4000)


def test_a_score_by_hand():
    task = task_of("multiplication", length=T)
    errors, wrong = scored(task, drawn(task, 4), np.array([0.039, -0.039, 0.041, -0.041])[:, None])
    np.testing.assert_allclose(errors, [0.039, 0.039, 0.041, 0.041], rtol=1e-4)
    assert wrong == [False, False, True, True]
    assert task.stopping == Stopping(2000, 13)
