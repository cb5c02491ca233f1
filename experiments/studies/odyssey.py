"""Which part of an LSTM matters: its eight variants, and the GRU, each by a random search.

A small version of Greff et al. 2017 (LSTM: A Search Space Odyssey). For every cell, on each of
three tasks, configurations are drawn as in the paper: learning rate log-uniform from 1e-6 to 1e-2,
1 - momentum log-uniform from 0.01 to 1, size log-uniform from 20 to 200, and the deviation of the
noise on the inputs uniform from 0 to 1. Each is trained and scored. The table has the best tenth of
every cell. Cells are compared by all configurations whose rate learns, what was drawn for them
taken into account (`effects`), because the best of a few dozen are those with the luckiest draws.

    --config.train.validate_every=N   steps of each configuration, after which it is scored
    --config.train.steps=M            steps of all configurations of a cell: M / N of them
    --config.train.seed=S             another search. Those in a folder count together, and may go
                                      on side by side, in as many processes
    --config.optimizer.name=sgd       the paper's: Nesterov's momentum

What differs from the paper: the tasks; one direction; a thousand steps of a batch in place of up
to 150 epochs, and no choice among epochs; the first weights, with a forget bias. And Adam, whose b1
is the momentum that is drawn, because within so few steps the paper's optimizer hardly learns.
Every sequence begins at the zero state, also those of the text. What is done is in `search/`, a
line for each configuration, and is not done again.
"""

import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.support.effects import Comparison, best_tenth, compare, shares
from experiments.support.naming import as_name
from experiments.support.output import say_written
from experiments.support.search import (
    RANGES,
    Configuration,
    Problem,
    Rule,
    Side,
    draw_configuration,
)
from experiments.support.timing import describe_machine
from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from lstm_jax.data.batches import Batch, bare
from lstm_jax.errors import UserError
from lstm_jax.files import append, parse_json, write_atomically, write_json
from lstm_jax.run.metrics import whole_lines
from lstm_jax.run.style import COLORS, QUIET, STRONG, draw_from, new_figure, picture, save
from lstm_jax.tasks import TASKS
from lstm_jax.tasks.drawn import DrawnTask
from lstm_jax.tasks.text import TextTask
from lstm_jax.terminal import overwrite, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

READS = (
    "data.corpus",
    "data.path",
    "model.forget_bias",
    "optimizer.name",
    "optimizer.clip_norm",
    "train.batch_size",
    "train.sequence_length",
    "train.seed",
    "train.steps",
    "train.validate_every",
)
BASE = "peephole"
CELLS_IN_WORDS = {
    BASE: "vanilla",
    "no_input_gate": "no input gate",
    "no_forget_gate": "no forget gate",
    "no_output_gate": "no output gate",
    "no_input_activation": "no input activation",
    "no_output_activation": "no output activation",
    "coupled_peephole": "coupled gates",
    "no_peepholes": "no peepholes",
    "full_gate_recurrence": "full gate recurrence",
    "gru": "GRU",
}
# The tasks beside the text, with what is not at its default.
DRAWN: dict[str, dict[str, Any]] = {"adding": {"data.length": 20}, "embedded_reber": {}}
HELD_OUT = 256  # windows of a text that are scored
SIDE_BY_SIDE = {"cpu": 7}  # configurations of one range of sizes; a core gains nothing by more
ELSEWHERE = 100
LEARNS_FROM = 1e-4  # a rate: by a lower one, so few steps change too little to tell cells apart
HYPERPARAMETERS = ("learning_rate", "size", "noise", "momentum")
LEARNT = 0.95  # of the best constant's loss: what is below has learnt something
INDEPENDENT_BELOW = 0.1  # what rate and size have together, as a share of the variance


def get_config() -> Config:
    return Config(
        data=DataConfig(corpus="tiny_shakespeare"),
        model=ModelConfig(cell=BASE),
        optimizer=OptimizerConfig(name="adam", schedule="constant"),
        train=TrainConfig(batch_size=16, sequence_length=50, steps=20 * 1000, validate_every=1000),
    )


