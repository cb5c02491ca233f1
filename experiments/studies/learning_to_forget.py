"""The continual embedded Reber grammar: learned with forget gates, and not without them.

The first experiment of Gers, Schmidhuber and Cummins 2000, "Learning to Forget: Continual
Prediction with LSTM" (Neural Computation 12), whose Table 2 it repeats: the paper's network of 424
weights, its rule, its streams and its tests (`support.truncated_rtrl`, `support.streams`), a
hundred trials of each row, of at most 30,000 training streams.

    standard, external reset  no forget gates; the zero state, from outside, before each string
    standard                  no forget gates, which is forget gates of 1
    state decay               forget gates of 0.9
    forget gates              they learn
    forget gates, rate decay  and the rate, 0.5 at a stream's beginning, decays by 0.99 per symbol

    perfect   10 test streams of 100,000 symbols, and no wrong step; beside it the mean of the
              training streams until then
    good      more than 1,000 right steps before a test stream's first wrong one, in the mean of
              the 10; beside it the mean of that. It is of the weights after the last stream
    rest      all others, and the mean again

As in the paper, so far as it was to be had: initial weights and biases, the rate, when a stream
ends and that a test follows each. Chosen: the squared error with the derivative of the sigmoid, an
update at the wrong step, too, and targets (`tasks.continual_reber`).

The rows take turns. What is done is not done again, and what was stopped goes on: trials that are
nearly perfect take hours, because their streams are long. `--config.train.steps=1000`, at most so
many streams per trial, takes minutes. What a folder has so far is printed and drawn by
`python -m experiments.studies.learning_to_forget WORKDIR`.
"""

import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.support.output import end_with, say_written
from experiments.support.streams import STREAM, Algorithm, Streams
from experiments.support.timing import describe_machine
from lstm_jax.config import Config, TrainConfig
from lstm_jax.errors import UserError
from lstm_jax.files import write_json
from lstm_jax.run.style import COLORS, draw_from, new_figure, picture, save
from lstm_jax.terminal import say, show

READS = ("train.steps", "train.seed")
TRIALS, STREAMS = 100, 30_000
GOOD = 1000  # right steps, in the mean, that a good solution has more of
TURN_S = 20.0  # of a row, after which it is saved


class Share(NamedTuple):
    """Of trials, in percent; and their mean, of streams or of right steps: None of no trial."""

    percent: float
    mean: float | None = None


class Paper(NamedTuple):
    """A row of Table 2."""

    perfect: Share
    good: Share
    rest: Share


class Row(NamedTuple):
    algorithm: Algorithm
    paper: Paper


ROWS = {
    "standard, external reset": Row(
        Algorithm(held=1.0, resets=True), Paper(Share(74, 7441), Share(0), Share(26, 31))
    ),
    "standard": Row(Algorithm(held=1.0), Paper(Share(0), Share(1, 1166), Share(99, 37))),
    "state decay": Row(Algorithm(held=0.9), Paper(Share(0), Share(0), Share(100, 56))),
    "forget gates": Row(Algorithm(), Paper(Share(18, 18_889), Share(29, 39_171), Share(53, 145))),
    "forget gates, rate decay": Row(
        Algorithm(decay=0.99), Paper(Share(62, 14_087), Share(6, 68_464), Share(32, 30))
    ),
}
KINDS = Paper._fields


def get_config() -> Config:
    return Config(train=TrainConfig(steps=STREAMS))


def state_of(workdir: Path, name: str, seed: int) -> Path:
    """Where a row's trials are kept."""
    words = "".join(letter if letter.isalnum() else "_" for letter in name)
    return workdir / "trials" / f"{words}.{seed}.npz"


def begin(workdir: Path, seed: int) -> dict[str, Streams]:
    """The trials of every row, where they were left."""
    rows = {name: Streams(row.algorithm, TRIALS, seed) for name, row in ROWS.items()}
    for name, trials in rows.items():
        if (path := state_of(workdir, name, seed)).exists():
            trials.load(path)
    return rows


def train(rows: dict[str, Streams], most: int, seed: int, workdir: Path) -> None:
    """Trains all of them, in turns."""
    running = {name: trials.run(most) for name, trials in rows.items()}
    while running:
        for name, turn in [*running.items()]:
            end = time.monotonic() + TURN_S
            if all(time.monotonic() < end for _ in turn):
                del running[name]
            rows[name].save(state_of(workdir, name, seed))
            say(f"{name}: {in_words(rows[name], most)}")


def in_words(trials: Streams, most: int) -> str:
    solved = np.asarray(trials.lanes.solved)
    return (
        f"{solved.sum()} of {len(solved)} perfect, {len(trials.going(most))} still learning after "
        f"{np.asarray(trials.lanes.streams).mean():,.0f} streams and "
        f"{trials.symbols.mean():,.0f} symbols each, in {trials.seconds:,.0f} s"
    )


