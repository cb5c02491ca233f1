"""Curves: what is drawn is what was written down, one run apart from the next."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command.catalogue import EXPERIMENTS, is_study
from experiments.studies import benchmark, tiny_shakespeare_ablation, verify_gradients
from experiments.studies import figures as figures_study
from lstm_jax.model_config import ModelConfig
from lstm_jax.run import figures
from lstm_jax.run.figures import Recipe, curves_of
from lstm_jax.run.metrics import read_metrics
from lstm_jax.run.style import COLORS, FAINT, FORMATS, drawn_as
from lstm_jax.verification.compare import Row
from tests.cli import TEXT, TRAIN, call, is_one_line, line_of, process_in

ROOT = Path(__file__).parent.parent.parent


def line(step, **values):
    return {"step": step, "targets": step * 10**6, "learning_rate": 0.1 / step, **values}


def scored(step, stream, windows):
    return line(step, train_loss=1.0, val_loss_stream=stream, val_loss_windows=windows)


# Best by `stream` at step 2 and at step 1, where `windows` is not at its own best.
RUNS = [
    [scored(1, 2.0, 2.5), scored(2, 1.0, 3.0), line(3)],
    [scored(1, 4.0, 5.5), line(2, train_loss=4.0), scored(3, 5.0, 5.0)],
]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The axes of the losses, as they would be saved, of one recipe or several."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))

    def draw(*recipes, drops=False, **more):
        recipes = [Recipe(f"recipe {n}", runs, drops) for n, runs in enumerate(recipes)]
        curves = json.loads(json.dumps(curves_of(recipes, "title", "nats/char", **more)))
        figures.draw_curves(curves, tmp_path / "no.png")
        return kept[-1].axes[0]

    return draw


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def lines_of(axes, color):
    """The lines of a colour that have more than one point, as lists of points."""
    lines = [line for line in axes.lines if line.get_color() == color]
    return [line.get_xydata().tolist() for line in lines if len(line.get_xydata()) > 1]


def dots_of(axes, color):
    lines = [line for line in axes.lines if line.get_color() == color]
    return [tuple(line.get_xydata()[0]) for line in lines if len(line.get_xydata()) == 1]


def test_each_seed_has_a_line_and_what_is_not_there_is_a_gap(drawn):
    first, second = lines_of(drawn(RUNS), FAINT)
    assert first[:2] == [[1, 1], [2, 1]] and first[2][0] == 3 and math.isnan(first[2][1])
    assert second == [[1, 1], [2, 4], [3, 1]]


def test_one_run_is_labelled_with_what_is_kept_of_it(drawn):
    assert labels(drawn(RUNS[:1])) == [
        "training",
        "validation, stream: 1.000",
        "validation, windows: 3.000",
        "the step that is kept",
    ]


def test_several_are_labelled_with_the_mean_of_what_is_kept_which_is_marked(drawn):
    axes = drawn(RUNS, drops=True)
    assert labels(axes)[:3] == [
        "training, with dropout",
        "validation, stream: 2.500 (mean of 2)",
        "validation, windows: 4.250 (mean of 2)",
    ]
    assert lines_of(axes, COLORS[0]) == [[[1, 2], [2, 1]], [[1, 4], [3, 5]]]
    assert dots_of(axes, COLORS[0]) == [(2, 1), (1, 4)]
    assert dots_of(axes, COLORS[1]) == [(2, 3), (1, 5.5)]  # not the best by `windows`


def test_of_several_recipes_each_has_a_colour_and_one_loss(drawn):
    axes = drawn(RUNS[:1], RUNS, RUNS[1:])
    assert labels(axes)[:3] == [
        "recipe 0: 1.000",
        "recipe 1: 2.500 (mean of 2)",
        "recipe 2: 4.000",
    ]
    assert "validation, stream" in axes.get_ylabel()
    counts = [len(lines_of(axes, color)) for color in COLORS[:3]]
    assert counts == [1, 2, 1] and lines_of(axes, FAINT) == []
    assert lines_of(axes, COLORS[2]) == [[[1, 4], [3, 5]]]


def test_more_recipes_than_colours_are_still_told_apart():
    pairs = [*itertools.islice(figures.styles(), 24)]
    assert len(set(map(str, pairs))) == 24


def test_the_colours_are_apart_in_grey():
    from matplotlib.colors import to_rgb

    weights = (0.299, 0.587, 0.114)
    greys = [sum(w * c for w, c in zip(weights, to_rgb(color), strict=True)) for color in COLORS]
    assert all(lighter - darker > 0.07 for darker, lighter in itertools.pairwise(greys))


def test_references_are_dotted_lines_or_named_where_they_are_far_above(drawn):
    axes = drawn(RUNS, references={"nanoGPT, windows": 1.4697, "log V": 40.0})
    dotted = [line for line in axes.lines if line.get_ls() == ":"]
    assert [*dotted[0].get_ydata()] == [1.4697, 1.4697] and len(dotted) == 2
    assert "nanoGPT, windows: 1.470" in [text.get_text() for text in axes.texts]
    assert labels(axes)[-1] == "above: log V: 40.000" and axes.get_ylim()[1] < 40


def test_a_reference_below_the_curves_is_in_the_picture_with_its_label_off_them(drawn):
    axes = drawn(RUNS, references={"a": 0.1, "b": 5.2})
    assert axes.get_ylim()[0] < 0.1
    assert [text.get_va() for text in axes.texts] == ["top", "bottom"]


def test_the_learning_rate_is_drawn_from_zero(drawn):
    _, rate = drawn(RUNS).figure.axes
    assert rate.get_ylim()[0] == 0 and rate.get_ylim()[1] > 0.09


def test_an_average_has_curves_of_its_own_and_decides_what_is_kept(drawn):
    averaged = [
        {**scored(1, 1.0, 1.5), "val_loss_stream_average": 3.0, "val_loss_windows_average": 3.5},
        {**scored(2, 2.0, 2.5), "val_loss_stream_average": 2.5, "val_loss_windows_average": 4.0},
    ]
    assert labels(drawn([averaged]))[1:-1] == [
        "validation of the average, stream: 2.500",
        "validation of the average, windows: 4.000",
        "validation, stream: 2.000",
        "validation, windows: 2.500",
    ]


def test_without_validation_there_are_the_losses_of_training(drawn):
    runs = [[line(1, train_loss=1.0), line(2, train_loss=0.5)]]
    assert labels(drawn(runs)) == ["training"]
    axes = drawn(runs, runs)
    assert labels(axes) == ["recipe 0", "recipe 1"] and axes.get_ylabel().startswith("training")


def test_a_loss_that_a_validation_lacks_is_not_drawn(drawn):
    """As where a line of metrics.jsonl was edited."""
    lacking = line(4, train_loss=1.0, val_loss_stream=0.5)
    assert labels(drawn([[*RUNS[0], lacking]]))[1:-1] == ["validation, stream: 0.500"]


def test_a_long_run_is_drawn_by_means():
    """So that the numbers behind a picture are few."""
    metrics = [line(n, train_loss=float(n)) for n in range(1, 1001)]
    (recipe,) = curves_of([Recipe("long", [metrics])], "title", "nats/char")["recipes"]
    (run,) = recipe["runs"]
    assert len(run["targets"]) == figures.POINTS
    assert run["train_loss"][:2] == [3.0, 8.0] and run["targets"][1] == 8e6


def test_a_model_in_words():
    assert figures.in_words(ModelConfig(num_layers=2)) == "2 LSTM layers of 128 units"
    sizes = ModelConfig(cell="layer_norm", hidden_sizes=(8, 4))
    assert figures.in_words(sizes) == "2 layer norm layers of 8, 4 units"
    assert not figures.drops(ModelConfig()) and figures.drops(ModelConfig(weight_drop=0.1))


# No formulas, a letter that the font lacks, and what no SVG may have inside.
CURVES = curves_of([Recipe("$a$", RUNS)] * 2, "a $title$ 日 \x1b", "nats/char", "$ \0", {"$_": 1})


def test_every_format_that_is_asked_for_is_written_and_the_same_again(tmp_path):
    begins = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert tuple(begins) == FORMATS
    for folder in ("once", "again"):
        with drawn_as(*FORMATS):
            figures.draw_curves(CURVES, tmp_path / folder / "a.png")
    for name, begin in begins.items():
        once, again = ((tmp_path / f / f"a.{name}").read_bytes() for f in ("once", "again"))
        assert once.startswith(begin) and once == again
        assert b"CreationDate" not in once and b"<dc:date>" not in once
    figures.draw_curves(CURVES, tmp_path / "plain" / "a.png")
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--figures=png,gif"], "it takes some of png, pdf, svg"),
        (["--figures="], "it takes some of png, pdf, svg"),
        (["--figures=pdf", "--mode=sample"], "--figures means nothing to --mode=sample"),
        (["--figures=pdf", "--experiment=speedrun"], "--figures means nothing to --experiment="),
    ],
)
def test_formats_that_make_no_sense_are_refused(flags, message, tmp_path):
    with process_in(tmp_path):
        found = call(*flags)
    assert found.code == 2 and message in found.stderr and is_one_line(found.stderr)


@pytest.mark.parametrize("path", sorted(figures_study.COMMITTED.glob("*.json")), ids=str)
def test_committed_numbers_are_small_and_have_their_picture(path):
    assert path.stat().st_size < 60_000 and path.with_suffix(".png").exists()


def test_every_committed_picture_is_drawn_again_from_its_numbers(tmp_path):
    """In one format, which says nothing about the looks; a file that lacks a number is found."""
    with process_in(tmp_path):
        found = call("--experiment=figures", "--workdir=drawn", "--figures=svg")
    assert (found.code, found.stderr) == (0, "")
    committed = {path.stem for path in figures_study.COMMITTED.glob("*.json")}
    assert {path.stem for path in (tmp_path / "drawn").iterdir()} == committed
    assert set(figures_study.DRAWN_BY) < committed


# Draws the runs that come on stdin; what a notebook exports must still be there afterwards.
DRAW = """
import json, os, sys
from pathlib import Path
from lstm_jax.run.figures import draw_curves
before = dict(os.environ)
draw_curves(json.load(sys.stdin), Path("curves.png"))
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
        input=json.dumps(CURVES),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return (folder / "curves.png").read_bytes(), done.stdout


