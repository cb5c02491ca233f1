"""The experiments of Hochreiter and Schmidhuber 1997 in three columns: what the paper reports,
its network trained as the paper did, and this project's LSTM. `networks_1997` says what differs.

A figure is how many sequences a trial learns from until it is solved: the mean over the trials that
are, and their share. A row's trials train at once, by one `vmap`; so many rows at once as there are
cores. What is done is not done again, and what was stopped goes on. The whole table takes hours;
`--config.train.steps=1000`, at most so many sequences per trial, takes minutes. What a folder has
so far is printed and drawn by `python -m experiments.studies.table_1997 WORKDIR`.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.support.output import end_with, say_written
from experiments.support.rows_1997 import COLUMNS, ROWS, Row
from experiments.support.timing import describe_machine
from experiments.support.trials import Trials
from lstm_jax.config import Config, TrainConfig
from lstm_jax.container import usable_cpus
from lstm_jax.errors import UserError
from lstm_jax.files import read_json, write_json
from lstm_jax.run.style import COLORS, FAINT, QUIET, draw_from, new_figure, picture, save
from lstm_jax.terminal import say, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

READS = ("train.steps", "train.seed")
IGNORES = ("cpu_devices",)  # a process per core
EVERY_S = 20.0  # between two states that are saved, and two lines
NO_LIMIT = 2**31 - 1
BY_NAME = {row.name: row for row in ROWS}
HEADER = ("paper", *COLUMNS)
PLACES = {"faithful": (-0.16, COLORS[1]), "modern": (0.16, COLORS[0])}  # off the line, and color


def get_config() -> Config:
    return Config(train=TrainConfig(steps=NO_LIMIT))


def file_of(workdir: Path, row: Row, column: str) -> Path:
    """Where a row's figures go, without an ending."""
    name = "".join(letter if letter.isalnum() else "_" for letter in row.name)
    return workdir / "trials" / f"{name}-{column}"


