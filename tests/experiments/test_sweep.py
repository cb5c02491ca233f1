"""Sweeps as typed: every run as if it had been alone, one program for all, a table at the end."""

import json

import numpy as np
import pytest

from lstm_jax import train
from lstm_jax.data.texts import read_text
from lstm_jax.errors import UserError
from lstm_jax.run.loop import Run
from lstm_jax.run.signals import Interrupted
from lstm_jax.tasks import text
from tests.cli import TEXT, TRAIN, call, is_one_line, line_of, process_in
from tests.small import assert_same_run

SMALL = TRAIN | {"config.train.steps": "4", "config.train.steps_per_dispatch": "2"}
RATES, SEEDS = ("0.001", "0.1"), ("0", "3")
SWEEP = SMALL | {
    "workdir": "sweep",
    "sweep.optimizer.learning_rate": ",".join(RATES),
    "sweep.train.seed": ",".join(SEEDS),
}
NAMES = [f"learning_rate={rate}_seed={seed}" for rate in RATES for seed in SEEDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a text lies and a sweep over it is finished; and what that said."""
    folder = tmp_path_factory.mktemp("sweep")
    for name in ("text", "a text", "a_text"):
        (folder / name).write_bytes(TEXT)
    train.dispatch_of.cache_clear()
    with process_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "draw_figures", lambda run: None)  # each takes as long as a run
        yield folder, call(*line_of(SWEEP)), train.dispatch_of.cache_info()


def test_every_run_is_as_if_it_had_been_alone(folder):
    """Bit for bit, and of two of them alone."""
    for rate, seed in (("0.1", "0"), ("0.001", "3")):
        alone = SMALL | {
            "config.optimizer.learning_rate": rate,
            "config.train.seed": seed,
            "workdir": f"alone-{rate}",
        }
        assert call(*line_of(alone)).code == 0
        swept = folder[0] / "sweep" / f"learning_rate={rate}_seed={seed}"
        assert_same_run(swept, folder[0] / f"alone-{rate}")
        assert call("--mode=sample", f"--workdir={swept}", "--length=4").code == 0


def test_one_program_serves_the_whole_grid(folder):
    _, done, programs = folder
    assert done.code == 0 and (programs.misses, programs.hits) == (1, len(NAMES) - 1)


def test_the_table_has_mean_and_deviation_over_the_seeds_the_lowest_loss_first(folder):
    path, done, _ = folder
    rows = []
    for rate in RATES:
        runs = [f"learning_rate={rate}_seed={seed}" for seed in SEEDS]
        summaries = [
            json.loads((path / "sweep" / run / "summary.json").read_text()) for run in runs
        ]
        row = [rate]
        for name in ("val_loss_stream", "val_loss_windows"):
            losses = [summary[name] for summary in summaries]
            row += [f"{np.mean(losses):.4f}", "±", f"{np.std(losses, ddof=1):.4f}"]
        rows.append([*row, "2"])
    rows.sort(key=lambda row: row[1])
    table = [line.split() for line in done.stdout.splitlines()]
    assert table == [["learning_rate", "stream", "windows", "runs"], *rows]
    assert [f"run {n} of 4: {name}" in done.stderr for n, name in enumerate(NAMES, 1)] == [True] * 4
    found = json.loads((path / "sweep" / "sweep.json").read_text())
    assert [run["folder"] for run in found["runs"]] == NAMES
    assert found["runs"][3]["values"] == {"optimizer.learning_rate": 0.1, "train.seed": 3}
    assert (path / "sweep" / "figures" / "sweep.png").stat().st_size > 10_000


def test_what_is_done_is_not_done_again(folder, monkeypatch):
    """Nor is the text read more than once."""
    _, done, _ = folder
    monkeypatch.setattr(Run, "batches", lambda *_: pytest.fail("it trains"))
    reads = []
    monkeypatch.setattr(text, "read_text", lambda data: reads.append(data) or read_text(data))
    again = call(*line_of(SWEEP))
    assert len(reads) == 1
    assert again.stdout == done.stdout and again.stderr.count("resuming at step 4") == 4


def test_a_stopped_sweep_goes_on(folder, monkeypatch):
    """Stopped in its third run, as by a signal."""
    path, done, _ = folder
    stopped = SWEEP | {"workdir": "stopped"}
    with monkeypatch.context() as patch:
        trained = Run.train

        def stop(run):
            if run.workdir.name == NAMES[2]:
                raise Interrupted(15, 0)
            trained(run)

        patch.setattr(Run, "train", stop)
        assert call(*line_of(stopped)).code == 128 + 15
    assert not (path / "stopped" / NAMES[3]).exists()
    again = call(*line_of(stopped))
    assert again.stdout == done.stdout and again.stderr.count("resuming") == 2
    for name in NAMES:
        assert_same_run(path / "stopped" / name, path / "sweep" / name)


def test_where_a_run_fails_the_others_go_on(folder, monkeypatch):
    trained = Run.train

    def fail(run):
        if run.workdir.name == NAMES[0]:
            raise UserError("the loss is nan")
        trained(run)

    monkeypatch.setattr(Run, "train", fail)
    done = call(*line_of(SWEEP | {"workdir": "failed"}))
    assert done.code == 2 and "error: the loss is nan" in done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("0.001") and last.endswith("1, 1 failed")


@pytest.mark.parametrize(
    "flags, said",
    [
        ({"sweep.model.hiden_size": "3,4"}, "sweep.model.hiden_size"),
        ({"sweep.train.seed": "0,one"}, "takes an integer, 0 or more, not 'one'"),
        ({"sweep.train.seed": "0,-1"}, "seed lies between"),
        ({"sweep.train.seed": "0,0"}, "a value twice"),
        ({"sweep.model.cell": "lstm,gruu"}, "takes one of lstm, "),
        ({"sweep.model.hidden_sizes": "4,4;0"}, "beside model.hidden_sizes"),
        ({"sweep.train.seed": "0,1", "config.train.seed": "1"}, "leave one out"),
        ({"sweep.train.seed": "0,1", "mode": "sample"}, "nothing to --mode=sample"),
        ({"sweep.train.seed": "0,1", "experiment": "benchmark"}, "is a study"),
        ({"sweep.data.task": "text,adding"}, "of one task"),
        ({"sweep.optimizer.momentum": "0.1,0.9"}, "nothing to adamw"),
        ({"sweep.data.path": "a text,a_text"}, "two runs of the sweep"),
        ({"sweep.model.hidden_size": "4,60000"}, "hidden_size=60000"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(flags, said, folder):
    swept = {name.replace("sweep.", "config.", 1) for name in flags if name not in SMALL}
    kept = {} if "experiment" in flags else {k: v for k, v in SMALL.items() if k not in swept}
    done = call(*line_of(kept | {"workdir": "refused"} | flags))
    assert done.code == 2 and is_one_line(done.stderr) and said in done.stderr
    assert not (folder[0] / "refused").exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        ({"workdir": "sweep"}, "sweep holds a sweep: name the folder of one of its runs"),
        ({"workdir": "sweep", "mode": "sample"}, "sweep holds a sweep: name the folder of one"),
        (
            {"workdir": f"sweep/{NAMES[0]}", "sweep.train.seed": "0,1"},
            "holds a run, which is no sweep",
        ),
        (
            {"workdir": "sweep", "sweep.train.seed": "0,1"},
            "sweep holds a sweep of optimizer.learning_rate, train.seed: choose another",
        ),
        ({"sweep.data.tokens": "characters,bytes"}, "are in nats/byte and nats/char"),
    ],
)
def test_a_sweep_and_a_run_do_not_share_a_folder_nor_two_units_a_table(flags, said, folder):
    before = sorted(folder[0].rglob("*"))
    kept = {} if "mode" in flags else SMALL
    done = call(*line_of({"workdir": "refused"} | kept | flags))
    assert done.code == 2 and said in done.stderr.splitlines()[-1], done.stderr
    assert sorted(folder[0].rglob("*")) == before
