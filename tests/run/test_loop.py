"""A run in its folder: what it leaves behind, and that stopping and resuming change no bit."""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import sys
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.averaging import Average
from lstm_jax.data.vocabulary import Text
from lstm_jax.errors import UserError
from lstm_jax.run import checkpoint, loop
from lstm_jax.run.checkpoint import Checkpoints, load_model
from lstm_jax.run.checksums import write_sums
from lstm_jax.run.description import Description
from lstm_jax.run.journal import Journal
from lstm_jax.run.loop import Run, check_run
from lstm_jax.run.metrics import append_sample, read_metrics, rewind
from lstm_jax.run.signals import Interrupted
from lstm_jax.scoring.protocols import Evaluation
from lstm_jax.tasks import text as text_task
from lstm_jax.tasks.text import TextTask
from tests.small import CONFIG, TEXT, assert_same_run, run_in

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
    with run_in(tmp_path) as run, pytest.raises(Stop):
        stop_after(run, dispatches)
        run.train()
    with run_in(tmp_path) as again:
        assert again.step == {0: 0, 1: 0, 3: 6, 5: 12}[dispatches]
        again.train()
    assert_same_run(tmp_path, finished)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_saves_says_where_and_goes_on_to_the_same_bits(
    number, tmp_path, finished, monkeypatch
):
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)  # not as of pytest's
    with run_in(tmp_path) as run, pytest.raises(Interrupted) as stop:
        report = run._report

        def interrupt(progress, step, *args, **kwargs):
            if step == 9:
                signal.raise_signal(number)
            return report(progress, step, *args, **kwargs)

        run._report = interrupt
        run.train()
    assert stop.value.signal_number == number
    assert stop.value.step % 3 == 0 and 9 <= stop.value.step <= 12
    with run_in(tmp_path) as again:
        assert again.step == stop.value.step
        again.train()
    assert_same_run(tmp_path, finished)


def everything_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Head:
    """A stderr whose reader goes away after the line of a step, or the bar at it."""

    encoding = "utf-8"

    def __init__(self, step, is_terminal):
        self.last, self.left, self.isatty = f"{step}/20", False, lambda: is_terminal

    def write(self, text):
        if self.left:
            raise BrokenPipeError
        self.left = self.last in text

    def flush(self):
        pass


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("step", [0, 6])
def test_a_reader_that_goes_away_ends_the_run_saved(
    step, is_terminal, tmp_path, finished, monkeypatch
):
    """With the exit code of SIGPIPE: at the next thing shown, or before the first."""
    monkeypatch.setattr("lstm_jax.run.progress.LINE_EVERY_S", -1.0)
    with run_in(tmp_path) as run, pytest.raises(Interrupted) as stop:
        stderr = Head(step, is_terminal)
        stderr.left = not step
        monkeypatch.setattr("sys.stderr", stderr)
        run.train()
    assert stop.value.signal_number == signal.SIGPIPE
    assert Checkpoints(tmp_path).steps()[-1] == stop.value.step <= step + 6
    monkeypatch.undo()
    with run_in(tmp_path) as again:
        again.train()
    assert_same_run(tmp_path, finished)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, ""), OSError(errno.ENOSPC, ""), ValueError("closed file")]
)
def test_progress_that_cannot_be_shown_is_left_out(error, tmp_path, finished, monkeypatch):
    """The terminal was closed and SIGHUP ignored; a log's disk is full; Python's stream was
    closed: training goes on."""

    class Broken(Head):
        def write(self, text):
            raise error

    monkeypatch.setattr("sys.stderr", Broken(0, False))
    with run_in(tmp_path) as run:
        run.train()
    assert_same_run(tmp_path, finished)


def test_in_a_thread_of_its_own(tmp_path, finished, monkeypatch):
    """The same run, without signals; nothing stays open or alive, not even where it fails."""
    # matplotlib keeps some fonts open, for each thread its own.
    monkeypatch.setattr(loop, "draw_curves", lambda *_: None)

    def train(dispatches, folder, ends):
        with jax.numpy_dtype_promotion("standard"), run_in(folder) as run:
            stop_after(run, dispatches)
            with contextlib.suppress(Stop):
                run.train()
                ends.append(run.step)

    def in_a_thread(*args):
        thread = threading.Thread(target=train, args=args)
        thread.start()
        thread.join()

    # What orbax and JAX open once, and keep, is open after this.
    in_a_thread(100, tmp_path / "first", ends := [])
    before = threading.active_count(), len(os.listdir("/dev/fd"))
    for dispatches, name in ((100, "second"), (4, "third")):
        in_a_thread(dispatches, tmp_path / name, ends)
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == before
    assert ends == [20, 20]
    assert_same_run(tmp_path / "second", finished)


