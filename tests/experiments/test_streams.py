"""Trials on streams: against one trial in loops, symbol by symbol; alone, stopped and resumed."""

import jax
import numpy as np
import pytest

from experiments.support import streams
from experiments.support.streams import Algorithm, Streams, draw_choices
from lstm_jax.errors import UserError
from lstm_jax.tasks import continual_reber
from lstm_jax.tasks.grammar import EMBEDDED, SYMBOLS
from tests.experiments.blocks_in_loops import Network

LENGTH, TESTS, TOLERANCE, MOST, TRIALS = 14, 2, 0.64, 12, 5
ALGORITHMS = [
    Algorithm(decay=0.9),
    Algorithm(held=0.9, resets=True),
    pytest.param(Algorithm(), marks=pytest.mark.long),
    pytest.param(Algorithm(held=1.0), marks=pytest.mark.long),
]


@pytest.fixture
def short(monkeypatch):
    """Streams of fourteen symbols, and outputs that may be further off, so that some are right."""
    monkeypatch.setattr(streams, "STREAM", LENGTH)
    monkeypatch.setattr(streams, "TEST_STREAMS", TESTS)
    monkeypatch.setattr(streams, "AT_ONCE", 70)
    monkeypatch.setattr(streams, "TESTED_AT_ONCE", LENGTH // 2)
    monkeypatch.setattr(continual_reber, "TOLERANCE", TOLERANCE)
    jax.clear_caches()
    yield
    jax.clear_caches()


def walk(choices):
    """Symbols from the beginning of a string, and which may come next; `begins`: a string."""
    place = 0
    for choice in choices:
        begins = place == 0
        arcs = EMBEDDED[place]
        symbol, place = arcs[choice if len(arcs) > 1 else 0]
        may_come = {letter for letter, _ in EMBEDDED[place]}
        x = np.array([float(letter == symbol) for letter in SYMBOLS])
        yield begins, x, np.array([float(letter in may_come) for letter in SYMBOLS])


def stream(network, algorithm, choices, learns):
    """Reads one stream to its end: the right steps, and whether it ended with a wrong one."""
    network.begin()
    rate, right = 0.5, 0
    for begins, x, target in walk(choices):
        if begins and algorithm.resets:
            network.begin()
        y = network.read(x)
        if learns:
            network.learn(y, target, rate)
        if max(abs(y - target)) >= TOLERANCE:
            return right, True
        right, rate = right + 1, rate * algorithm.decay
        if right == LENGTH:
            return right, False
    raise StopIteration


def trial(network, algorithm, choices, most):
    """Training streams and tests in turns: how many streams and symbols, the longest, solved."""
    choices = iter(choices)
    number, symbols, longest = 0, 0, 0
    while number < most:
        right, wrong = stream(network, algorithm, choices, learns=True)
        number, symbols, longest = number + 1, symbols + right + wrong, max(longest, right)
        if not any(stream(network, algorithm, choices, learns=False)[1] for _ in range(TESTS)):
            return number, symbols, longest, True
    return number, symbols, longest, False


@pytest.mark.usefixtures("x64", "short")
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
def test_each_trial_is_one_in_loops(algorithm):
    trials = Streams(algorithm, TRIALS, seed=3)
    before = jax.device_get(trials.lanes.weights)
    for _ in trials.run(MOST):
        pass
    lanes = jax.device_get(trials.lanes)
    drawn = [
        np.asarray(draw_choices(trials.key, np.arange(TRIALS), np.asarray(n), 70))
        for n in range(trials.dispatches)
    ]
    choices_TxL, ends, means = np.concatenate(drawn), [], []
    key = jax.random.fold_in(trials.key, streams.LAST_TEST)
    test_TxB = np.concatenate(
        [draw_choices(key, np.arange(TESTS), np.asarray(n), LENGTH // 2) for n in (0, 1)]
    )
    for lane in range(TRIALS):
        network = Network((leaf[..., lane] for leaf in before), algorithm.held)
        ends.append(trial(network, algorithm, choices_TxL[:, lane].tolist(), MOST))
        for got, want in zip(lanes.weights, network.weights, strict=True):
            np.testing.assert_allclose(got[..., lane], want, rtol=1e-9)
        # And what the final weights come to on streams to test with.
        rights = [
            stream(network, algorithm, choices_T, learns=False)[0]
            for choices_T in test_TxB.T.tolist()
        ]
        means.append(np.mean(rights))
    assert trials.test(np.arange(TRIALS)).tolist() == means
    found = zip(lanes.streams, trials.symbols, lanes.longest, lanes.solved, strict=True)
    assert [tuple(map(int, one)) for one in found] == [tuple(map(int, one)) for one in ends]
    assert max(longest for _, _, longest, _ in ends) >= 12  # and into another string
    if algorithm.decay < 1:
        assert {solved for *_, solved in ends} == {False, True}


@pytest.mark.usefixtures("short")
def test_a_trial_is_the_same_among_others_and_where_it_was_stopped(tmp_path):
    def ended(trials):
        for _ in trials.run(MOST):
            pass
        return jax.tree.map(lambda leaf: np.asarray(leaf)[..., :2], trials.lanes)

    alone, others = Streams(Algorithm(), 2, 0), Streams(Algorithm(), 7, 0)
    next(others.run(MOST))
    others.save(tmp_path / "state.npz")
    resumed = Streams(Algorithm(), 7, 0)
    resumed.load(tmp_path / "state.npz")
    assert resumed.dispatches == 1 and (resumed.symbols == others.symbols).all()
    wanted = ended(alone)
    jax.tree.map(np.testing.assert_array_equal, ended(resumed), wanted)
    with pytest.raises(ValueError, match="of other trials"):
        alone.load(tmp_path / "state.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "state.npz").read_bytes()[:2000])
    with pytest.raises(UserError, match="is damaged"):
        alone.load(tmp_path / "cut.npz")
