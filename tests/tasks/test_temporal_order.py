"""Temporal order, held against the paper's words."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from lstm_jax.tasks.drawn import Stopping
from tests.tasks.drawn import assert_as_often, drawn, evenly, scored, sequence_of, symbols, task_of

N = 3000
# The paper's names of the classes, in its order.
RULES = {
    2: dict(zip(["XX", "XY", "YX", "YY"], "QRSU", strict=True)),
    3: dict(zip(map("".join, itertools.product("XY", repeat=3)), "QRSUVABC", strict=True)),
}
WINDOWS = {2: [(10, 20), (50, 60)], 3: [(10, 20), (33, 43), (66, 76)]}


@pytest.mark.parametrize("relevant", RULES)
def test_every_sequence_is_one_of_the_papers(relevant):
    batch = drawn(task_of("temporal_order", relevant=relevant), N)
    classes, lengths, fillers = Counter(), Counter(), Counter()
    positions = [Counter() for _ in range(relevant)]
    for lane in range(N):
        inputs, targets = sequence_of(batch, lane)
        text = "".join("EBabcdXY"[n] for n in symbols(inputs))
        assert re.fullmatch("E[abcdXY]+B", text)
        found = [match.start() + 1 for match in re.finditer("[XY]", text)]
        assert len(found) == relevant
        for at, counter in zip(found, positions, strict=True):
            counter[at] += 1
        order = "".join(text[at - 1] for at in found)
        ((at, target),) = targets.items()
        name = [*RULES[relevant].values()][symbols([target])[0]]
        assert at == len(text) - 1 and name == RULES[relevant][order]
        lengths[len(text)] += 1
        classes[name] += 1
        fillers[text[30]] += 1  # where there is no X or Y
    assert_as_often(lengths, evenly(range(100, 111)), N)
    assert_as_often(classes, evenly(RULES[relevant].values()), N)
    assert_as_often(fillers, evenly("abcd"), N)
    for (first, last), counter in zip(WINDOWS[relevant], positions, strict=True):
        assert_as_often(counter, evenly(range(first, last + 1)), N)


def test_a_score_by_hand():
    task = task_of("temporal_order")
    errors, wrong = scored(
        task, drawn(task, 3), [[0.29, -0.29, 0.29, 0], [0.31, 0, 0, 0], [0, 0, 0, -0.31]]
    )
    np.testing.assert_allclose(errors, [0.87 / 4, 0.31 / 4, 0.31 / 4], rtol=1e-4)
    assert wrong == [False, True, True]
    assert task.stopping == Stopping(window=2000, wrong_below=1, error_below=0.1)
