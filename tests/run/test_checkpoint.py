"""Checkpoints damaged, of another format or of another run: found out, named, left as they are.

The damage is done to every file of a checkpoint in turn, in four ways.
"""

import hashlib
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from lstm_jax import files
from lstm_jax.errors import UserError
from lstm_jax.run import checkpoint
from lstm_jax.run.checkpoint import METRICS, Checkpoints, load_model
from lstm_jax.run.description import FORMAT, Description
from lstm_jax.run.metrics import read_metrics
from lstm_jax.tasks.text import TextTask
from lstm_jax.train import TrainState
from tests.small import CONFIG, TEXT, assert_same_run, run_in

pytestmark = pytest.mark.usefixtures("standard_promotion")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Flips one bit of the byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


DAMAGES = [truncate, flip, empty, Path.unlink]


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def content(folder):
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def resume(workdir):
    return run_in(workdir)


def test_every_damage_to_every_file_is_found_and_named(workdir):
    """The checkpoint before is good, and what is read from it is what was saved."""
    step, before = 20, 18
    folder = workdir / "checkpoints" / str(step)
    names, injected = files_of(folder), 0
    assert len(names) > 12 and {"SHA256SUMS", "metadata", "manifest.ocdbt"} <= {
        p.name for p in names
    }
    for name in names:
        original = (folder / name).read_bytes()
        for damage in DAMAGES:
            damage(folder / name)
            assert not (folder / name).exists() or (folder / name).read_bytes() != original
            good, damaged = Checkpoints(workdir).sort_out()
            assert good[-1] == before and list(damaged) == [step], (name, damage)
            assert str(name) in damaged[step] or name.name == "SHA256SUMS", (name, damage, damaged)
            (folder / name).write_bytes(original)
            injected += 1
    assert injected == 4 * len(names)
    assert Checkpoints(workdir).sort_out()[0][-1] == step


def test_the_one_before_is_used_and_the_run_ends_as_it_would_have(workdir, finished, capfd):
    data = max((workdir / "checkpoints" / "20" / "state" / "d").iterdir())
    flip(data)
    spoilt = content(workdir / "checkpoints" / "20")
    with resume(workdir) as run:
        assert run.step == 18
        assert read_metrics(workdir)[-1]["step"] == 18
        warning = capfd.readouterr().err
        assert re.search(
            rf"^warning: .* step 20 is damaged \(.*{data.name}.*\); it is now ", warning
        )
        run.train()
    assert_same_run(workdir, finished)
    assert content(workdir / "damaged" / "20") == spoilt
    flip(max((workdir / "checkpoints" / "20" / "state" / "d").iterdir()))
    resume(workdir).close()
    assert {path.name for path in (workdir / "damaged").iterdir()} == {"20", "20-2"}


def test_a_model_is_loaded_from_a_good_one_and_nothing_is_touched(workdir, capfd):
    flip(workdir / "checkpoints" / "20" / "metrics" / "metrics")
    before = content(workdir)
    for which in ("best", "latest"):
        assert int(load_model(workdir, which)[0].step) < 20
        assert f"warning: {workdir / 'checkpoints' / '20'} is damaged" in capfd.readouterr().err
    assert content(workdir) == before


def test_a_summary_speaks_of_checkpoints_that_are_there(workdir):
    steps, lines = Checkpoints(workdir).steps(), {m["step"]: m for m in read_metrics(workdir)}
    by_loss = sorted(steps, key=lambda step: lines[step]["val_loss_stream"])
    for best, before in zip(by_loss, [None, *by_loss], strict=False):
        if before:
            flip(workdir / "checkpoints" / str(before) / "metrics" / "metrics")
        with resume(workdir) as run:
            found = run.summary()
        assert found["best_step"] == best
        for name in ("val_loss_stream", "val_loss_windows"):
            assert found[name] == lines[best][name]
    assert len(by_loss) > 1


def edited(lines):
    """Somebody has made a good run of a poor one."""
    return [
        line | ({"val_loss_stream": 0.5, "val_loss_windows": 0.5} if line["step"] == 18 else {})
        for line in lines
    ]


@pytest.mark.parametrize("change", [edited, lambda lines: [], None, lambda lines: lines[:2]])
def test_a_summary_does_not_hang_on_the_metrics(change, workdir, finished, capfd):
    """They may be edited, emptied, deleted or cut; each checkpoint carries its own losses."""
    path, wanted = workdir / "metrics.jsonl", json.loads((finished / "summary.json").read_text())
    if change is None:
        path.unlink()
    else:
        lines = change(read_metrics(workdir))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with resume(workdir) as run:
        run.train()
        found = run.summary()
    checked = {"best_step", "val_loss_stream", "val_loss_windows", "step", "targets"}
    assert {name: found[name] for name in checked} == {name: wanted[name] for name in checked}
    warned = "metrics.jsonl does not reach step 20" in capfd.readouterr().err
    assert warned == (change is not edited)


