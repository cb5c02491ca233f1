"""Streams of the embedded Reber grammar, walked symbol by symbol."""

import jax
import numpy as np

from lstm_jax.model import apply, init_carry, init_model
from lstm_jax.model_config import ModelConfig
from lstm_jax.tasks import continual_reber
from lstm_jax.tasks.continual_reber import ContinualReberTask, draw_stream, wrong_steps
from tests.tasks.test_embedded_reber import STRING, SYMBOLS, many_hot, may_follow


def symbols_of(inputs_TxBx7, lane):
    assert (inputs_TxBx7[:, lane].sum(-1) == 1).all()
    return "".join(SYMBOLS[n] for n in inputs_TxBx7[:, lane].argmax(-1))


def check_stream(symbols, targets_Tx7):
    """It is string upon string, from the beginning of one; and what may come next is said."""
    place = 0
    while found := STRING.match(symbols, place):
        place = found.end()
    allowed = may_follow(symbols)  # fails where a symbol may not stand
    assert len(symbols) - place < 42 and (targets_Tx7 == many_hot(allowed)).all()


def test_streams_go_on_from_step_to_step_until_they_begin_again():
    """Which any step shows by itself."""
    task = ContinualReberTask(30, 10, sequence_length=7, batch_size=5, seed=1)
    batches = [task.batch_at(step) for step in range(75)]
    again = ContinualReberTask(30, 10, sequence_length=7, batch_size=5, seed=1)
    jax.tree.map(np.testing.assert_array_equal, again.batch_at(74), batches[74])
    inputs, targets, _, resets, _ = (
        None if values[0] is None else np.concatenate(values)
        for values in zip(*batches, strict=True)
    )
    for lane in range(5):
        begins = np.flatnonzero(resets[:, lane])
        assert (np.diff(begins) == 30 * 7).all() and begins[0] % 7 == 0 and len(begins) >= 2
        ends = [*begins[begins > 0], len(inputs)]
        for first, last in zip([0, *ends], ends, strict=False):
            check_stream(symbols_of(inputs[first:last], lane), targets[first:last, lane])
    assert resets.sum(axis=1).max() == 1  # not all lanes at once
    assert symbols_of(inputs[:50], 0) != symbols_of(inputs[:50], 1)


def test_a_stream_may_be_endless():
    task = ContinualReberTask(10**6, 10, sequence_length=3, batch_size=4, seed=0)
    batches = [task.batch_at(step) for step in range(80)]
    inputs, targets = (np.concatenate([batch[n] for batch in batches]) for n in (0, 1))
    for lane in range(4):
        check_stream(symbols_of(inputs, lane), targets[:, lane])
    assert not any(batch.resets.any() for batch in batches[1:]) and task.carries


def test_streams_to_test_with_are_pieces_of_long_ones(monkeypatch):
    monkeypatch.setattr(continual_reber, "AT_A_TIME", 70)
    pieces = [*ContinualReberTask(20, 200, 3, 4, 0).test_pieces()]
    assert [len(piece.inputs) for piece in pieces] == [70, 70, 60]
    others = draw_stream(np.random.default_rng(0), 10, 200)
    for inputs, targets in (
        (np.concatenate([p.inputs for p in pieces]), np.concatenate([p.targets for p in pieces])),
        (others.inputs, others.targets),
    ):
        streams = [symbols_of(inputs, lane) for lane in range(10)]
        for lane, stream in enumerate(streams):
            check_stream(stream, targets[:, lane])
        assert len({*streams}) == 10


def test_a_step_is_wrong_where_an_output_is_off_by_0_49():
    targets = np.array([0, 1, 1, 0, 0, 0, 0], np.float32)
    for off, wrong in ((0.48, False), (0.5, True), (-0.5, True)):
        predictions = np.abs(targets - 0.2)
        predictions[2] = 1 - off
        assert bool(wrong_steps(predictions, targets)) == wrong


def test_scores_are_those_of_whole_streams(monkeypatch):
    monkeypatch.setattr(continual_reber, "AT_A_TIME", 15)
    task = ContinualReberTask(20, 45, 3, 4, 0)
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=3), task.interface)
    pieces = [*task.test_pieces()]
    inputs, targets = (np.concatenate([p[n] for p in pieces]).astype(np.float64) for n in (0, 1))
    outputs, _ = jax.jit(apply)(params, init_carry(params, 10), inputs.astype(np.float32))
    p = 1 / (1 + np.exp(-np.asarray(outputs, np.float64)))
    losses = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(-1)
    furthest = np.abs(p - targets).max(-1)
    bar = float(np.quantile(furthest, 0.97))
    monkeypatch.setattr(continual_reber, "TOLERANCE", bar)
    jax.clear_caches()  # the bar is part of the program
    found = task.evaluate(params, None)
    before = []
    for lane in range(10):
        right = 0
        while right < 45 and furthest[right, lane] < bar:
            right += 1
        before.append(right)
    assert list(found) == ["loss", "wrong", "before_wrong"] and len({*before}) > 2
    np.testing.assert_allclose(found["loss"], losses.mean(), rtol=1e-5)
    assert found["wrong"] == np.mean(furthest >= bar) and found["before_wrong"] == np.mean(before)
    symbols, marks = task.sample(params, None).split("\n")
    assert symbols == symbols_of(inputs[:15], 0)
    assert [n for n, mark in enumerate(marks) if mark == "^"] == [
        *np.flatnonzero(furthest[:15, 0] >= bar)
    ]


def test_its_reference_is_the_loss_of_the_best_constant():
    task = ContinualReberTask(20, 300, 3, 4, 0)
    (piece,) = task.test_pieces()
    best = 0.0
    for n in range(7):
        said = np.linspace(0.01, 0.99, 981)
        share = piece.targets[..., n].mean(dtype=np.float64)
        best += np.min(-share * np.log(said) - (1 - share) * np.log(1 - said))
    np.testing.assert_allclose(task.references()["always saying the mean"], best, rtol=1e-4)
