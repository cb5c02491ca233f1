"""The odyssey: a search that is resumed, and what its numbers are said to show."""

import json
import math

import numpy as np
import pytest

from experiments.studies import odyssey
from experiments.support import search
from experiments.support.search import Problem
from lstm_jax.config import Config
from lstm_jax.data.batches import Batch
from lstm_jax.model import Interface
from lstm_jax.run import style
from tests.cli import TEXT, call, process_in

FEW = ["peephole", "no_forget_gate"]
LINE = [
    *("--experiment=odyssey", "--workdir=run", "--config.data.path=text"),
    *("--config.train.sequence_length=3", "--config.train.batch_size=2"),
    "--config.train.validate_every=1",
]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What a search of two cells and two configurations, on a text, says; of three, where a line
    was cut; and of the same again, where nothing may be trained."""
    folder = tmp_path_factory.mktemp("odyssey")
    (folder / "text").write_bytes(TEXT)
    with process_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(odyssey, "CELLS_IN_WORDS", {k: odyssey.CELLS_IN_WORDS[k] for k in FEW})
        patch.setattr(odyssey, "DRAWN", {})
        patch.setattr(odyssey, "HELD_OUT", 4)
        patch.setattr(search, "SIZES", (2, 4))
        for module in (search, odyssey):
            patch.setattr(module, "RANGES", 1)
        first = call(*LINE, "--config.train.steps=2")
        (path,) = (folder / "run" / "search").glob("*/*.jsonl")
        whole = path.read_text()
        path.write_text(whole[:-20])  # killed within a line
        more = call(*LINE, "--config.train.steps=3")
        resumed = path.read_text()
        patch.setattr(odyssey, "Side", None)
        again = call(*LINE, "--config.train.steps=3")
        other = call(*LINE, "--config.train.steps=3", "--config.train.batch_size=1")
    return folder / "run", (first, more, again, other), (whole, resumed)


def without_seconds(text):
    return [
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in text.split("\n")[:-1]
    ]


def test_a_search_goes_on_where_it_was_stopped(done):
    _, (first, more, again, _), (whole, resumed) = done
    assert first.code == more.code == again.code == 0, (first, more, again)
    assert more.stdout == again.stdout != first.stdout
    before, after = without_seconds(whole), without_seconds(resumed)
    key = lambda line: (line["cell"], line["number"])  # noqa: E731
    assert sorted(map(key, after[1:])) == sorted((cell, n) for cell in FEW for n in range(3))
    known = {key(line): line for line in before[1:]}
    for line in after[1:]:
        if line["number"] < 2:  # whatever they were trained beside
            wanted = known[key(line)]
            assert line.pop("loss") == pytest.approx(wanted.pop("loss"), rel=1e-4)
            assert line == wanted


def test_a_search_by_other_values_is_refused(done):
    *_, other = done[1]
    assert other.code == 2 and "train.batch_size=2, not 1" in other.stderr


def test_the_numbers_are_those_of_the_lines(done):
    folder, (_, more, *_), (_, resumed) = done
    lines = [json.loads(line) for line in resumed.splitlines()[1:]]
    found = json.loads((folder / "odyssey.json").read_text())["tasks"]["text"]
    for cell in FEW:
        losses = [line["loss"] for line in lines if line["cell"] == cell]
        assert found["cells"][cell]["configurations"] == 3
        assert found["cells"][cell]["best"] == [min(*losses, found["reference"])]
        assert f"{found['cells'][cell]['best'][0]:.4g}" in more.stdout
    assert "too few" in more.stdout
    assert (folder / "figures" / "odyssey.png").exists()


def test_a_text_is_read_in_windows(tmp_path, monkeypatch):
    (tmp_path / "text").write_bytes(TEXT)
    config = Config().replace({"data.path": str(tmp_path / "text"), "train.sequence_length": 5})
    problem = odyssey.text_problem(config)
    batch = problem.draw(np.random.default_rng(0), 7)
    assert batch.inputs.shape == batch.targets.shape == (5, 7)
    np.testing.assert_array_equal(batch.inputs[1:], batch.targets[:-1])
    assert problem.held_out.inputs.shape == (5, odyssey.HELD_OUT)
    assert problem.reference < math.log(problem.interface.output_size)


def line(loss, cell="peephole"):
    drawn = {"learning_rate": 0.1, "size": 20, "noise": 0.5, "momentum": 0.9}
    return json.dumps({"cell": cell, "number": 0, "loss": loss, **drawn})


def test_what_diverges_counts_as_the_best_constant(tmp_path):
    problem = Problem("a", "nats/char", Interface.of(2), None, Batch(None, None), 1.5)
    path = tmp_path / "search" / "a" / "0.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(["{}", line(None), line(7.0), line(0.5)]) + "\n")
    assert odyssey.found_on(problem, tmp_path)["peephole"]["loss"] == [1.5, 1.5, 0.5]


def summary(means, **found):
    """A task's summary in which cells have these means, and differ from 1.0 significantly if they
    differ at all."""
    cells = {}
    for cell in odyssey.CELLS_IN_WORDS:
        mean = means.get(cell, 1.0)
        best = [mean - 0.01, mean, mean + 0.01]
        of = {"configurations": 30, "best": best, "worse": mean > 1, "better": mean < 1}
        cells[cell] = of | {
            "ratios": best,
            "ratio": mean,
            "p": None if cell == odyssey.BASE else 0.5,
        }
    drawn = {"learning_rate": 0.6, "size": 0.2, "noise": 0.1, "momentum": 0.0}
    return {
        "unit": "nats/char",
        "reference": 3.0,
        "cells": cells,
        "shares": drawn | {"learning_rate x size": 0.02} | found,
    }


AS_THE_PAPER = {"no_forget_gate": 2.0, "no_output_activation": 1.9, "no_input_gate": 1.5}


@pytest.mark.parametrize(
    "means, found, denied",
    [
        (AS_THE_PAPER, {}, []),
        (AS_THE_PAPER | {"no_forget_gate": 1.2}, {}, [3]),
        (AS_THE_PAPER | {"no_forget_gate": 1.0}, {}, [1, 3]),
        (AS_THE_PAPER | {"coupled_peephole": 1.1, "no_peepholes": 1.1}, {}, [4, 5]),
        (AS_THE_PAPER | {"full_gate_recurrence": 0.9}, {}, [0, 6]),
        (AS_THE_PAPER | {"gru": 0.5}, {}, []),
        (AS_THE_PAPER, {"noise": 0.7}, [7]),
        (AS_THE_PAPER, {"learning_rate x size": 0.3}, [8]),
    ],
)
def test_which_conclusions_hold(means, found, denied):
    answers = [*odyssey.verdicts(summary(means, **found)).values()]
    assert [n for n, holds in enumerate(answers) if not holds] == denied


@pytest.mark.parametrize(
    "change", [{"reference": 1.04}, {"cells": {"peephole": {"best": [1.0], "p": None}}}]
)
def test_nothing_is_concluded_from_too_little(change):
    """Where vanilla is hardly better than a constant, or the others were not compared."""
    assert {*odyssey.verdicts(summary(AS_THE_PAPER) | change).values()} == {None}


def test_each_task_has_a_panel_and_each_cell_a_box(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(odyssey, "save", lambda figure, path: kept.append(figure))
    tasks = {"text": summary(AS_THE_PAPER), "adding": summary({"gru": 0.5})}
    odyssey.draw({"about": "", "tasks": tasks}, tmp_path / "a.png")
    (figure,) = kept
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == [
        *odyssey.CELLS_IN_WORDS.values()
    ]
    colors = [[patch.get_edgecolor() for patch in axes.patches] for axes in (first, second)]
    from matplotlib.colors import to_rgba

    red, green = to_rgba(style.COLORS[1]), to_rgba(style.COLORS[2])
    assert [n for n, color in enumerate(colors[0]) if color == red] == [1, 2, 5]
    assert [n for n, color in enumerate(colors[1]) if color == green] == [9]
    assert len(colors[0]) == len(odyssey.CELLS_IN_WORDS)
