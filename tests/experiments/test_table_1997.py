"""The table of 1997: its rows fit their networks, and it is trained, resumed, printed and drawn."""

import json

import numpy as np
import pytest

from experiments.studies import table_1997
from experiments.support.rows_1997 import COLUMNS, ROWS, Modern, Paper, Row
from experiments.support.trials import Trials
from lstm_jax.config import Config, TrainConfig
from lstm_jax.heads import HEADS
from lstm_jax.tasks.adding import AddingTask
from lstm_jax.tasks.drawn import Stopping


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_each_rows_network_fits_its_task(row):
    task, network = row.task(0), row.network
    assert (network.inputs, network.outputs) == task.interface[:2]
    assert row.rate in network.rates and row.trials in (10, 18, 20, 30)
    assert HEADS[task.interface.head].by_hand is not None
    assert row.from_streak == (task.stopping.window == 10_000)


def test_a_trial_has_four_times_the_papers_sequences():
    """And as many more as a rule asks for that are not counted."""
    longest = {row.name: row.longest for row in ROWS}
    assert longest["4 adding, T 100"] == 4 * 74_000
    assert longest["2a noise-free, p 100"] == 4 * 5_040 + 10_000
    assert longest["1 embedded Reber, 3 blocks of 2, rate 0.5"] == 200_000


def test_the_rows_are_all_different():
    assert len({row.name for row in ROWS}) == len(ROWS) == 32


def test_the_trials_of_a_row_differ_in_their_sequences():
    """And of the first experiment, each ten in their sets of strings."""
    first = next(row for row in ROWS if row.name.startswith("1 "))
    sets = [first.task(trial).set for trial in range(first.trials)]
    assert sets == [1] * 10 + [2] * 10 + [3] * 10


def short_task(trial):
    """Adding, of which every tenth wrong answer is as many as may be."""
    task = AddingTask(length=20, held_out=256, batch_size=1, seed=trial)
    task.stopping = Stopping(window=4, wrong_below=5)
    return task


ROW = Row(
    name="short, T 20",
    task=short_task,
    paper=Paper(40.0),
    network=next(row.network for row in ROWS if row.name.startswith("4 ")),
    rate=0.5,
    trials=2,
    most=12,
    modern=Modern(4, 1e-2, 2, chrono=10, halves=8),
    test_every=4,
    from_streak=True,
)


@pytest.mark.usefixtures("standard_promotion")  # optax's decay of a rate
def test_it_is_trained_once_printed_and_drawn(tmp_path, monkeypatch, capsys):
    """Solved by a rule that four sequences meet, whatever they come to."""
    monkeypatch.setattr(table_1997, "ROWS", (ROW,))
    monkeypatch.setattr(table_1997, "BY_NAME", {ROW.name: ROW})
    monkeypatch.setattr(table_1997, "usable_cpus", lambda: 1)
    config = Config(train=TrainConfig(steps=8))
    assert table_1997.main(config, tmp_path) == 0
    printed = capsys.readouterr()
    (line,) = [line for line in printed.out.splitlines() if line.startswith(ROW.name)]
    assert line.split("short, T 20")[1].split() == ["40", "(100", "%)"] + ["0", "(100", "%)"] * 2
    known = json.loads((tmp_path / "table_1997.json").read_text())["rows"][ROW.name]
    assert known["faithful"]["sequences"] == known["modern"]["sequences"] == [0, 0]
    assert np.shape(known["faithful"]["wrong"]) == (2,)
    assert (tmp_path / "figures" / "table_1997.png").stat().st_size > 10_000
    monkeypatch.setattr(Trials, "run", lambda *_: pytest.fail("it trains"))
    table_1997.main(config, tmp_path)
    assert capsys.readouterr().out == printed.out


@pytest.mark.parametrize(
    "known, most, seed, done",
    [
        ({"most": 8, "seed": 0, "solved": [True, False]}, 8, 0, True),
        ({"most": 8, "seed": 0, "solved": [True, False]}, 9, 0, False),
        ({"most": 8, "seed": 0, "solved": [True, True]}, 9, 0, True),
        ({"most": 8, "seed": 1, "solved": [True, True]}, 8, 0, False),
    ],
)
def test_more_is_trained_where_not_all_are_solved(known, most, seed, done, tmp_path):
    path = tmp_path / "row.json"
    path.write_text(json.dumps(known))
    assert table_1997.is_done(path, most, seed) == done
    assert not table_1997.is_done(tmp_path / "other.json", most, seed)


def test_a_column_has_the_mean_of_what_was_solved_and_its_share():
    known = {"most": 900, "solved": [True, False, True], "sequences": [100, 900, 301]}
    assert table_1997.cell_of_table(known) == "200 (67 %)"
    assert table_1997.cell_of_table(known | {"solved": [False] * 3}) == "> 900 (0 %)"


def test_a_faithful_trial_is_the_papers():
    row = next(row for row in ROWS if row.name.startswith("6a"))
    recipe = COLUMNS["faithful"](row)
    assert (recipe.batch_size, recipe.truncated, recipe.head) == (1, True, HEADS["sigmoid_squared"])
    updates, _ = recipe.rule.update({"w": np.float32(2.0)}, recipe.rule.init({"w": np.float32(0)}))
    assert updates["w"] == -row.rate * 2.0


def test_experiments_2_4_and_5_learn_without_the_derivative_of_their_outputs():
    for row in ROWS:
        recipe, name = COLUMNS["faithful"](row), row.name.partition(" ")[0]
        derivative = name not in ("2a", "2b", "4", "5")
        assert recipe.head == HEADS["sigmoid_squared" if derivative else "bernoulli"], name
        assert recipe.online == (name == "2a")
        last_only = getattr(row.task(0), "last_only", False)
        assert last_only == (name == "2b")