def test_none_left_is_an_error_and_nothing_is_touched(workdir):
    for folder in (workdir / "checkpoints").iterdir():
        flip(folder / "state" / "manifest.ocdbt")
    before = content(workdir)
    for use in (resume, lambda workdir: load_model(workdir, "latest")):
        with pytest.raises(
            UserError, match=r"no checkpoint is left undamaged.*manifest.*nothing was"
        ):
            use(workdir)
    assert content(workdir) == before


def test_the_checksums_are_those_of_sha256sum(finished):
    folder = finished / "checkpoints" / "20"
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    wanted = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name.as_posix()}"
        for name in files_of(folder)
        if name.name != "SHA256SUMS"
    ]
    assert sorted(lines) == sorted(wanted)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_what_a_killed_process_was_writing_or_deleting_is_no_checkpoint(workdir):
    checkpoints = workdir / "checkpoints"
    shutil.copytree(checkpoints / "20", checkpoints / "24.part")
    truncate(checkpoints / "24.part" / "SHA256SUMS")
    (workdir / ".metrics.jsonl.abc.part").write_text("{")
    (workdir / "figures" / ".curves.png.abc.part").write_text("")
    assert int(load_model(workdir, "latest")[0].step) == 20
    with resume(workdir) as run:
        assert run.step == 20
    assert not list(workdir.rglob("*.part"))


def rewrite(workdir, change):
    """Changes what a run says of itself, with checksums that fit."""
    for path in [workdir / "config.json", *workdir.rglob("description/metadata")]:
        described = json.loads(path.read_text())
        change(described)
        path.write_text(json.dumps(described))
    for sums in workdir.rglob("SHA256SUMS"):
        lines = []
        for line in sums.read_text().splitlines():
            name = line.partition("  ")[2]
            digest = hashlib.sha256((sums.parent / name).read_bytes()).hexdigest()
            lines.append(f"{digest}  {name}\n")
        sums.write_text("".join(lines))


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("number", [FORMAT - 1, FORMAT + 1])
def test_another_format_is_refused_and_nothing_is_touched(number, with_config, workdir):
    rewrite(workdir, lambda described: described.update(format=number))
    if not with_config:
        (workdir / "config.json").unlink()
    before = content(workdir)
    message = (
        rf"by another version of lstm_jax, in format {number}, .* reads format {FORMAT}: choose"
    )
    for use in (resume, lambda workdir: load_model(workdir, "latest")):
        with pytest.raises(UserError, match=message):
            use(workdir)
    assert content(workdir) == before


@pytest.mark.parametrize("name", ["lr[0.1]", "a]", "gs:/bucket"])
def test_a_folder_whose_checkpoints_nobody_could_read_is_refused(name, tmp_path):
    (tmp_path / name).mkdir(parents=True)
    for folder in (tmp_path / name, tmp_path / name / "below"):
        with pytest.raises(UserError, match=r"no checkpoint can be kept below .* because of the"):
            run_in(folder)
    assert [*tmp_path.rglob("*.json")] == []


def test_a_file_in_the_place_of_what_a_killed_process_wrote(workdir):
    (workdir / "checkpoints" / "7.part").touch()
    with resume(workdir) as run:
        assert run.step == 20
    assert not (workdir / "checkpoints" / "7.part").exists()


