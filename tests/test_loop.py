"""A run in its folder: what it leaves behind, and that stopping and resuming change no bit."""

import dataclasses
import json
import os
import shutil
import signal

import pytest

from lstm_jax.checkpoint import Checkpoints, load_model
from lstm_jax.config import UserError
from lstm_jax.data.vocabulary import Text
from lstm_jax.loop import Interrupted, Run
from lstm_jax.metrics import append_sample, read_metrics, rewind
from tests.small import CONFIG, TEXT, as_written_before, assert_same_run

pytestmark = pytest.mark.usefixtures("standard_promotion")


class Stop(Exception):
    pass


def stop_after(run, dispatches):
    """Makes the run fail as a killed process would: nothing is saved, nothing is flushed."""
    report, count = run._report, 0

    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        if count > dispatches:
            raise Stop
        return report(*args, **kwargs)

    run._report = counted


@pytest.mark.parametrize("dispatches", [0, 1, 3, 5])
def test_a_killed_run_goes_on_to_the_same_bits(dispatches, tmp_path, finished):
    with Run(CONFIG, TEXT, tmp_path, "title") as run, pytest.raises(Stop):
        stop_after(run, dispatches)
        run.train()
    with Run(CONFIG, TEXT, tmp_path, "title") as again:
        assert again.step == {0: 0, 1: 0, 3: 6, 5: 12}[dispatches]
        again.train()
    assert_same_run(tmp_path, finished)


def test_an_interrupted_run_saves_says_where_and_goes_on_to_the_same_bits(tmp_path, finished):
    with Run(CONFIG, TEXT, tmp_path, "title") as run, pytest.raises(Interrupted) as stop:
        report = run._report

        def interrupt(progress, step, *args, **kwargs):
            if step == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            return report(progress, step, *args, **kwargs)

        run._report = interrupt
        run.train()
    assert stop.value.step % 3 == 0 and 9 <= stop.value.step <= 12
    with Run(CONFIG, TEXT, tmp_path, "title") as again:
        assert again.step == stop.value.step
        again.train()
    assert_same_run(tmp_path, finished)


def test_what_a_run_leaves_behind(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "samples.txt",
        "figures",
        "summary.json",
    }
    metrics = read_metrics(finished)
    assert [m["step"] for m in metrics] == [3, 6, 9, 12, 15, 18, 20]
    assert [m["step"] for m in metrics if "val_loss_stream" in m] == [6, 12, 18, 20]
    assert all(m["characters"] == 12 * m["step"] for m in metrics)
    assert (finished / "samples.txt").read_text().count("= step") == 4
    assert (finished / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((finished / "summary.json").read_text())
    best = min((m for m in metrics if "val_loss_stream" in m), key=lambda m: m["val_loss_stream"])
    assert (summary["best_step"], summary["val_loss_stream"]) == (
        best["step"],
        best["val_loss_stream"],
    )
    steps = set(Checkpoints(finished).steps())
    assert steps == {18, 20, best["step"]}
    assert int(load_model(finished, "best")[0].step) == best["step"]


@pytest.mark.parametrize(
    "change, text",
    [
        ({"model.hidden_size": 9}, TEXT),
        ({}, dataclasses.replace(TEXT, sha256="other")),
    ],
)
def test_another_run_in_the_same_folder_is_refused(change, text, finished):
    before = sorted(finished.rglob("*"))
    with pytest.raises(UserError, match=r"holds another run: .* is .* there and .* here"):
        Run(CONFIG.replace(change), text, finished, "title")
    assert sorted(finished.rglob("*")) == before


def test_a_run_from_before_an_option_existed_is_the_one_without_it(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "old")
    as_written_before(tmp_path / "old")
    with Run(CONFIG, TEXT, tmp_path / "old", "title") as run:
        assert run.step == 20
    as_written_before(tmp_path / "old")
    with pytest.raises(UserError, match=r"train.checkpoint_every is 0 there and 2 here"):
        Run(CONFIG.replace({"train.checkpoint_every": 2}), TEXT, tmp_path / "old", "title")


def test_a_finished_run_has_nothing_left_to_do(finished):
    before = (finished / "metrics.jsonl").read_text()
    with Run(CONFIG, TEXT, finished, "title") as run:
        run.train()
    assert run.step == 20 and (finished / "metrics.jsonl").read_text() == before


def test_a_text_too_short_leaves_no_folder(tmp_path):
    short = Text("short", TEXT.ids[:12], TEXT.vocabulary, "short")
    with pytest.raises(UserError):
        Run(CONFIG, short, tmp_path / "run", "title")
    assert not (tmp_path / "run").exists()


def test_a_foreign_checkpoint_is_not_resumed(tmp_path, finished):
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"model.hidden_size is 8 there and 9 here"):
        Run(CONFIG.replace({"model.hidden_size": 9}), TEXT, tmp_path, "title")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints"}
    with Run(CONFIG, TEXT, tmp_path, "title") as run:  # the rightful one still can
        assert run.step == 20


def test_a_resumed_run_keeps_the_samples_letter_for_letter(tmp_path):
    append_sample(tmp_path, 1, {}, "a\r\nb\rc\n=== step 9 no head ===")
    before = (tmp_path / "samples.txt").read_bytes()
    append_sample(tmp_path, 2, {"val_loss_stream": 1.5}, "later")
    rewind(tmp_path, 1)
    assert (tmp_path / "samples.txt").read_bytes() == before


def test_without_a_validation_split(tmp_path):
    config = CONFIG.replace({"data.validation_fraction": 0.0, "train.steps": 6})
    with Run(config, TEXT, tmp_path, "title") as run:
        run.train()
        summary = run.summary()
    assert "val_loss_stream" not in summary and summary["step"] == 6
    assert int(load_model(tmp_path, "best")[0].step) == 6
