"""Curves: what is drawn is what was written down, one run apart from the next."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run import EXPERIMENTS, is_study
from lstm_jax.run import figures
from tests.cli import TEXT, TRAIN, call, line_of, process_in

ROOT = Path(__file__).parent.parent.parent


def line(step, **values):
    return {"step": step, "targets": step * 10**6, "learning_rate": 0.1 / step, **values}


def scored(step, stream, windows):
    return line(step, train_loss=1.0, val_loss_stream=stream, val_loss_windows=windows)


# The first is best by `stream` at step 2, where `windows` is not at its own best.
RUNS = [
    [scored(1, 2.0, 2.5), scored(2, 1.0, 3.0), line(3)],
    [scored(1, 5.0, 6.0), line(2, train_loss=4.0), scored(3, 4.0, 5.5)],
]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The axes of the losses, as they would be saved."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
    return lambda runs: (
        figures.draw_curves(runs, "title", "nats/char", tmp_path / "no.png") or (kept[-1].axes[0])
    )


def test_two_runs_are_apart_and_what_is_not_there_is_a_gap():
    x, y = figures.series(RUNS, "train_loss")
    assert x[:3] == [1, 2, 3] and math.isnan(x[3]) and x[4:7] == [1, 2, 3]
    assert [i for i, value in enumerate(y) if math.isnan(value)] == [2, 3, 7]
    assert y[:2] == [1, 1] and y[4:6] == [1, 4]


def test_one_run_is_labelled_with_its_best(drawn):
    labels = drawn(RUNS[:1]).get_legend_handles_labels()[1]
    assert labels == [
        "training",
        "validation, stream: 1.0000 at best",
        "validation, windows: 3.0000 there",
    ]


def test_several_are_labelled_with_the_mean_of_their_bests(drawn):
    axes = drawn(RUNS)
    assert axes.get_legend_handles_labels()[1] == [
        "training",
        "validation, stream: 2.5000 at best, on average",
        "validation, windows: 4.2500 there, on average",
    ]
    stream = axes.lines[1].get_xydata()
    points = [tuple(point) for point in stream if not math.isnan(point[1])]
    assert points == [(1, 2), (2, 1), (1, 5), (3, 4)]


def test_the_learning_rate_is_drawn_from_zero(drawn):
    _, rate = drawn(RUNS).figure.axes
    assert rate.get_ylim()[0] == 0 and rate.get_ylim()[1] > 0.1


def test_an_average_has_curves_of_its_own_and_decides_what_is_best(drawn):
    averaged = [
        {**scored(1, 1.0, 1.5), "val_loss_stream_average": 3.0, "val_loss_windows_average": 3.5},
        {**scored(2, 2.0, 2.5), "val_loss_stream_average": 2.5, "val_loss_windows_average": 4.0},
    ]
    assert drawn([averaged]).get_legend_handles_labels()[1] == [
        "training",
        "validation, stream: 2.0000 there",
        "validation, windows: 2.5000 there",
        "the average's, stream: 2.5000 at best",
        "the average's, windows: 4.0000 there",
    ]


def test_without_validation_there_are_the_losses_of_training(drawn):
    assert drawn([[line(1, train_loss=1.0)]]).get_legend_handles_labels()[1] == ["training"]


# Draws the runs that come on stdin; what a notebook exports must still be there afterwards.
DRAW = """
import json, os, sys
from pathlib import Path
from lstm_jax.run.figures import draw_curves
before = dict(os.environ)
draw_curves(json.load(sys.stdin), "title", "nats/char", Path("curves.png"))
assert os.environ == before
from matplotlib import rcParams
print(rcParams["savefig.dpi"], dict.__getitem__(rcParams, "backend"))
"""
SETTINGS = """
text.usetex: True
savefig.dpi: 7
figure.dpi: 3
font.size: 40
axes.facecolor: black
savefig.format: pdf
savefig.bbox: tight
lines.linewidth: 9
axes.spines.left: False
"""


def drawn_in(folder, **environment):
    """The picture that a process of its own draws there, and what the user has set, after it."""
    done = subprocess.run(
        [sys.executable, "-c", DRAW],
        input=json.dumps([[dict(line) for line in run] for run in RUNS]),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return (folder / "curves.png").read_bytes(), done.stdout


@pytest.mark.parametrize("backend", ["nonsense", "pdf"])
def test_a_picture_is_the_same_whatever_matplotlib_is_set_to(backend, tmp_path):
    for name in ("plain", "set"):
        (tmp_path / name).mkdir()
    (tmp_path / "set" / "matplotlibrc").write_text(SETTINGS)
    plain, left = drawn_in(tmp_path / "plain")
    assert plain.startswith(b"\x89PNG") and left.startswith("figure ")
    # What the user has set stays so for the user's own pictures.
    again, left = drawn_in(tmp_path / "set", MPLBACKEND=backend)
    assert again == plain and left.startswith("7.0 ") and (backend == "pdf") == ("pdf" in left)


def fail(*args):
    raise RuntimeError("it cannot be\ndrawn")


def test_a_picture_that_fails_is_one_line_after_all_else(tmp_path, monkeypatch):
    (tmp_path / "text").write_bytes(TEXT)
    drawing_at = []

    def fail_late(*args):
        drawing_at.append((tmp_path / "run" / "summary.json").exists())
        fail()

    monkeypatch.setattr(figures, "new_figure", fail_late)
    with process_in(tmp_path):
        code, stdout, stderr = call(*line_of(TRAIN))
    assert code == 0 and "validation_loss_stream" in stdout and drawing_at == [True]
    *_, warning, last = stderr.splitlines()
    assert warning == "warning: the figure run/figures/curves.png is not drawn: it cannot be drawn"
    assert last.startswith("run has samples.txt, metrics.jsonl, ")


def test_no_experiment_fails_for_its_picture(tmp_path, capsys, monkeypatch):
    modules = [*filter(is_study, EXPERIMENTS.values())]
    drawing = [module for module in modules if hasattr(module, "new_figure")]
    assert len(drawing) == 5
    for module in drawing:
        monkeypatch.setattr(module, "new_figure", fail)
        module.draw(
            [], *([""] if module.__name__.endswith("long_sequences") else []), tmp_path / "a.png"
        )
        assert re.fullmatch(
            r"warning: the figure .*a.png is not drawn: .+\n", capsys.readouterr().err
        )
