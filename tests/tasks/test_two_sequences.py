"""The two-sequence problem, held against the paper's words."""

from collections import Counter

import numpy as np
import pytest

from lstm_jax.tasks.drawn import Stopping
from tests.tasks.drawn import assert_as_often, drawn, evenly, scored, sequence_of, task_of

N, T = 4000, 20
STOPPING = {
    "rest": Stopping(0, 1, 0.01),
    "signal": Stopping(0, 6, 0.04),
    "targets": Stopping(0, 1, 0.015),
}
CLASSES = {"rest": (0, 1), "signal": (0, 1), "targets": (0.8, 0.2)}  # targets of the second, first


def assert_gaussian(values, mean, variance):
    """Within five deviations, also of the third and the fourth moment."""
    standard = (np.asarray(values, float) - mean) / variance**0.5
    moments = [(standard**power).mean() for power in (1, 2, 3, 4)]
    deviations = np.sqrt(np.array([1, 2, 15, 96]) / len(standard))
    assert (np.abs(np.array(moments) - [0, 1, 0, 3]) < 5 * deviations).all(), moments


@pytest.mark.parametrize("noise_on", STOPPING)
def test_every_sequence_is_one_of_the_papers(noise_on):
    task = task_of("two_sequences", length=T, informative=2, noise_on=noise_on)
    batch, lengths, kinds = drawn(task, N), Counter(), Counter()
    signals, rest, of_targets = [], [], []
    for lane in range(N):
        inputs, targets = sequence_of(batch, lane)
        ((at, target),) = targets.items()
        # Noise on the signal may hide the class, and noise on the targets does.
        first = int(target[0] == 1 if noise_on == "signal" else inputs[0, 0] > 0)
        assert at == len(inputs) - 1
        signals += [value - (1 if first else -1) for value in inputs[:2, 0]]
        rest += inputs[2:, 0].tolist()
        of_targets.append(target[0] - CLASSES[noise_on][first])
        lengths[len(inputs)] += 1
        kinds[first] += 1
    assert_as_often(lengths, evenly(range(T, T + T // 10 + 1)), N)
    assert_as_often(kinds, evenly([0, 1]), N)
    assert_gaussian(rest, 0, 0.2)
    for noisy, values, variance in (("signal", signals, 0.2), ("targets", of_targets, 0.1)):
        if noise_on == noisy:
            assert_gaussian(values, 0, variance)
        else:
            assert np.abs(values).max() < 1e-6


@pytest.mark.parametrize("noise_on", STOPPING)
def test_what_is_scored_has_targets_without_noise(noise_on):
    part, found = task_of("two_sequences", noise_on=noise_on).held_out_part(0), Counter()
    for lane in range(256):
        inputs, targets = sequence_of(part, lane)
        first = int(inputs[:3].sum() > 0)  # also with noise on the signal, but for few
        found[first, *np.concatenate([*targets.values()]).tolist()] += 1
    wanted = [(first, float(np.float32(CLASSES[noise_on][first]))) for first in (0, 1)]
    assert sum(found[pair] for pair in wanted) > 250
    assert noise_on == "signal" or {*found} == {*wanted}


@pytest.mark.parametrize("noise_on", STOPPING)
def test_a_score_by_hand(noise_on):
    task = task_of("two_sequences", noise_on=noise_on)
    wrong_from = 0.1 if noise_on == "targets" else 0.2
    off = np.array([wrong_from - 0.001, 0.001 - wrong_from, wrong_from + 0.001, -1])
    errors, wrong = scored(task, drawn(task, 4), off[:, None])
    np.testing.assert_allclose(errors, np.abs(off), rtol=1e-4)
    assert wrong == [False, False, True, True]
    assert task.stopping == STOPPING[noise_on]
