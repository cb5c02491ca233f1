"""The adding problem, held against the paper's words; and a run on it, resumed."""

import itertools
from collections import Counter

import jax
import numpy as np
import pytest

from lstm_jax.config import Config
from lstm_jax.model import apply, init_carry, init_model
from lstm_jax.run.loop import Run
from lstm_jax.run.metrics import read_metrics
from lstm_jax.tasks.adding import AddingTask
from tests.run.test_loop import Stop, stop_after
from tests.small import assert_same_run

T = 40
CONFIG = Config().replace(
    {
        "data.task": "adding",
        "data.length": 20,
        "data.held_out": 300,
        "model.hidden_size": 4,
        "train.batch_size": 3,
        "train.steps": 6,
        "train.steps_per_dispatch": 2,
        "train.validate_every": 4,
    }
)


@pytest.fixture(scope="module")
def many():
    return AddingTask(T, 1, 1, 0).draw(np.random.default_rng(0), 20_000)


def of_the_paper():
    """Every choice of the two pairs to mark, by the paper's words, with its probability."""
    for first in range(10):
        unmarked = [pair for pair in range(T) if pair != first]
        for second in unmarked[: T // 2 - 1]:
            yield (first, second), 1 / 10 / (T // 2 - 1)


def test_every_sequence_is_one_of_the_papers(many):
    allowed = {frozenset(marks) for marks, _ in of_the_paper()}
    for lane in range(2000):
        pairs = many.inputs[many.live[:, lane], lane]
        values, markers = pairs[:, 0], list(pairs[:, 1])
        assert T <= len(pairs) <= T + T // 10 and (np.abs(values) <= 1).all()
        marked = [t for t, marker in enumerate(markers) if marker == 1]
        assert frozenset(marked) in allowed
        others = [-1 if t in (0, len(pairs) - 1) else 0 for t in range(len(pairs))]
        assert [1 if t in marked else other for t, other in enumerate(others)] == markers
        assert 0 not in marked or values[0] == 0
        target = 0.5 + sum(float(values[t]) for t in marked) / 4.0
        (at,) = np.flatnonzero(many.mask[:, lane])
        assert at == len(pairs) - 1
        assert many.targets[at, lane, 0] == pytest.approx(target, abs=1e-6)
        assert not many.inputs[at + 1 :, lane].any() and many.live[: at + 1, lane].all()
    assert many.resets[0].all() and not many.resets[1:].any()
    assert many.inputs.shape == (T + T // 10, 20_000, 2) and many.targets.shape[2:] == (1,)


def test_what_is_random_is_as_often_as_the_paper_has_it(many):
    """Within five deviations, for as many sequences."""
    N = many.inputs.shape[1]

    def check(found, wanted):
        assert set(found) <= set(wanted)
        for kind, p in wanted.items():
            assert abs(found[kind] / N - p) < 5 * np.sqrt(p * (1 - p) / N), kind

    lengths = range(T, T + T // 10 + 1)
    check(Counter(many.live.sum(axis=0).tolist()), dict.fromkeys(lengths, 1 / len(lengths)))
    marked = Counter()
    for marks, p in of_the_paper():
        marked.update(dict.fromkeys(marks, p))
    check(Counter(np.nonzero(many.inputs[..., 1] == 1)[0].tolist()), marked)
    tenths = np.floor(5 * (1 + many.inputs[7, :, 0])).astype(int)
    check(Counter(tenths.tolist()), dict.fromkeys(range(10), 0.1))


def test_batches_follow_seed_and_step_and_are_never_those_held_out():
    tasks = [AddingTask(20, 10, 256, seed) for seed in (0, 0, 1, 1997)]
    first, same, other, _ = (task.batch_at(3) for task in tasks)
    jax.tree.map(np.testing.assert_array_equal, first, same)
    drawn = [first, other, tasks[0].batch_at(4), tasks[3].batch_at(0), tasks[3].batch_at(2**31 - 1)]
    held_out = [task.held_out_part(0) for task in tasks]
    jax.tree.map(np.testing.assert_array_equal, held_out[0], held_out[2])
    drawn += [held_out[0], tasks[0].held_out_part(1)]
    for one, another in itertools.combinations(drawn, 2):
        assert not np.array_equal(one.inputs, another.inputs)


def test_its_reference_is_the_loss_of_the_best_constant():
    """No other constant has a lower one; and a variance of some 1/24, by the paper's values."""
    task = AddingTask(20, 300, 3, 0)
    targets = np.concatenate([task.held_out_part(n).targets.sum(axis=(0, 2)) for n in (0, 1)])[:300]
    losses = [np.mean((targets - constant) ** 2) for constant in np.linspace(0.3, 0.7, 4001)]
    ((name, found),) = task.references().items()
    assert name == "always saying the mean" and found == pytest.approx(min(losses), rel=1e-5)
    assert found == pytest.approx(1 / 24, rel=0.15)


def test_a_score_is_that_of_each_sequence_alone():
    """Read by itself, without padding; and where the padding is filled with other values."""
    task = AddingTask(20, 300, 3, 0)
    params = init_model(jax.random.key(0), CONFIG.model, task.interface)
    params = params._replace(readout=params.readout._replace(b=params.readout.b + 0.5))
    read = jax.jit(apply)
    found, errors = task.evaluate(params, None), []
    for n, lane in [*itertools.product([0], range(256)), *itertools.product([1], range(44))]:
        part = task.held_out_part(n)
        length = int(part.live[:, lane].sum())
        outputs, _ = read(params, init_carry(params, 1), part.inputs[:length, lane : lane + 1])
        errors.append(float(outputs[-1, 0, 0] - part.targets[length - 1, lane, 0]))
    assert found["loss"] == pytest.approx(np.mean(np.square(errors)), rel=1e-5)
    assert found["wrong"] == np.mean([abs(error) >= 0.04 for error in errors])
    assert 0 < found["wrong"] < 1 and list(found) == ["loss", "wrong"]
    first, *others = task.sample(params, None).splitlines()
    target = task.held_out_part(0).targets[..., 0].sum(axis=0)[0]
    assert first == f"target {target:.3f}  answer {target + errors[0]:.3f}" and len(others) == 4


@pytest.mark.usefixtures("standard_promotion")
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    task = AddingTask.of(CONFIG)
    with Run(CONFIG, task, tmp_path / "whole") as run:
        run.train()
        assert run.summary()["targets"] == 18
    with Run(CONFIG, task, tmp_path / "killed") as run, pytest.raises(Stop):
        stop_after(run, 2)
        run.train()
    with Run(CONFIG, AddingTask.of(CONFIG), tmp_path / "killed") as again:
        assert again.step == 4
        again.train()
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    lines = read_metrics(tmp_path / "whole")
    scored = [line["step"] for line in lines if {"val_loss", "val_wrong"} <= line.keys()]
    assert (
        scored == [4, 6] and (tmp_path / "whole" / "samples.txt").read_text().count("target") == 10
    )
