"""What progress shows of lines of metrics, on a terminal and elsewhere."""

import io
import sys
import time

import pytest

from lstm_jax.run.progress import Progress, in_time


def line_at(step, seconds, targets_per_second, **more):
    counted = {"step": step, "targets": 100 * step, "seconds": seconds}
    return {**counted, "train_loss": 2.0, "targets_per_second": targets_per_second, **more}


def test_the_speed_is_counted_from_the_last_validation(capsys):
    """Not from the line's own, of one dispatch, except where there is no other yet."""
    losses = {"val_loss_stream": 1.5, "val_loss_windows": 1.6}
    progress = Progress(60, 0, "nats/char")
    progress.update(line_at(10, 2.0, 500))
    progress.update(line_at(20, 2.5, 2000, **losses))  # 10 steps in half a second
    progress.update(line_at(30, 4.0, 666))
    progress.update(line_at(40, 4.5, 9000, **losses))  # 20 steps in two
    shown = [line.split()[-5] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["500", "2,000", "1,000"]


@pytest.fixture
def clock(monkeypatch):
    """The time, as the test sets it."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_elsewhere_a_line_comes_every_ten_seconds_at_a_validation_and_at_the_end(capsys, clock):
    progress = Progress(60, 20, "nats/char")
    losses = {"val_loss_stream": 1.5, "val_loss_windows": 1.6}
    for step, seconds, more in (
        (22, 4, {}),  # the first of all
        (24, 8, {}),
        (26, 13, {}),
        (28, 14, {}),  # ten seconds after the first
        (30, 15, losses),
        (32, 24, {}),
        (60, 24, {}),
    ):
        clock[0] = 100.0 + seconds
        progress.update(line_at(step, float(seconds), 500, **more))
    lines = capsys.readouterr().err.splitlines()
    shown = [line.split()[1] for line in lines]
    assert shown == ["22/60", "28/60", "30/60", "60/60"]
    # So far 2 steps in 4 seconds, 8 in 14, 10 in 15.
    assert [line.split()[-3] for line in lines[:3]] == ["76", "56", "45"]
    assert lines[3].endswith(" chars/s")  # and nothing is left
    assert [line.split()[3] for line in lines] == ["2.0000"] * 4
    said = [" stream 1.5000 windows 1.6000 " in line for line in lines]
    assert said == [False, False, True, False]


def test_the_time_left_has_validations_in_it_but_not_the_first_which_is_compiled(capsys, clock):
    """A step takes a second, the first validation 100 seconds, the second ten; and what a run has
    done before is counted at its own speed."""
    progress = Progress(60, 20, "nats/char", 500.0)
    losses = {"val_loss_stream": 1.5}
    for step, elsewhere in ((30, 100), (35, 100), (40, 110), (50, 120)):
        clock[0] = 100.0 + step - 20 + elsewhere
        progress.update(line_at(step, 500.0 + step - 20, 500, **losses))
    lines = capsys.readouterr().err.splitlines()
    # 30 x 1, 25 x 1, 20 x (1 + 10 / 10), 10 x (1 + 20 / 20)
    assert [line.split()[-3] for line in lines] == ["30", "25", "40", "20"]


def test_on_a_terminal_it_is_a_bar_that_ends_its_line(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(60, 20, "nats/char")
    progress.update(line_at(30, 2.0, 500, val_loss_stream=1.5, val_loss_windows=1.6))
    progress.update(line_at(60, 4.0, 500))
    progress.close()
    assert terminal.getvalue().endswith("\n")
    last = terminal.getvalue().rstrip().split("\r")[-1]
    for shown in (" 60/60 ", "val stream 1.5000 windows 1.6000", "1,500 chars/s"):
        assert shown in last


def test_the_averages_losses_are_those_shown(capsys):
    losses = {f"val_loss_{name}": 9.0 for name in ("stream", "windows")}
    averages = {"val_loss_stream_average": 1.25, "val_loss_windows_average": 1.5}
    Progress(60, 0, "nats/char").update(line_at(10, 2.0, 500, skipped=3, **losses, **averages))
    shown = capsys.readouterr().err
    wanted = "validation of the average stream 1.2500 windows 1.5000  3 updates skipped  500 char"
    assert wanted in shown


@pytest.mark.parametrize(
    "seconds, said", [(9.4, "9 s"), (119, "119 s"), (3000, "50 min"), (9000, "2.5 h")]
)
def test_how_long_something_takes(seconds, said):
    assert in_time(seconds) == said
