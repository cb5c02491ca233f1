"""The ablation: its figures are those of its runs, and what is done is not done again."""

import json
import statistics

import pytest

from experiments.studies import tiny_shakespeare_ablation as ablation
from experiments.support import seeds
from lstm_jax.run.metrics import read_metrics
from tests.cli import TEXT, TRAIN, call, line_of, process_in

FEW = ("base", "exponential average of weights")
EVERY = ablation.VARIANTS
VARIANTS = {name: ablation.VARIANTS[name] for name in FEW}
LINE = line_of(TRAIN | {"experiment": "tiny_shakespeare_ablation", "config.train.steps": "2"})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a finished ablation of two variants and two seeds, and what it printed."""
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "text").write_bytes(TEXT)
    with process_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "VARIANTS", VARIANTS)
        patch.setattr(seeds, "SEEDS", range(2))
        first = call(*LINE)
        times = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics/metrics")}
        again = call(*LINE)
        kept = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics/metrics")}
    assert first.code == again.code == 0, (first, again)
    assert len(times) == 4 and kept == times
    return folder / "run", first, again


def test_what_is_done_is_not_done_again(done):
    _, first, again = done
    assert again.stdout == first.stdout


def test_its_figures_are_those_of_its_runs(done):
    folder, first, _ = done
    runs = json.loads((folder / "ablation.json").read_text())["variants"]
    assert tuple(runs) == FEW
    for name, suffix in zip(FEW, ("", "_average"), strict=True):
        for seed, found in enumerate(runs[name]):
            lines = read_metrics(folder / name.replace(" ", "_") / f"seed_{seed}")
            validated = [line for line in lines if "val_loss_stream" in line]
            best = min(validated, key=lambda line: line[f"val_loss_stream{suffix}"])
            assert found["windows"] == best[f"val_loss_windows{suffix}"]
    losses = [run["stream"] for run in runs["base"]]
    assert len(set(losses)) == 2  # the seeds differ
    assert f"{statistics.mean(losses):.4f} ± {statistics.stdev(losses):.4f}" in first.stdout
    others = [run["stream"] for run in runs[FEW[1]]]
    change = statistics.mean(others) - statistics.mean(losses)
    assert f"{statistics.mean(others):.4f} ± {statistics.stdev(others):.4f}" in first.stdout
    assert f"  {change:+.4f}  " in first.stdout.splitlines()[2]
    assert (folder / "figures" / "tiny_shakespeare_ablation.png").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        ("train.seed", 1),
        ("train.average", "ema"),
        ("model.dropout", 0.1),
        ("model.skip", "weighted"),
    ],
)
def test_what_it_varies_itself_cannot_be_given(name, value, tmp_path):
    with process_in(tmp_path):
        found = call("--experiment=tiny_shakespeare_ablation", f"--config.{name}={value}")
    assert found.code == 2 and f"--config.{name} means nothing" in found.stderr


@pytest.mark.parametrize(
    "flag, message",
    [
        (
            "model.num_layers=1",
            "the variant `weighted skip`: model.skip=weighted needs two layers",
        ),
        ("data.validation_fraction=0", "the ablation needs a validation split"),
        ("optimizer.final_ratio=0.1", "means nothing to --experiment=tiny_shakespeare_ablation"),
    ],
)
def test_what_a_variant_cannot_do_is_refused_before_the_first_run(flag, message, done):
    folder = done[0].parent
    with process_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "VARIANTS", EVERY)
        line = [given for given in LINE if not given.startswith("--config.evaluate.")]
        found = call(*line, f"--config.{flag}", "--workdir=other")
    assert found.code == 2 and message in found.stderr and found.stdout == ""
    assert not (folder / "other").exists()