def main(config: Config, workdir: Path) -> int:
    """Searches, in rounds of some configurations of every cell on every task; prints the tables,
    and writes odyssey.json and its picture, after each."""
    rule, number = rule_of(config), count_of(config)
    problems = [text_problem(config), *map(drawn_problem, DRAWN)]
    files = {p.name: file_of(workdir, p, config) for p in problems}
    machine, said = describe_machine(), time.monotonic()
    jobs = [*jobs_of(number, problems)]
    for done, (problem, cell, numbers, last) in enumerate(jobs, start=1):
        overwrite(f"{done} of {len(jobs)}: {problem.name}, {CELLS_IN_WORDS[cell]}")
        search(problem, cell, numbers, rule, files[problem.name])
        if last:
            overwrite(f"{done} of {len(jobs)}, {time.monotonic() - said:,.0f} s", end="\n")
            report(problems, config, machine, workdir)
    say_written(workdir, "odyssey.json", "figures/*")
    return 0


def rule_of(config: Config) -> Rule:
    """How every configuration is trained."""
    optimizer, train = config.optimizer, config.train
    if optimizer.name not in ("adam", "sgd"):
        raise UserError(f"optimizer.name={optimizer.name} is not for the odyssey: take adam or sgd")
    return Rule(
        optimizer=optimizer.name,
        clip_norm=optimizer.clip_norm,
        steps=train.validate_every,
        batch_size=train.batch_size,
        forget_bias=config.model.forget_bias,
        seed=train.seed,
    )


def count_of(config: Config) -> int:
    """How many configurations of each cell; UserError where there are none."""
    steps, each = config.train.steps, config.train.validate_every
    if steps < each:
        raise UserError(
            f"train.steps={steps}, of all configurations of a cell, are fewer than the "
            f"train.validate_every={each} of each: give more"
        )
    return steps // each


def text_problem(config: Config) -> Problem:
    """A text in windows, each from the zero state."""
    T, task = config.train.sequence_length, TextTask.of(config)
    training, validation = bare(task.split.train), task.split.validation
    if validation is None or min(len(training), len(validation)) <= T:
        raise UserError(
            f"the odyssey wants more than {T} {task.text.vocabulary.plural} to train on and to "
            "validate on: take a longer text, or a smaller train.sequence_length"
        )

    def windows(ids: np.ndarray, starts_B: np.ndarray) -> Batch:
        positions_TxB = starts_B + np.arange(T)[:, None]
        return Batch(ids[positions_TxB].astype(int), ids[positions_TxB + 1].astype(int))

    def draw(rng: np.random.Generator, count: int) -> Batch:
        return windows(training, rng.integers(len(training) - T, size=count))

    scored = bare(validation)
    starts = np.linspace(0, len(scored) - T - 1, HELD_OUT).astype(int)
    _, reference = task.references().values()
    held_out = windows(scored, starts)
    return Problem(as_name(task.text.name), task.unit, task.interface, draw, held_out, reference)


def drawn_problem(name: str) -> Problem:
    """A task whose sequences are drawn."""
    task = TASKS[name].of(Config().replace({"data.task": name} | DRAWN[name]))
    assert isinstance(task, DrawnTask)
    reference = min(task.references().values())
    held_out = task.held_out_part(0)
    return Problem(name, task.unit, task.interface, task.draw, held_out, reference, task.score)


# What is learnt, which cell, the numbers of its configurations, and whether a round ends with it.
Job = tuple[Problem, str, list[int], bool]


def jobs_of(count: int, problems: list[Problem]) -> Iterator[Job]:
    """All that is to be done, in rounds; what is trained side by side is of one range of sizes."""
    at_once = RANGES * SIDE_BY_SIDE.get(jax.default_backend(), ELSEWHERE)
    for start in range(0, count, at_once):
        numbers = range(start, min(count, start + at_once))
        of_ranges = [[n for n in numbers if n % RANGES == part] for part in range(RANGES)]
        jobs = [
            (problem, cell, part)
            for problem in problems
            for part in filter(None, of_ranges)
            for cell in CELLS_IN_WORDS
        ]
        for place, job in enumerate(jobs, start=1):
            yield *job, place == len(jobs)


