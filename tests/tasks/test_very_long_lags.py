"""Very long lags, held against the paper's words."""

from collections import Counter

import numpy as np

from lstm_jax.tasks.drawn import Stopping
from lstm_jax.tasks.very_long_lags import draw_more
from tests.tasks.drawn import assert_as_often, drawn, evenly, scored, sequence_of, symbols, task_of

N, Q, P = 2000, 6, 4
TRIGGER, BEGIN, X, Y = range(P, P + 4)  # behind the distractors, which are 0 to 3


def test_every_sequence_is_one_of_the_papers():
    batch = drawn(task_of("very_long_lags", least_distractors=Q, kinds=P), N)
    seconds, distractors, places = Counter(), Counter(), Counter()
    for lane in range(N):
        inputs, targets = sequence_of(batch, lane)
        begin, second, *middle, trigger = symbols(inputs)
        assert (begin, trigger) == (BEGIN, TRIGGER) and len(middle) >= Q
        ((at, target),) = targets.items()
        assert at == len(inputs) - 1 and [X, Y][symbols([target])[0]] == second
        seconds[second] += 1
        distractors.update(middle)
        places[middle[Q - 1]] += 1
    assert_as_often(seconds, evenly([X, Y]), N)
    assert_as_often(places, evenly(range(P)), N)
    assert_as_often(distractors, evenly(range(P)), distractors.total())


def test_ids_say_the_same_as_vectors():
    task, other = (task_of("very_long_lags", least_distractors=Q, kinds=P) for _ in range(2))
    other.vectors = False
    vectors, ids = drawn(task, 9), drawn(other, 9)
    assert ids.inputs.dtype == np.int32
    wanted = np.eye(P + 4)[ids.inputs] * ids.live[..., None]
    np.testing.assert_array_equal(vectors.inputs, wanted)
    for name in ("targets", "mask", "live"):
        np.testing.assert_array_equal(getattr(vectors, name), getattr(ids, name))


def test_each_further_symbol_is_the_trigger_with_probability_one_tenth():
    count = 200_000
    more = Counter(draw_more(np.random.default_rng(0), count).tolist())
    assert_as_often(more, {k: 0.1 * 0.9**k for k in range(101)}, count)
    assert sum(more[k] for k in range(40, 101)) > 0.9 * count * 0.9**40


def test_a_score_by_hand():
    task = task_of("very_long_lags", least_distractors=Q, kinds=P)
    errors, wrong = scored(task, drawn(task, 3), [[0.19, -0.19], [0, 0.21], [-0.21, 0.1]])
    np.testing.assert_allclose(errors, [0.19, 0.21, 0.21], rtol=1e-4)
    assert wrong == [False, True, True]
    assert task.stopping == Stopping(window=10_000, wrong_below=1)