@pytest.mark.parametrize("backend", ["nonsense", pytest.param("pdf", marks=pytest.mark.long)])
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


def test_a_picture_that_fails_is_one_line_after_all_else_and_is_drawn_by_the_next_call(
    tmp_path, monkeypatch
):
    (tmp_path / "text").write_bytes(TEXT)
    drawing_at = []

    def fail_late(*args):
        drawing_at.append((tmp_path / "run" / "summary.json").exists())
        fail()

    with process_in(tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(figures, "new_figure", fail_late)
            code, stdout, stderr = call(*line_of(TRAIN))
        again = call(*line_of(TRAIN), "--figures=pdf,svg")
    assert code == 0 and "validation_loss_stream" in stdout and drawing_at == [True]
    *_, warning, last = stderr.splitlines()
    assert warning == "warning: the figure run/figures/curves.png is not drawn: it cannot be drawn"
    assert last.startswith("run has samples.txt, metrics.jsonl, ")
    names = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert again.code == 0 and names == {"curves.pdf", "curves.svg"}
    run = tmp_path / "run"
    curves = figures_study.curves_of_runs("title", "subtitle", [run, run])
    first, second = curves["recipes"][0]["runs"]
    best = min(read_metrics(run), key=lambda m: m.get("val_loss_stream", math.inf))
    assert first == second and first["validated"][first["kept"]] == best["targets"]
    assert (curves["unit"], curves["references"]) == ("nats/char", {})


def test_no_experiment_fails_for_its_picture(tmp_path, capsys, monkeypatch):
    modules = [*filter(is_study, EXPERIMENTS.values())]
    drawing = [module for module in modules if hasattr(module, "new_figure")]
    assert len(drawing) == 9
    for module in drawing:
        monkeypatch.setattr(module, "new_figure", fail)
        module.draw({}, tmp_path / "a.png")
        assert re.fullmatch(
            r"warning: the figure .*a.png is not drawn: .+\n", capsys.readouterr().err
        )


def test_a_comparison_that_fails_is_drawn_as_one(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(verify_gradients, "save", lambda figure, path: kept.append(figure))
    row = Row("autodiff ~ bptt rows", "float64", "readout.W", 1.0, 1e-13, 0.5, 3)
    rows = [row, row._replace(pair="bptt rows ~ reference", relative=math.inf)]
    verify_gradients.draw(verify_gradients.drawn_of(rows, 2), tmp_path / "a.png")
    lines = [line for line in kept[0].axes[0].lines if len(line.get_xdata()) == 1]
    assert [(line.get_xdata()[0], line.get_marker()) for line in lines] == [(1e-13, "o"), (1, "X")]
    names = [text.get_text() for text in kept[0].axes[0].get_yticklabels()]
    assert names == ["autodiff – by hand, rows", "by hand, rows – NumPy loops"]


def test_the_ablation_is_sorted_and_has_its_base_as_lines(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(tiny_shakespeare_ablation, "save", lambda figure, _: kept.append(figure))
    variants = {"base": [2.0, 0.1], "worse": [3.0, 0.1], "better": [1.0, 0.2]}
    variants = {name: {"stream": each, "windows": each} for name, each in variants.items()}
    numbers = {"about": "", "variants": variants}
    tiny_shakespeare_ablation.draw(numbers, tmp_path / "a.png")
    (axes,) = kept[0].axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["better", "base", "worse"]
    assert [*axes.containers[0].lines[0].get_xdata()] == [1, 2, 3]
    vertical = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert [[*x] for x in vertical] == [[2, 2], [2, 2]]


def test_the_benchmark_has_a_panel_per_shape_with_quartiles(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(benchmark, "save", lambda figure, path: kept.append(figure))
    entry = {**benchmark.SHAPES[0]._asdict(), "rounds": 3, "best_torch": "torch, 1 thread"}
    ms = {"lstm_jax": 4.0, "torch": 9.0, "torch, 1 thread": 5.0}
    entry["contenders"] = {n: {"ms": t, "ms_quartiles": [t - 1, t + 2]} for n, t in ms.items()}
    machine = {"cpus": 2, "processor": "P", "device": "cpu", "versions": {"jax": "1"}}
    numbers = {"machine": machine, "shapes": [entry] * 3}
    benchmark.draw(numbers, tmp_path / "a.png")
    panels = [axes for axes in kept[0].axes if axes.axison]
    assert len(panels) == 3
    assert [bar.get_width() for bar in panels[2].containers[1]] == [4, 5]
    (whiskers,) = panels[0].containers[0].lines[2]
    assert [segment[:, 0].tolist() for segment in whiskers.get_segments()] == [[3, 6], [4, 7]]
    said = " ".join(text.get_text() for text in kept[0].texts).replace("\n", " ")
    assert "2 cores of P, JAX 1" in said