# After which of these calls, or before it, a run's folder is deleted; what it would do next there.
MOMENTS = {
    "append a line": (Journal, "line", "after"),
    "append a sample": (Run, "sample", "after"),
    "begin a checkpoint": (Checkpoints, "_save", "before"),
    "give a checkpoint its name": (checkpoint, "write_checkpoint", "after"),
    "delete a checkpoint": (Checkpoints, "_delete_old", "before"),
    "draw the curves": (Journal, "lines", "after"),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("taken", [True, False])
def test_a_folder_deleted_under_a_run_is_no_longer_its_own(
    taken, moment, tmp_path, finished, monkeypatch
):
    """Whether another run is in it by then or not, nothing is written there, nor deleted."""
    owner, name, when = MOMENTS[moment]
    workdir, original, left = tmp_path / "run", getattr(owner, name), []

    def lose_folder():
        shutil.rmtree(workdir)
        if taken:
            shutil.copytree(finished, workdir)
            (workdir / ".lock").write_text("process 1 on elsewhere")
            if moment == "give a checkpoint its name":
                (workdir / "checkpoints" / "6.part").mkdir()
                (workdir / "checkpoints" / "6.part" / "another's").write_text("")
        left.append(everything_in(workdir))

    def patched(*args, **kwargs):
        if when == "before" and not left:
            lose_folder()
        found = original(*args, **kwargs)
        if when == "after" and not left:
            lose_folder()
        return found

    config = CONFIG.replace({"train.keep_checkpoints": 1, "train.steps": 6})
    message = "deleted, moved or taken over while this process trained"
    with (
        pytest.raises(UserError, match=message),
        run_in(workdir, config) as run,
    ):
        monkeypatch.setattr(owner, name, patched)
        run.train()
        run.draw_figures()
    assert [everything_in(workdir)] == left and workdir.exists() == taken


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
    assert all(m["targets"] == 12 * m["step"] for m in metrics)
    assert (finished / "samples.txt").read_text().count("= step") == 4
    assert (finished / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((finished / "summary.json").read_text())
    best = min((m for m in metrics if "val_loss_stream" in m), key=lambda m: m["val_loss_stream"])
    assert (summary["best_step"], summary["val_loss_stream"]) == (
        best["step"],
        best["val_loss_stream"],
    )
    assert summary["references"] == TextTask(CONFIG, TEXT).references()
    steps = set(Checkpoints(finished).steps())
    assert steps == {18, 20, best["step"]}
    assert int(load_model(finished, "best")[0].step) == best["step"]


def test_what_a_run_writes_is_handed_on_as_it_comes(tmp_path, finished, monkeypatch):
    """Metrics to Weights & Biases, by README's lines; samples and curves at each validation, and
    at the end, where the curves are drawn for people."""
    logged = []

    class Online:
        def log(self, data, step):
            logged.append((step, data))

        def finish(self):
            logged.append("finished")

    def init(project, config):
        assert project == "lstm" and config["model.hidden_size"] == 8
        return Online()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    import wandb

    def draw(*args):
        args[-1].parent.mkdir(exist_ok=True)
        args[-1].write_bytes(b"a picture")

    monkeypatch.setattr(loop, "draw_curves", draw)
    samples, pictures = [], []
    hooks = {
        "on_sample": lambda step, text: samples.append((step, text)),
        "on_curves": lambda step, path: pictures.append((step, path.read_bytes())),
    }
    online = wandb.init(project="lstm", config=CONFIG.flatten())
    hooks["on_metrics"] = lambda line: online.log(line, step=line["step"])
    with run_in(tmp_path, **hooks) as run:
        run.train()
        run.draw_figures()
    online.finish()
    assert logged == [*((line["step"], line) for line in read_metrics(tmp_path)), "finished"]
    assert len(logged) == 8
    assert pictures == [(step, b"a picture") for step in (6, 12, 18, 20, 20)]
    written = (finished / "samples.txt").read_text().split("=" * 12)
    assert [step for step, _ in samples] == [6, 12, 18, 20]
    assert [f"\n{text}\n\n" for _, text in samples] == written[2::2]


@pytest.mark.parametrize(
    "change, text",
    [
        ({"model.hidden_size": 9}, TEXT),
        ({"train.seed": 1}, TEXT),
        ({}, dataclasses.replace(TEXT, sha256="other")),
    ],
)
def test_another_run_in_the_same_folder_is_refused(change, text, finished):
    before = sorted(finished.rglob("*"))
    with pytest.raises(UserError, match=r"another run: .*( is .* there and .* here|another sha)"):
        run_in(finished, CONFIG.replace(change), text)
    assert sorted(finished.rglob("*")) == before


def test_a_run_from_before_an_option_existed_is_the_one_without_it(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "old")
    for path in [tmp_path / "old" / "config.json", *tmp_path.rglob("description/metadata")]:
        described = json.loads(path.read_text())
        del described["config"]["train.remat_every"]
        path.write_text(json.dumps(described))
    for sums in tmp_path.rglob("SHA256SUMS"):
        sums.unlink()
        write_sums(sums.parent)
    with run_in(tmp_path / "old") as run:
        assert run.step == 20
    with pytest.raises(UserError, match=r"train.remat_every is 0 there and 2 here"):
        run_in(tmp_path / "old", CONFIG.replace({"train.remat_every": 2}))


def test_a_folder_may_be_named_by_a_string(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in (str(tmp_path / "run"), "~/run"):
        with run_in(name) as run:
            assert run.step == 20 and run.workdir == tmp_path / "run"
        assert int(load_model(name, "latest")[0].step) == 20


def test_a_finished_run_has_nothing_left_to_do(finished):
    before = (finished / "metrics.jsonl").read_text()
    with run_in(finished) as run:
        run.train()
    assert run.step == 20 and (finished / "metrics.jsonl").read_text() == before


def test_a_resumed_run_goes_on_counting_its_seconds(finished):
    with run_in(finished) as run:
        assert run.journal.seconds == read_metrics(finished)[-1]["seconds"] > 0


@pytest.mark.parametrize("fails", [False, True])
def test_the_bar_is_closed_however_training_ends(fails, finished, monkeypatch):
    closed = []
    monkeypatch.setattr(loop.Progress, "close", lambda progress: closed.append(progress))

    def stop(*_):
        raise Stop

    with run_in(finished) as run:
        with contextlib.suppress(Stop):
            if fails:
                run._train = stop
            run.train()
        assert len(closed) == 1


def with_readout(params, symbol):
    """Parameters of a model that writes one symbol for ever."""
    always = jax.tree.map(jnp.zeros_like, params)
    b_V = always.readout.b.at[symbol].set(1e3)
    return always._replace(readout=always.readout._replace(b=b_V))


def test_the_sample_is_the_averages(finished):
    with run_in(finished) as run:
        params = run.state.params
        run.state = run.state._replace(params=with_readout(params, 1))
        assert run.sample()[1:] == "a" * 10
        average = Average(with_readout(params, 2), jnp.asarray(1))
        run.state = run.state._replace(average=average)
        assert run.sample()[1:] == "b" * 10


def test_an_interrupted_state_is_looked_at_before_it_is_saved(finished, tmp_path):
    """Its last update spoilt it, and no validation has looked at it."""
    workdir = shutil.copytree(finished, tmp_path / "run")

    def spoil(dispatch, progress, received):
        b_V = run.state.params.readout.b.at[0].set(jnp.nan)
        readout = run.state.params.readout._replace(b=b_V)
        params = run.state.params._replace(readout=readout)
        run.state = run.state._replace(step=jnp.asarray(21), params=params)
        received.append(signal.SIGTERM)

    with run_in(workdir) as run:
        run._train = spoil
        with pytest.raises(UserError, match=r"step 21: the parameters are not finite in readout.b"):
            run.train()
    assert 21 not in Checkpoints(workdir).steps()


def test_the_best_is_by_stream_and_is_kept(tmp_path, monkeypatch):
    """Validations after which the first is the best by `stream` and the last by `windows`."""
    scores = {6: (1.0, 4.0), 12: (3.0, 3.0), 18: (2.0, 2.0), 20: (4.0, 1.0)}
    found = iter(scores.values())
    monkeypatch.setattr(text_task, "evaluate", lambda *_: Evaluation(*next(found)))
    with run_in(tmp_path) as run:
        run.train()
        summary = run.summary()
    assert summary["best_step"] == 6
    assert (summary["val_loss_stream"], summary["val_loss_windows"]) == (1.0, 4.0)
    assert Checkpoints(tmp_path).steps() == [6, 18, 20]
    assert int(load_model(tmp_path, "best")[0].step) == 6


def test_a_text_too_short_leaves_no_folder(tmp_path):
    short = Text("short", TEXT.ids[:12], TEXT.vocabulary, "short")
    with pytest.raises(UserError):
        run_in(tmp_path / "run", CONFIG, short)
    assert not (tmp_path / "run").exists()


def test_a_foreign_checkpoint_is_not_resumed(tmp_path, finished):
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"model.hidden_size is 8 there and 9 here"):
        run_in(tmp_path, CONFIG.replace({"model.hidden_size": 9}))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints"}
    with run_in(tmp_path) as run:  # the rightful one still can
        assert run.step == 20


def test_a_resumed_run_keeps_the_samples_letter_for_letter(tmp_path):
    append_sample(tmp_path, 1, {}, "nats/char", "a\r\nb\rc\n=== step 9 no head ===")
    before = (tmp_path / "samples.txt").read_bytes()
    append_sample(tmp_path, 2, {"val_loss_stream": 1.5}, "nats/char", "later")
    rewind(tmp_path, 1)
    assert (tmp_path / "samples.txt").read_bytes() == before


def test_without_a_validation_split(tmp_path):
    config = CONFIG.replace({"data.validation_fraction": 0.0, "train.steps": 6})
    with run_in(tmp_path, config) as run:
        run.train()
        summary = run.summary()
    assert "val_loss_stream" not in summary and summary["step"] == 6
    assert int(load_model(tmp_path, "best")[0].step) == 6


CONSTANT = CONFIG.replace({"optimizer.schedule": "constant", "train.steps": 12})
TRIGGERED = {"train.average": "triggered", "train.average_patience": 0}


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
    """A finished run at a constant rate."""
    workdir = tmp_path_factory.mktemp("constant")
    with jax.numpy_dtype_promotion("standard"), run_in(workdir, CONSTANT) as run:
        run.train()
    return workdir


def same_state(workdir, other):
    states = [load_model(folder, "latest")[0] for folder in (workdir, other)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_what_does_not_change_the_training_does_not_lock_the_folder(constant, tmp_path, capfd):
    """Whatever is measured, kept and shown, and in how many dispatches: the bits are the same."""
    changes = {
        "train.validate_every": 5,
        "train.steps_per_dispatch": 4,
        "train.sample_length": 3,
        "train.keep_checkpoints": 1,
        "evaluate.window_length": 4,
        "evaluate.lanes": 2,
        "evaluate.warmup": 3,
    }
    with run_in(tmp_path, CONSTANT) as run, pytest.raises(Stop):
        stop_after(run, 3)
        run.train()
    with run_in(tmp_path, CONSTANT.replace(changes)) as again:
        assert again.step == 6
        said = capfd.readouterr().err
        assert all(
            f"{key} was {CONSTANT.flatten()[key]} and is {changes[key]}" in said for key in changes
        )
        assert "warning: losses from here on are by another protocol" in said
        again.train()
    same_state(tmp_path, constant)
    described = json.loads((tmp_path / "config.json").read_text())["config"]
    assert {key: described[key] for key in changes} == changes


def test_more_steps_at_a_constant_rate_are_those_of_a_longer_run(constant, tmp_path):
    longer = CONSTANT.replace({"train.steps": 20})
    shutil.copytree(constant, tmp_path / "more")
    for name in ("more", "whole"):
        with run_in(tmp_path / name, longer) as run:
            assert run.step == (12 if name == "more" else 0)
            run.train()
    same_state(tmp_path / "more", tmp_path / "whole")


@pytest.mark.parametrize(
    "before, after, message",
    [
        ({}, {"train.steps": 11}, r"has done 12 steps, and train.steps=11 is fewer"),
        (
            {"optimizer.schedule": "cosine"},
            {"train.steps": 24},
            r"train.steps is 12 there and 24 here, from which a cosine's rates .*--init_from=",
        ),
        (
            {**TRIGGERED, "train.validate_every": 5},
            {"train.steps": 24},
            r"train.steps is 12 there and 24 here, and the validation out of turn, at st",
        ),
        (TRIGGERED, {"train.validate_every": 4}, r"train.validate_every is 6 there and 4 here"),
        (TRIGGERED, {"evaluate.lanes": 2}, r"evaluate.lanes is 4 there and 2 here"),
        (TRIGGERED, {"train.steps": 24, "train.sample_length": 3}, None),
    ],
)
def test_what_would_be_another_run_is_refused(before, after, message, constant, tmp_path):
    before = CONSTANT.replace(before)
    workdir = (
        shutil.copytree(constant, tmp_path / "run") if before == CONSTANT else tmp_path / "run"
    )
    if before != CONSTANT:
        workdir.mkdir()
        described = Description.of(before, TextTask(before, TEXT)).to_json()
        (workdir / "config.json").write_text(json.dumps(described))
    kept = everything_in(workdir)
    if message is None:
        assert check_run(before.replace(after), TextTask(before, TEXT), workdir)
        return
    with pytest.raises(UserError, match=message):
        run_in(workdir, before.replace(after))
    assert everything_in(workdir) == kept


def test_a_run_keeps_its_title(constant, tmp_path):
    shutil.copytree(constant, tmp_path / "run")
    with Run(CONSTANT, TextTask(CONSTANT, TEXT), tmp_path / "run") as run:
        assert run.title == "title"
    (tmp_path / "run" / "config.json").unlink()
    with Run(CONSTANT, TextTask(CONSTANT, TEXT), tmp_path / "run") as run:
        assert run.title == "run"


def test_one_of_several_processes_does_not_train_apart_in_silence(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="has joined 2 processes, each of which would ") as error:
        Run(CONFIG, TextTask(CONFIG, TEXT), tmp_path / "run")
    assert "\n" not in str(error.value) and not [*tmp_path.iterdir()]
