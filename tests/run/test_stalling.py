"""Validations that get no better: the rate that falls, the run that ends, and both resumed."""

import json
from itertools import pairwise

import jax
import numpy as np
import optax
import pytest

from lstm_jax.errors import UserError
from lstm_jax.optimizer import OptimizerConfig
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.loop import Run
from lstm_jax.run.metrics import METRICS, read_metrics
from lstm_jax.stalling import after_validation, init_stall
from lstm_jax.tasks.text import TextTask
from tests.run.test_loop import Stop, stop_after
from tests.small import CONFIG, TEXT, run_in

pytestmark = pytest.mark.usefixtures("standard_promotion")

CHANGES = {
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.5,
    "optimizer.clip_norm": 0.0,
    "optimizer.schedule": "plateau",
    "optimizer.plateau_patience": 2,
    "optimizer.plateau_factor": 0.5,
    "train.patience": 3,
    "train.steps": 60,
    "train.steps_per_dispatch": 1,
    "train.validate_every": 1,
}
STALLING = CONFIG.replace(CHANGES)
# After 2.1 the rate is halved, after 1.7 again; 1.8 is the third that is no lower than 1.5.
LOSSES = [3.0, 2.0, 2.5, 2.1, 1.5, 1.6, 1.7, 1.8, 1.0, 0.9]
RATES = [0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def stalling_run(workdir, seen=None):
    """A run whose validations measure LOSSES, one a step."""
    run = run_in(workdir, STALLING)

    def evaluate(params, masks):
        if seen is not None:
            seen.append(jax.tree.map(np.array, params))
        return {"loss": LOSSES[run.step - 1]}

    run.task.evaluate = evaluate
    return run


@pytest.fixture(scope="module")
def stalled(tmp_path_factory):
    """The folder of such a run, and its parameters before each step and after the last."""
    workdir = tmp_path_factory.mktemp("stalled")
    with jax.numpy_dtype_promotion("standard"), stalling_run(workdir, seen := []) as run:
        seen.append(jax.tree.map(np.array, run.state.params))
        run.train()
        run.summary()
    return workdir, seen


def test_a_run_ends_where_patience_does(stalled, capsys):
    workdir, _ = stalled
    summary = json.loads((workdir / "summary.json").read_text())
    why = "the last 3 validations found no lower loss than 1.5000 (train.patience=3)"
    assert (summary["step"], summary["best_step"], summary["ended_early"]) == (8, 5, why)
    before = (workdir / METRICS).read_bytes()
    with stalling_run(workdir) as again:
        again.train()
        assert again.summary() == summary
    assert f"ended at step 8 of 60: {why}" in capsys.readouterr().err
    assert (workdir / METRICS).read_bytes() == before


def test_the_rate_that_is_shown_is_the_one_that_is_used(stalled):
    workdir, seen = stalled
    lines = read_metrics(workdir)
    assert [line["learning_rate"] for line in lines] == RATES
    for line, (before, after) in zip(lines, pairwise(seen), strict=True):
        moved = optax.tree.norm(jax.tree.map(np.subtract, after, before))
        assert moved == pytest.approx(line["learning_rate"] * line["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("dispatches", [4, 6])
def test_a_killed_run_goes_on_to_the_same_bits_whatever_its_metrics_say(
    dispatches, stalled, tmp_path, capsys
):
    """Killed within a plateau's patience, and within the run's."""
    with stalling_run(tmp_path) as run, pytest.raises(Stop):
        stop_after(run, dispatches)
        run.train()
    metrics = tmp_path / METRICS
    metrics.write_text(metrics.read_text().replace('"val_loss": ', '"val_loss": -'))
    with stalling_run(tmp_path) as again:
        assert again.step == dispatches
        again.train()
    (state, _), (wanted, _) = (load_model(w, "latest") for w in (tmp_path, stalled[0]))
    jax.tree.map(np.testing.assert_array_equal, state, wanted)
    assert [line["learning_rate"] for line in read_metrics(tmp_path)] == RATES
    said = [line for line in capsys.readouterr().err.splitlines() if " of the first rate" in line]
    assert [line.split(":")[0] for line in said] == ["step 4", "step 7"]
    assert [line.split()[-5] for line in said] == ["0.5", "0.25"]


def test_a_stall_that_an_average_waits_for_does_not_count_towards_the_end():
    config = OptimizerConfig(schedule="constant")
    stall, counts = init_stall(config, 2), []
    for loss, waits in ((2.0, True), (3.0, True), (3.0, True), (3.0, False), (2.0, False), (1, 0)):
        stall = after_validation(stall, loss, bool(waits), config)
        counts.append(int(stall.since))
    assert counts == [0, 0, 0, 1, 2, 0] and stall.plateau is None
    assert init_stall(config, 0) is None


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_what_is_remembered_keeps_its_type(schedule):
    """Else the training step would be compiled again after the first validation."""
    config = OptimizerConfig(schedule=schedule)
    start = init_stall(config, 2)
    after = after_validation(start, 2.0, False, config)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, start)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(start))


class Unmeasured(TextTask):
    """A task of one's own, which says first at its validation that it has none."""

    def evaluate(self, params, masks):
        return {}


def test_a_task_without_a_validation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^train\.patience=3 waits for a validation loss"):
        STALLING.replace({"data.validation_fraction": 0.0})
    with pytest.raises(
        UserError, match=r"^optimizer\.schedule=plateau waits for a validation loss"
    ):
        STALLING.replace({"data.validation_fraction": 0.0, "train.patience": 0})
    task = Unmeasured(STALLING, TEXT)
    with Run(STALLING, task, tmp_path) as run, pytest.raises(UserError, match="keeps nothing to"):
        run.train()
