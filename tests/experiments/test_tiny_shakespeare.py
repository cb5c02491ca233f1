"""The record: its lines are those of its runs, and of what `--ensemble` makes of them; what it
could not do is found before the first run."""

import json
import re
import statistics

import pytest

from experiments.support import seeds
from lstm_jax.run.metrics import read_metrics
from tests.cli import TEXT, TRAIN, call, line_of, process_in

CHANGES = {"config.train.steps": "3", "config.train.validate_every": "1"}
LINE = line_of(TRAIN | CHANGES | {"experiment": "tiny_shakespeare"})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a record of two seeds, what it printed, and what it printed the next time."""
    folder = tmp_path_factory.mktemp("record")
    (folder / "text").write_bytes(TEXT)
    with process_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "SEEDS", range(2))
        first = call(*LINE)
        times = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics/metrics")}
        again = call(*LINE)
        kept = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics/metrics")}
        mode = ("--mode=evaluate", "--workdir=run/seed_0", "--ensemble=run/seed_1")
        scored = call(*mode).stdout
    assert first.code == again.code == 0, (first, again)
    assert times and kept == times and again.stdout == first.stdout
    return folder / "run", first.stdout, scored


def lines_of(stdout):
    return {line[:8].strip(): line[8:].split() for line in stdout.splitlines()[1:]}


def test_a_seed_s_line_is_its_best_by_stream(done):
    folder, stdout, _ = done
    for seed in range(2):
        metrics = read_metrics(folder / f"seed_{seed}")
        best = min(metrics, key=lambda line: line["val_loss_stream"])
        windows, stream, *_ = lines_of(stdout)[f"seed {seed}"]
        assert float(windows) == pytest.approx(best["val_loss_windows"], abs=5e-5)
        assert float(stream) == pytest.approx(best["val_loss_stream"], abs=5e-5)


@pytest.mark.parametrize("protocol", ["windows", "stream"])
def test_the_mean_is_over_the_seeds(protocol, done):
    folder, stdout, _ = done
    runs = json.loads((folder / "record.json").read_text())["seeds"]
    losses = [run[f"val_loss_{protocol}"] for run in runs]
    assert len(set(losses)) == 2  # the seeds differ
    found = lines_of(stdout)["mean"]
    mean, sign, deviation = found[:3] if protocol == "windows" else found[3:6]
    assert sign == "±" and float(mean) == pytest.approx(statistics.mean(losses), abs=5e-5)
    assert float(deviation) == pytest.approx(statistics.stdev(losses), abs=5e-5)


def test_the_ensemble_is_that_of_the_folders(done):
    folder, stdout, scored = done
    found = dict(re.findall(r"validation_loss_(\w+)_ensemble +(\S+)", scored))
    windows, stream, parameters = lines_of(stdout)["ensemble"]
    assert (windows, stream) == (found["windows"], found["stream"])
    of_seed = lines_of(stdout)["seed 0"][2]
    one, both = (int(number.replace(",", "")) for number in (of_seed, parameters))
    assert both == 2 * one
    assert (folder / "figures" / "tiny_shakespeare.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_of_its_own_cannot_be_given(tmp_path):
    with process_in(tmp_path):
        found = call(*LINE, "--config.train.seed=1")
    assert found.code == 2 and "--config.train.seed means nothing" in found.stderr


def test_without_a_validation_split_there_is_no_record(tmp_path):
    (tmp_path / "text").write_bytes(TEXT)
    with process_in(tmp_path):
        line = [flag for flag in LINE if not flag.startswith("--config.evaluate.")]
        found = call(*line, "--config.data.validation_fraction=0")
    assert found.code == 2 and "the record needs a validation split" in found.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_another_run_is_found_before_the_first_begins(done):
    folder = done[0].parent
    (folder / "other" / "seed_1").mkdir(parents=True)
    described = (done[0] / "seed_1" / "config.json").read_text()
    described = described.replace('hidden_size": 4', 'hidden_size": 5')
    (folder / "other" / "seed_1" / "config.json").write_text(described)
    with process_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "SEEDS", range(2))
        found = call(*LINE, "--workdir=other")
    assert found.code == 2 and found.stdout == ""
    assert "other/seed_1 holds another run: " in found.stderr
    assert [path.name for path in (folder / "other").iterdir()] == ["seed_1"]


def test_a_link_below_is_not_followed(tmp_path):
    (tmp_path / "text").write_bytes(TEXT)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "seed_0").mkdir(parents=True)
    (tmp_path / "run" / "seed_0" / "figures").symlink_to(tmp_path / "elsewhere")
    with process_in(tmp_path):
        found = call(*LINE)
    assert found.code == 2 and "seed_0/figures is a link" in found.stderr
    assert [*(tmp_path / "elsewhere").iterdir()] == []


def test_a_record_is_of_three_seeds():
    assert [*seeds.SEEDS] == [0, 1, 2]
