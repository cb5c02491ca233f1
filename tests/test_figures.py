"""Curves: what is drawn is what was written down, one run apart from the next."""

import math

import pytest

from lstm_jax import figures


def line(step, **values):
    return {"step": step, "characters": step * 10**6, "learning_rate": 0.1 / step, **values}


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
    return lambda runs: figures.draw_curves(runs, "title", tmp_path / "no.png") or kept[-1].axes[0]


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
