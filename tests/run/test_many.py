"""Runs side by side: each as if it had been alone, to rounding; stopped, resumed, and failing."""

import os
import signal
from contextlib import ExitStack
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lstm_jax.errors import UserError
from lstm_jax.run import many
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.many import many_steps, shape_of, side_by_side, train_together
from lstm_jax.run.metrics import read_metrics
from lstm_jax.run.signals import Interrupted
from lstm_jax.tasks.text import TextTask, interface_of
from tests.run.test_loop import Stop
from tests.small import CONFIG, TEXT, assert_same_run, run_in, without_times

pytestmark = pytest.mark.usefixtures("standard_promotion")

# One with another rate, one with another seed, and one that drops more.
CHANGES = (
    {"optimizer.learning_rate": 0.01},
    {"train.seed": 5},
    {"model.dropout": 0.5, "optimizer.warmup_steps": 4},
)
CONFIGS = [CONFIG.replace(changes) for changes in CHANGES]
WIDTH = 4  # one more than there are: it is filled up


def train(folder, spoil=lambda runs: None):
    """Opens the runs in folders of their own and trains them; what failed, by number."""
    with ExitStack() as held:
        runs = [run_in(folder / str(n), config) for n, config in enumerate(CONFIGS)]
        for run in runs:
            held.enter_context(run)
        spoil(runs)
        errors = train_together(runs, WIDTH)
        for run in runs:
            run.summary()
        return {runs.index(run): str(error) for run, error in errors.items()}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    many_steps.cache_clear()
    with jax.numpy_dtype_promotion("standard"):
        assert train(folder) == {}
    return folder


@pytest.mark.parametrize("n", range(3))
def test_each_is_as_if_it_had_been_alone(n, together, tmp_path):
    """To rounding, and with all that a run leaves behind."""
    with run_in(tmp_path, CONFIGS[n]) as run:
        run.train()
        run.summary()
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    found = sorted(path.relative_to(together / str(n)) for path in (together / str(n)).rglob("*"))
    assert [name for name in names if "checkpoints" not in name.parts] == [
        name for name in found if "checkpoints" not in name.parts
    ]
    (state, about), (wanted, of_alone) = (
        load_model(folder, "latest") for folder in (together / str(n), tmp_path)
    )
    assert about == of_alone
    close = {"rtol": 1e-4, "atol": 1e-5}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), state, wanted)
    for line, alone in zip(without_times(together / str(n)), without_times(tmp_path), strict=True):
        assert line == pytest.approx(alone, rel=1e-4)


def test_all_of_them_share_one_program(together):
    assert many_steps.cache_info().misses == 1


@pytest.mark.parametrize("dispatches, left", [(1, 0), (3, 6)])
def test_killed_they_go_on_to_the_same_bits(dispatches, left, together, tmp_path):
    def kill(runs):
        report, count = runs[2].report, 0

        def counted(*args):
            nonlocal count
            count += 1
            if count > dispatches:
                raise Stop
            report(*args)

        runs[2].report = counted

    with pytest.raises(Stop):
        train(tmp_path, kill)
    with run_in(tmp_path / "2", CONFIGS[2]) as run:
        assert run.step == left
    assert train(tmp_path) == {}
    for n in range(3):
        assert_same_run(tmp_path / str(n), together / str(n))


def test_where_one_fails_the_others_go_on(together, tmp_path):
    def fail(runs):
        report = runs[0].report

        def until(progress, step, *args):
            if step > 9:
                raise UserError("the loss is nan")
            report(progress, step, *args)

        runs[0].report = until

    assert train(tmp_path, fail) == {0: "the loss is nan"}
    for n in (1, 2):
        assert_same_run(tmp_path / str(n), together / str(n))
    assert read_metrics(tmp_path / "0")[-1]["step"] == 9


def test_a_signal_saves_them_all(together, tmp_path):
    def interrupt(runs):
        report = runs[1].report

        def until(progress, step, *args):
            report(progress, step, *args)
            if step == 9:
                os.kill(os.getpid(), signal.SIGTERM)

        runs[1].report = until

    with pytest.raises(Interrupted) as stopped:
        train(tmp_path, interrupt)
    steps = {load_model(tmp_path / str(n), "latest")[0].step.item() for n in range(3)}
    assert steps == {stopped.value.step} and stopped.value.step in (9, 12, 15)
    assert train(tmp_path) == {}
    for n in range(3):
        assert_same_run(tmp_path / str(n), together / str(n))


def test_how_many_train_side_by_side(monkeypatch):
    """On a CPU one per core, where each core is a device; else as many as the memory has room for,
    by what is counted of each."""
    batch = TextTask(CONFIG, TEXT).batch_at(0)

    def count(config, wanted=12):
        return side_by_side(config, interface_of(TEXT.vocabulary), batch, wanted)

    assert count(CONFIG) == 1
    device = jax.local_devices()[0]
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 3)
    assert count(CONFIG) == 3 and count(CONFIG, wanted=2) == 2
    assert count(CONFIG.replace({"model.hidden_size": 512})) == 1
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="gpu")])
    for name, size in (("state_bytes", 60), ("batch_bytes", 40), ("memory_bytes", 8 * 599)):
        monkeypatch.setattr(many, name, lambda *_, size=size: size)
    assert count(CONFIG) == 4 and count(CONFIG, wanted=2) == 2


def test_what_trains_side_by_side_has_one_program_and_one_end():
    shapes = {shape_of(config) for config in CONFIGS}
    assert len(shapes) == 1
    for change in ({"train.steps": 10}, {"model.dropout": 0.0}, {"train.validate_every": 5}):
        assert shape_of(CONFIG.replace(change)) not in shapes