def outcome(trials: Streams, most: int) -> dict[str, Any]:
    """What the trials have come to, those that are not over included."""
    solved, streams, longest = (
        np.asarray(a) for a in (trials.lanes.solved, trials.lanes.streams, trials.lanes.longest)
    )
    right = np.full(len(solved), float(STREAM))
    if len(others := np.flatnonzero(~solved)):
        right[others] = trials.test(others)
    return {
        "solved": solved.tolist(),
        "streams": streams.tolist(),
        "symbols": trials.symbols.tolist(),
        "right": right.tolist(),
        "longest": longest.tolist(),
        "learning": trials.going(most).tolist(),
        "seconds": trials.seconds,
    }


def shares_of(known: dict[str, Any]) -> Paper:
    """An outcome as a row of the table."""
    solved, streams, right = (np.array(known[name]) for name in ("solved", "streams", "right"))
    good = ~solved & (right > GOOD)

    def share(which: np.ndarray, values: np.ndarray) -> Share:
        mean = float(values[which].mean()) if which.any() else None
        return Share(100 * float(which.mean()), mean)

    return Paper(share(solved, streams), share(good, right), share(~solved & ~good, right))


def in_table(share: Share) -> str:
    """As `18 % (18,889)`."""
    mean = "" if share.mean is None else f" ({share.mean:,.0f})"
    return f"{share.percent:.0f} %{mean}"


def numbers_of(table: dict[str, Any]) -> dict[str, Any]:
    """What is drawn: of each row the shares, in the paper and here, and how many still learn."""
    return {
        "trials": table["trials"],
        "most": table["most"],
        "rows": {
            name: {
                "paper": [share.percent for share in ROWS[name].paper],
                "here": [share.percent for share in shares_of(known)],
                "learning": len(known["learning"]),
            }
            for name, known in table["rows"].items()
        },
    }


@picture
def draw(numbers: dict[str, Any], path: Path) -> None:
    """Two bars per row, the paper's and this one's, in three parts."""
    rows = numbers["rows"]
    learning = sum(row["learning"] for row in rows.values())
    figure = new_figure(
        1.6 + 0.5 * len(rows),
        "Forget gates, and streams that nobody cuts into strings",
        f"The continual embedded Reber grammar: shares of {numbers['trials']} trials after at most "
        f"{numbers['most']:,} streams"
        + (f"; {learning} in all still learn." if learning else ".")
        + " Perfect: 10 streams of 100,000 symbols without a wrong step. Good: more than 1,000 "
        "right steps in the mean.",
        7.0,
    )
    axes = figure.subplots()
    for place, row in enumerate(rows.values()):
        for shift, who in ((-0.19, "paper"), (0.19, "here")):
            left = 0.0
            for kind, percent, color in zip(KINDS, row[who], COLORS[:1] + COLORS[3:5], strict=True):
                label = kind if place == 0 and who == "paper" else None
                axes.barh(place + shift, percent, 0.34, left, color=color, label=label)
                left += percent
            axes.annotate(who, (101, place + shift), size=7, va="center", annotation_clip=False)
    axes.set_yticks(range(len(rows)), list(rows), size=8)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5), xlabel="% of the trials")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3)
    save(figure, path)


def main(config: Config, workdir: Path) -> int:
    """Trains what is not done, then `report`s it."""
    most, seed = config.train.steps, config.train.seed
    rows = begin(workdir, seed)
    train(rows, most, seed, workdir)
    report(rows, most, workdir)
    return 0


def report(rows: dict[str, Streams], most: int, workdir: Path) -> None:
    """Prints what the trials have come to, writes learning_to_forget.json and its picture."""
    table: dict[str, Any] = {"machine": describe_machine(), "most": most, "trials": TRIALS}
    table["rows"] = {name: outcome(trials, most) for name, trials in rows.items()}
    show(f"{'':26}{'':6}" + "".join(f"{kind:>18}" for kind in KINDS) + f"{'still learning':>17}")
    for name, known in table["rows"].items():
        for who, shares in (("paper", ROWS[name].paper), ("here", shares_of(known))):
            learning = len(known["learning"]) if who == "here" else ""
            cells = "".join(f"{in_table(share):>18}" for share in shares)
            show(f"{name if who == 'paper' else '':26}{who:6}{cells}{learning:>17}".rstrip())
    write_json(workdir / "learning_to_forget.json", table)
    draw_from(numbers_of(table), draw, workdir / "figures" / "learning_to_forget.png")
    say_written(workdir, "learning_to_forget.json", "figures/*")


def report_alone() -> None:
    """The command of the docstring."""
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "trials").is_dir():
        raise UserError("it takes WORKDIR, the folder of trials that were begun")
    folder, chosen = Path(sys.argv[1]), get_config().train
    report(begin(folder, chosen.seed), chosen.steps, folder)


if __name__ == "__main__":
    end_with(report_alone)
