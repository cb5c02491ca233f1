"""The speedrun: the processes it starts and what it says of them. No test looks at a time."""

import json
from types import SimpleNamespace

import pytest

from experiments.studies import speedrun
from lstm_jax.config import Config
from lstm_jax.errors import UserError

TINY = {
    "model.hidden_size": 4,
    "train.batch_size": 2,
    "train.steps": 2,
    "train.validate_every": 1,
    "optimizer.warmup_steps": 0,
}


@pytest.fixture
def tiny(tmp_path) -> Config:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question\n" * 20)
    return speedrun.get_config().replace({**TINY, "data.path": str(text)})


@pytest.mark.long
def test_it_trains_every_seed_from_nothing_and_then_with_kept_programs(
    tiny, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(speedrun, "SEEDS", range(1))
    monkeypatch.setattr(speedrun, "TARGET", 100.0)
    assert speedrun.main(tiny, tmp_path) == 0
    found = json.loads((tmp_path / "speedrun.json").read_text())
    assert found["config"]["train.batch_size"] == 2
    (entry,) = found["seeds"]
    first, second = entry["compiling"], entry["compiled before"]
    assert 0 < first["reached_s"] <= first["end_s"] and 0 < second["reached_s"] <= second["end_s"]
    assert first["val_loss_windows"] == second["val_loss_windows"]  # kept programs change no bit
    assert capsys.readouterr().out.splitlines()[2].startswith("median")


def test_a_seed_that_does_not_get_there_leaves_no_median(tiny, tmp_path, capsys, monkeypatch):
    times = iter([1.0, 2.0, 3.0, None, 5.0, 6.0])

    def race(config, workdir, programs):
        return {
            "reached_s": next(times),
            "end_s": 9.0,
            "val_loss_windows": float(config.train.seed),
        }

    monkeypatch.setattr(speedrun, "race", race)
    monkeypatch.setattr(speedrun, "SEEDS", range(3))
    assert speedrun.main(tiny, tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["0", "1.00", "s", "2.00", "s", "0.0000"]
    assert lines[2].split() == ["1", "3.00", "s", "not", "reached", "1.0000"]
    assert lines[4].split() == ["median", "3.00", "s", "not", "reached"]


def test_the_target_is_reached_by_any_validation_so_far(tmp_path, monkeypatch):
    written = {"targets": 1, "learning_rate": 0.1, "seconds": 1.0}
    lines = [{"step": step, **written} for step in (1, 2, 3)]
    lines[1] |= {"val_loss_stream": 1.0, "val_loss_windows": speedrun.TARGET}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in lines[:1]))
    assert not speedrun.reached(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in lines))
    assert speedrun.reached(tmp_path)


def test_the_command_says_all_that_differs(tiny, tmp_path):
    config = tiny.replace({"train.seed": 3})
    command = speedrun.command_of(config, tmp_path / "run", tmp_path / "programs")
    given = dict(part.removeprefix("--").split("=", 1) for part in command[3:])
    changes = {k.removeprefix("config."): v for k, v in given.items() if k.startswith("config.")}
    flat = config.flatten()
    assert {k: type(flat[k])(v) for k, v in changes.items()} == {k: flat[k] for k in changes}
    base = speedrun.tiny_shakespeare_small.get_config().flatten()
    assert {k for k in flat if flat[k] != base[k]} == set(changes)


def test_a_run_that_fails_ends_it_with_its_reason(tiny, tmp_path, monkeypatch):
    config = SimpleNamespace(flatten=lambda: {**tiny.flatten(), "train.steps": 0})
    with pytest.raises(UserError, match=r"train\.steps"):
        speedrun.race(config, tmp_path / "run", tmp_path / "programs")


def test_what_no_run_could_do_is_refused_before_there_is_one(tiny, tmp_path, capsys):
    for changes, message in (
        ({"data.path": str(tmp_path / "nowhere")}, "No such file"),
        ({"train.sequence_length": 2000}, "needs 4001"),
        ({"data.validation_fraction": 0.0}, "needs a validation split"),
    ):
        with pytest.raises(UserError, match=message):
            speedrun.main(tiny.replace(changes), tmp_path)
    assert capsys.readouterr().out == "" and [p.name for p in tmp_path.iterdir()] == ["text.txt"]