def train_row(name: str, column: str, most: int, seed: int, workdir: Path) -> None:
    """Trains the trials of a row, or goes on, and writes down what they came to."""
    row = BY_NAME[name]
    path, most = file_of(workdir, row, column), min(most, row.longest)
    if is_done(path.with_suffix(".json"), most, seed):
        return
    recipe = COLUMNS[column](row)
    tasks = [row.task(trial) for trial in range(row.trials)]
    trials = Trials(tasks, recipe, seed, max(1, row.test_every // recipe.batch_size))
    state = path.with_suffix(f".{seed}.npz")
    if state.exists():
        trials.load(state)
    said = time.monotonic()
    for _ in trials.run(most):
        if time.monotonic() - said > EVERY_S:
            trials.save(state)
            say(f"{name}, {column}: {in_words(trials)}")
            said = time.monotonic()
    trials.save(state)
    say(f"{name}, {column}: {in_words(trials)}, in {trials.seconds:,.0f} s")
    write_json(path.with_suffix(".json"), outcome(row, trials, most, seed))


def is_done(path: Path, most: int, seed: int) -> bool:
    """Whether a file has what a row's trials came to, by as many sequences."""
    if not path.exists():
        return False
    known = read_json(path)
    enough = known["most"] >= most or all(known["solved"])
    return bool(known["seed"] == seed and enough)


def in_words(trials: Trials) -> str:
    solved = np.asarray(trials.state.solved)
    return f"{solved.sum()} of {len(solved)} solved after {trials.learnt:,} sequences"


def outcome(row: Row, trials: Trials, most: int, seed: int) -> dict[str, Any]:
    """What trials came to: when each was solved, and how it does on sequences held out."""
    solved, sequences = (np.asarray(a) for a in (trials.state.solved, trials.state.sequences))
    scores = trials.score(trials.tasks[0].held_out_part(0))
    return {
        "most": most,
        "seed": seed,
        "solved": solved.tolist(),
        "sequences": [int(count) - row.not_counted for count in sequences],
        "wrong": np.asarray(scores.wrong.mean(1), float).tolist(),
        "error": np.asarray(scores.error.mean(1), float).tolist(),
        "seconds": trials.seconds,
    }


def train_rows(jobs: Sequence[tuple[Row, str]], most: int, seed: int, workdir: Path) -> None:
    """Trains all, a process per core; on another platform one after another."""
    calls = [(row.name, column, most, seed, workdir) for row, column in jobs]
    if jax.default_backend() != "cpu" or usable_cpus() == 1:
        for call in calls:
            train_row(*call)
        return
    # Forked, a process would have JAX's locks without the threads that hold them.
    with ProcessPoolExecutor(usable_cpus(), get_context("spawn")) as pool:
        running = [pool.submit(train_row, *call) for call in calls]
        try:
            for done in as_completed(running):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def solved_of(known: dict[str, Any]) -> list[int]:
    """When the trials were solved that were."""
    return [n for n, s in zip(known["sequences"], known["solved"], strict=True) if s]


def share_of(known: dict[str, Any]) -> float:
    """The share of the trials that were solved."""
    return len(solved_of(known)) / len(known["solved"])


def cell_of_table(known: dict[str, Any] | None) -> str:
    """The mean and the share of what was solved, as `39,740 (100 %)`; a dash where none ran."""
    if known is None:
        return "-"
    solved = solved_of(known)
    return in_table(statistics.mean(solved) if solved else known["most"], share_of(known))


def in_table(sequences: float, share: float) -> str:
    """As `39,740 (100 %)`; where nothing was solved, the most that were tried, as `> 200,000`."""
    more = "" if share else "> "
    return f"{more}{sequences:,.0f} ({share:.0%})".replace("%", " %")


def numbers_of(table: dict[str, Any]) -> dict[str, Any]:
    """What is drawn: of each row the paper's figure, and each column's trials that were solved."""
    return {"rows": {name: drawn_of(row) for name, row in table["rows"].items()}}


def drawn_of(row: dict[str, Any]) -> dict[str, Any]:
    known = {column: row[column] for column in COLUMNS if row[column] is not None}
    return {
        "paper": row["paper"]["sequences"],
        "solved": row["paper"]["solved"],
        "columns": {column: solved_of(of_column) for column, of_column in known.items()},
        "shares": {column: share_of(of_column) for column, of_column in known.items()},
        "most": {column: of_column["most"] for column, of_column in known.items()},
    }


def draw_trials(axes: "Axes", place: float, row: dict[str, Any], column: str) -> None:
    """The trials of a column that were solved, and their mean; an arrow at the most sequences
    where none was. Where it is not all, the share."""
    solved, share = row["columns"][column], row["shares"][column]
    shift, color = PLACES[column]
    axes.plot(solved, [place + shift] * len(solved), "o", ms=2.2, color=color, alpha=0.5)
    at, marker, size = (
        (statistics.mean(solved), "|", 8) if solved else (row["most"][column], ">", 3)
    )
    axes.plot([at], [place + shift], marker, ms=size, mew=2 if solved else 0, color=color)
    if share < 1:
        near: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        text = f"{share:.0%}".replace("%", " %")
        axes.annotate(text, (max(solved, default=at), place + shift), size=6, color=color, **near)


@picture
def draw(numbers: dict[str, Any], path: Path) -> None:
    """A line per row: the paper's mean, and each trial with the mean of its column."""
    rows = numbers["rows"]
    figure = new_figure(
        1.5 + 0.21 * len(rows),
        "The experiments of Hochreiter and Schmidhuber 1997",
        "Sequences until a trial is solved: dots, and the mean as a bar; an arrow where none was. "
        "Beside it the share of trials, where it is not all. faithful: the paper's network and "
        "rules. modern: this project's LSTM, Adam, the whole gradient.",
        7.0,
    )
    axes = figure.subplots()
    for place, row in enumerate(rows.values()):
        axes.axhline(place, color=FAINT, lw=0.5, zorder=0)
        label, marker = "paper" if place == 0 else None, "D" if row["solved"] else ">"
        axes.plot([row["paper"]], [place], marker, ms=5, mfc="white", color=QUIET, label=label)
        for column in row["columns"]:
            draw_trials(axes, place, row, column)
    for column in COLUMNS:
        axes.plot([], [], "|", ms=8, mew=2, color=PLACES[column][1], label=column)
    axes.set_yticks(range(len(rows)), list(rows), size=7)
    axes.tick_params(axis="y", length=0)
    axes.set(xscale="log", ylim=(len(rows) - 0.4, -0.6), xlabel="sequences learnt from")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3)
    save(figure, path)


def main(config: Config, workdir: Path) -> int:
    """Trains what is not done, then `report`s it."""
    most, seed = config.train.steps, config.train.seed
    jobs = sorted(
        ((row, column) for row in ROWS for column in COLUMNS),
        key=lambda job: job[0].paper.sequences * job[0].length,
    )
    train_rows(jobs, most, seed, workdir)
    report(workdir)
    return 0


def report(workdir: Path) -> None:
    """Prints what is done in a folder, writes table_1997.json and its picture."""
    table: dict[str, Any] = {"machine": describe_machine(), "rows": {}}
    show(f"{'sequences until solved (share of trials)':44}" + "".join(f"{h:>22}" for h in HEADER))
    for row in ROWS:
        known = {column: what_is_done(workdir, row, column) for column in COLUMNS}
        cells = [in_table(*row.paper[:2]), *map(cell_of_table, known.values())]
        show(f"{row.name:44}" + "".join(f"{cell:>22}" for cell in cells))
        table["rows"][row.name] = {"paper": row.paper._asdict(), **known}
    write_json(workdir / "table_1997.json", table)
    draw_from(numbers_of(table), draw, workdir / "figures" / "table_1997.png")
    say_written(workdir, "table_1997.json", "figures/*")


def what_is_done(workdir: Path, row: Row, column: str) -> dict[str, Any] | None:
    """What a row's trials came to; None where they are not done."""
    path = file_of(workdir, row, column).with_suffix(".json")
    return read_json(path) if path.exists() else None


def report_alone() -> None:
    """The command of the docstring."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise UserError("it takes WORKDIR, the folder of a table that was begun")
    report(Path(sys.argv[1]))


if __name__ == "__main__":
    end_with(report_alone)