def file_of(workdir: Path, problem: Problem, config: Config) -> Path:
    """Where a search on a problem is written down, a line for each configuration; the first line
    says how. UserError where the folder has a search by other values."""
    folder = workdir / "search" / problem.name
    for other in sorted(folder.glob("*.jsonl")):
        check_same(other, config)
    path = folder / f"{config.train.seed}.jsonl"
    # Without a last line that was cut, to which another would be added.
    lines = read_lines(path) or [settings_of(config)]
    write_atomically(path, b"".join(map(as_line, lines)))
    return path


def settings_of(config: Config) -> dict[str, Any]:
    """What searches have in common that count together."""
    values = config.flatten()
    return {name: values[name] for name in READS if name not in ("train.steps", "train.seed")}


def check_same(path: Path, config: Config) -> None:
    """UserError where a file is of a search by other values."""
    for known in read_lines(path)[:1]:
        for name, wanted in settings_of(config).items():
            if known.get(name) != wanted:
                raise UserError(
                    f"{path} is of a search by {name}={known.get(name)}, not {wanted}: take that "
                    "value, or another --workdir"
                )


def as_line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value) + "\n").encode()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What a file of a search has so far."""
    try:
        return [parse_json(line) for line in whole_lines(path).splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); mend or delete it") from error


def search(problem: Problem, cell: str, numbers: list[int], rule: Rule, path: Path) -> None:
    """Trains what is not done of some configurations, and writes down how they do."""
    known = {(line["cell"], line["number"]) for line in read_lines(path)[1:]}
    numbers = [number for number in numbers if (cell, number) not in known]
    if not numbers:
        return
    place = [*CELLS_IN_WORDS].index(cell)
    drawn = [draw_configuration(number, rule.seed, place) for number in numbers]
    start = time.perf_counter()
    scores = [*Side(problem, cell, numbers[0] % RANGES, rule).train(drawn)]
    seconds = (time.perf_counter() - start) / len(drawn)
    append(path, b"".join(map(as_line, outcomes(cell, numbers, drawn, scores, seconds))))


def outcomes(
    cell: str,
    numbers: list[int],
    drawn: list[Configuration],
    scores: list[dict[str, float]],
    seconds: float,
) -> Iterator[dict[str, Any]]:
    """A line for each configuration; a loss that is not finite is null."""
    for number, one, score in zip(numbers, drawn, scores, strict=True):
        finite = {k: v if math.isfinite(v) else None for k, v in score.items()}
        yield {"cell": cell, "number": number, **one._asdict(), **finite, "seconds": seconds}


def found_on(problem: Problem, workdir: Path) -> dict[str, dict[str, list[float]]]:
    """Of each cell the losses of all searches in the folder, and what was drawn for them.

    What learns less than the best constant, or diverges, counts as that constant.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for path in sorted((workdir / "search" / problem.name).glob("*.jsonl")):
        for line in read_lines(path)[1:]:
            of_cell = found.setdefault(line["cell"], {k: [] for k in ("loss", *HYPERPARAMETERS)})
            loss = problem.reference if line["loss"] is None else line["loss"]
            of_cell["loss"].append(min(loss, problem.reference))
            for name in HYPERPARAMETERS:
                of_cell[name].append(line[name])
    return {cell: found[cell] for cell in CELLS_IN_WORDS if cell in found}


def compared_on(found: dict[str, dict[str, list[float]]]) -> dict[str, Comparison]:
    """The cells against the vanilla LSTM, by the configurations whose rate learns."""
    drawn, losses = {}, {}
    for cell, of in found.items():
        rates = np.array(of["learning_rate"])
        scales = [
            np.log(rates),
            np.log(of["size"]),
            of["noise"],
            np.log1p(-np.array(of["momentum"])),
        ]
        drawn[cell] = np.stack(scales, axis=-1)[rates >= LEARNS_FROM]
        losses[cell] = np.array(of["loss"])[rates >= LEARNS_FROM]
    return compare(drawn, losses, BASE)