@pytest.mark.parametrize("key", ["format", "dtype", "config", "identity", "interface"])
def test_a_description_without_one_of_its_parts_is_none(key, workdir):
    rewrite(workdir, lambda described: described.pop(key))
    for use in (resume, lambda workdir: load_model(workdir, "latest")):
        with pytest.raises(UserError, match=f"its {key} is None"):
            use(workdir)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model.hidden_size": 9}, r"model.hidden_size is 8 there and 9 here"),
        ({"model.num_layers": 1}, r"model.num_layers is 2 there and 1 here"),
        ({"optimizer.name": "sgd"}, r"optimizer.name is 'adamw' there and 'sgd' here"),
        ({"train.on_nonfinite": "skip"}, r"train.on_nonfinite is 'stop' there and 'skip' here"),
        ({"train.seed": 1}, r"train.seed is 0 there and 1 here"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_another_model_is_refused_and_nothing_is_touched(change, message, with_config, workdir):
    if not with_config:
        (workdir / "config.json").unlink()
    flip(workdir / "checkpoints" / "20" / "state" / "manifest.ocdbt")  # it is not for us to move it
    before = content(workdir)
    with pytest.raises(UserError, match=message):
        run_in(workdir, CONFIG.replace(change))
    assert content(workdir) == before


@pytest.mark.parametrize("allowed", [0, -1])
def test_a_file_larger_than_any_of_ours_is_not_read(allowed, workdir, monkeypatch):
    config = workdir / "config.json"
    monkeypatch.setattr(files, "JSON_LIMIT_BYTES", config.stat().st_size + allowed)
    if not allowed:
        resume(workdir).close()
        return
    with pytest.raises(UserError, match=r"config.json cannot be read \(it has .* bytes, more than"):
        resume(workdir)


FREE = {
    "data.path",
    "data.validation_path",
    "data.test_path",
    "data.held_out",
    "data.right",
    "data.test_symbols",
    "data.tokens",
    "train.steps_per_dispatch",
    "train.validate_every",
    "train.sample_length",
    "train.keep_checkpoints",
    "evaluate.window_length",
    "evaluate.lanes",
    "evaluate.warmup",
}


@pytest.mark.parametrize("key", CONFIG.flatten())
def test_every_option_that_decides_about_the_training_makes_another_run(key):
    here = Description.of(CONFIG, TextTask(CONFIG, TEXT))
    described = here.to_json()
    assert here.differences(described) == []
    described["config"][key] = 5 if key == "train.steps" else "other"
    differ = [found.partition(" is ")[0] for found in here.differences(described)]
    assert differ == ([] if key in FREE else [key])


def test_another_alphabet_and_another_dtype_are_refused(workdir):
    rewrite(workdir, lambda described: described["identity"].update(alphabet="\nabd"))
    with pytest.raises(UserError, match=r"the text text \(500 char.* has another alphabet than"):
        resume(workdir)
    rewrite(workdir, lambda described: described["identity"].update(alphabet="\nabc"))
    rewrite(workdir, lambda described: described.update(dtype="float64"))
    with pytest.raises(UserError, match=r"dtype is 'float64' there and 'float32' here"):
        resume(workdir)
    with pytest.raises(UserError, match=r"are float64 and this process computes in float32"):
        load_model(workdir, "latest")


def test_the_latest_and_the_best_are_kept(workdir):
    metrics = {
        m["step"]: m["val_loss_stream"] for m in read_metrics(workdir) if "val_loss_stream" in m
    }
    checkpoints = Checkpoints(workdir)
    assert checkpoints.best_step(checkpoints.steps()) == min(metrics, key=metrics.get)
    assert checkpoints.steps() == sorted({*sorted(metrics)[-2:], min(metrics, key=metrics.get)})
    for step in checkpoints.steps():
        saved = json.loads((checkpoints.path(step) / "metrics" / "metrics").read_text())
        assert saved["val_loss_stream"] == metrics[step]
        state, _ = checkpoints.restore(step)
        assert int(state.step) == step and all(
            np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)
        )


@pytest.mark.parametrize("gone", ["checkpoints", "checkpoints/*"])
def test_a_finished_run_without_its_checkpoints_is_not_begun_over(gone, workdir):
    """Which would undo its metrics and samples."""
    for folder in [*workdir.glob(gone)]:
        shutil.rmtree(folder)
    before = content(workdir)
    with pytest.raises(UserError, match="metrics of 20 steps and no checkpoint"):
        resume(workdir)
    assert content(workdir) == before
    (workdir / "metrics.jsonl").rename(workdir / "kept")
    with resume(workdir) as run:
        assert run.step == 0


@pytest.mark.parametrize(
    "losses, kept",
    [
        ([3.0, 1.0, 2.0, 2.5, 2.7], [2, 4, 5]),
        ([1.0, None, 2.0, None, None], [1, 4, 5]),
        ([None, None, None, None, None], [4, 5]),
        ([3.0, 2.5, 2.0, 1.0, 2.0], [4, 5]),
    ],
)
def test_of_many_the_latest_two_and_the_best_are_kept(losses, kept, tmp_path, monkeypatch):
    """The best is long past, or was never validated, or is one of the latest."""

    def write(folder, state, description, scores):
        (folder / METRICS).parent.mkdir(parents=True)
        if scores:
            (folder / METRICS).write_text(json.dumps(scores))

    monkeypatch.setattr(checkpoint, "write_checkpoint", write)
    before = {*threading.enumerate()}
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, loss in enumerate(losses, start=1):
        scores = {"val_loss_stream": loss, "val_loss_windows": -loss} if loss else {}
        checkpoints.save(TrainState(np.int32(step), (), (), ()), None, scores)
    assert {*threading.enumerate()} - before
    checkpoints.close()
    assert {*threading.enumerate()} <= before
    assert checkpoints.steps() == kept