def summary_of(problem: Problem, found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """The numbers of a problem: of each cell the best tenth, how they compare with the vanilla
    LSTM's, and, over all configurations of that, what decides the loss."""
    compared_with_base = compared_on(found)
    cells: dict[str, Any] = {}
    for cell, of in found.items():
        compared = compared_with_base.get(cell)
        tested = None if cell == BASE else compared
        cells[cell] = {
            "configurations": len(of["loss"]),
            "best": best_tenth(of["loss"]),
            "ratios": compared and compared.ratios,
            "ratio": tested and tested.ratio,
            "p": tested and tested.p,
            "worse": tested and tested.worse,
            "better": tested and tested.better,
        }
    drawn = {name: found[BASE][name] for name in HYPERPARAMETERS}
    return {
        "unit": problem.unit,
        "reference": problem.reference,
        "cells": cells,
        "shares": shares(drawn, found[BASE]["loss"]),
    }


def report(problems: list[Problem], config: Config, machine: dict[str, Any], workdir: Path) -> None:
    """Prints what is found so far, and writes it down with its picture."""
    summaries = {p.name: summary_of(p, found_on(p, workdir)) for p in problems}
    show("\n" + "\n\n".join(table(name, of) for name, of in summaries.items()))
    show("\n" + shares_table(summaries))
    show("\n" + verdicts_table(summaries) + "\n")
    values = config.flatten()
    about = {name: values[name] for name in READS}
    write_json(workdir / "odyssey.json", {"machine": machine, "config": about, "tasks": summaries})
    numbers = {"about": in_words(config, summaries), "tasks": summaries}
    draw_from(numbers, draw, workdir / "figures" / "odyssey.png")


def in_words(config: Config, summaries: dict[str, Any]) -> str:
    """The picture's subtitle."""
    counts = [of["configurations"] for s in summaries.values() for of in s["cells"].values()]
    fewest, most = min(counts), max(counts)
    count = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    train = config.train
    return (
        f"{count} configurations of each cell, {train.validate_every:,} steps of "
        f"{train.batch_size} sequences, {config.optimizer.name}. Loss over what vanilla's would be "
        f"by the same draw, at rates from {LEARNS_FROM:g} on: quartiles and range. "
        "Red: worse (p < 0.05, corrected); green: better."
    )


WIDTH = max(map(len, CELLS_IN_WORDS.values()))


def table(name: str, summary: dict[str, Any]) -> str:
    """The cells on one task, as aligned text."""
    head = f"{name}, loss in {summary['unit']}; the best constant: {summary['reference']:.4g}"
    lines = [head, f"{'cell':{WIDTH}}  drawn  best      best tenth  × vanilla  p"]
    for cell, of in summary["cells"].items():
        compared = "vanilla" if cell == BASE else "too few"
        if of["p"] is not None:
            verdict = " worse" if of["worse"] else " better" if of["better"] else ""
            compared = f"{of['ratio']:9.3f}  {of['p']:.2g}{verdict}"
        lines.append(
            f"{CELLS_IN_WORDS[cell]:{WIDTH}}  {of['configurations']:5}  {of['best'][0]:<8.4g}  "
            f"{statistics.mean(of['best']):<10.4g}  {compared}"
        )
    return "\n".join(lines)


def shares_table(summaries: dict[str, Any]) -> str:
    """What decides the vanilla LSTM's loss, on each task."""
    names = [*next(iter(summaries.values()))["shares"]]
    width = max(map(len, names))
    lines = [
        "share of the variance of vanilla's losses between bins of what is drawn; x: what two have "
        "together, besides",
        f"{'':{width}}  " + "  ".join(f"{task:>16}" for task in summaries),
    ]
    for name in names:
        values = (f"{of['shares'][name]:16.0%}" for of in summaries.values())
        lines.append(f"{name:{width}}  " + "  ".join(values))
    return "\n".join(lines)


def verdicts(summary: dict[str, Any]) -> dict[str, bool | None]:
    """Whether each of the paper's conclusions holds on a task; None: too few configurations were
    tried, or even the vanilla LSTM's best have learnt nothing."""
    cells, found = summary["cells"], summary["shares"]
    tested = {cell: of for cell, of in cells.items() if of["p"] is not None}
    learnt = statistics.mean(cells[BASE]["best"]) < LEARNT * summary["reference"]
    if len(tested) < len(CELLS_IN_WORDS) - 1 or not learnt:
        return dict.fromkeys(CONCLUSIONS)
    ratios = {cell: of["ratio"] for cell, of in tested.items() if cell != "gru"}
    worst = {*sorted(ratios, key=ratios.__getitem__)[-2:]}
    alone = [share for name, share in found.items() if " x " not in name]
    (together,) = (share for name, share in found.items() if " x " in name)
    answers = [
        not any(of["better"] for cell, of in tested.items() if cell != "gru"),
        tested["no_forget_gate"]["worse"],
        tested["no_output_activation"]["worse"],
        worst == {"no_forget_gate", "no_output_activation"},
        not tested["coupled_peephole"]["worse"],
        not tested["no_peepholes"]["worse"],
        not tested["full_gate_recurrence"]["better"],
        max(alone) == found["learning_rate"] > 0,
        together < INDEPENDENT_BELOW,
    ]
    return dict(zip(CONCLUSIONS, answers, strict=True))


CONCLUSIONS = (
    "no variant is better than vanilla",
    "without a forget gate it is worse",
    "without an output activation it is worse",
    "these two are the worst of all",
    "coupled gates cost nothing",
    "no peepholes cost nothing",
    "full gate recurrence gains nothing",
    "the learning rate decides most",
    f"nearly apart from the size (together below {INDEPENDENT_BELOW:.0%})",
)


def verdicts_table(summaries: dict[str, Any]) -> str:
    """The paper's conclusions, and whether they hold here."""
    answers = {name: verdicts(of) for name, of in summaries.items()}
    width = max(map(len, CONCLUSIONS))
    lines = [f"{'does it hold?':{width}}  " + "  ".join(f"{task:>16}" for task in summaries)]
    words = {True: "yes", False: "no", None: "unclear"}
    for conclusion in CONCLUSIONS:
        each = (f"{words[of[conclusion]]:>16}" for of in answers.values())
        lines.append(f"{conclusion:{width}}  " + "  ".join(each))
    return "\n".join(lines)


@picture
def draw(numbers: dict[str, Any], path: Path) -> None:
    """The losses of each cell beside vanilla's as boxes, a panel for each task."""
    tasks = numbers["tasks"]
    figure = new_figure(4.3, "Which part of an LSTM matters", numbers["about"])
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, (name, summary) in zip(panels, tasks.items(), strict=True):
        draw_task(axes, name.replace("_", " "), summary)
    save(figure, path)


def draw_task(axes: "Axes", name: str, summary: dict[str, Any]) -> None:
    """The boxes of one task: the quartiles, and the whole range as whiskers."""
    cells = summary["cells"]
    boxes = axes.boxplot(
        [of["ratios"] or [] for of in cells.values()],
        orientation="horizontal",
        whis=(0, 100),
        widths=0.6,
        patch_artist=True,
    )
    parts = zip(boxes["boxes"], boxes["medians"], cells.items(), strict=True)
    for box, middle, (cell, of) in parts:
        color = COLORS[1] if of["worse"] else COLORS[2] if of["better"] else QUIET
        color = STRONG if cell == BASE else color
        box.set(facecolor=(color, 0.4), edgecolor=color)
        middle.set(color=color, lw=1.8)
    axes.axvline(1, color=STRONG, lw=0.8, ls=":", zorder=0.5)
    axes.locator_params(axis="x", nbins=4)
    axes.set_title(name, size=8.5)
    axes.set_xlabel(f"{summary['unit'].partition('/')[0]},\ntimes vanilla's", size=8)
    axes.set_yticks(range(1, len(cells) + 1), [CELLS_IN_WORDS[cell] for cell in cells])
    axes.set_ylim(len(cells) + 0.6, 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
