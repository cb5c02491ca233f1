"""What `--mode=compare` does with several runs: what differs in their configs, and their losses.

Runs that differ in `train.seed` alone are one recipe with several seeds.
"""

import glob
import itertools
import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.support.seeds import spread
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import named, read_json
from lstm_jax.model import count_parameters, init_model
from lstm_jax.run import figures
from lstm_jax.run.description import Description, OtherFormat, own_options, read_description
from lstm_jax.run.folder import CONFIG, FIGURES
from lstm_jax.run.metrics import SUMMARY, brief, kept, measured, minimised, read_metrics
from lstm_jax.run.style import chosen_formats, draw_from, in_format
from lstm_jax.terminal import printable, say, show, warn

SIDE_BY_SIDE = 6  # recipes, a column for each; more are a line each
CELL_LIMIT = 30  # characters of an option's value
UNKNOWN = "-"
IDENTITY = "the task's "  # begins the names of what is known of a task besides its options
# Where a file lies, and what it is read in: the identity has its hash and its tokens.
ELSEWHERE = re.compile(r"data\.((\w+_)?path|tokens)")
SCORED = ("data.", "evaluate.", IDENTITY)  # begin the names of what decides what is scored


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder says it: what it is, and the lines of its `metrics.jsonl`."""

    name: str
    description: Description
    lines: list[dict[str, Any]]
    ended_early: bool = False

    @property
    def seed(self) -> int:
        return self.description.config.train.seed

    @property
    def last(self) -> dict[str, Any]:
        """The last line; before the first there is nothing but step 0."""
        return self.lines[-1] if self.lines else {"step": 0, "seconds": 0.0}

    @cached_property
    def best(self) -> dict[str, Any]:
        """The line of the step that is kept as the best; empty before the first validation."""
        return min(filter(measured, self.lines), key=minimised, default={})

    @property
    def losses(self) -> dict[str, float]:
        """What validation measured of the best step, by protocol; the first is minimised."""
        return {brief(name): value for name, value in kept(self.best).items()}

    @property
    def parameters(self) -> int:
        model, interface = self.description.config.model, self.description.interface
        shapes = jax.eval_shape(lambda: init_model(jax.random.key(0), model, interface))
        return sum(count_parameters(shapes).values())


class Recipe(NamedTuple):
    """Runs that differ in their seeds alone, in the order of these."""

    runs: list[RunRecord]

    @property
    def name(self) -> str:
        """The name of its run; of several, what their names have in common."""
        names = [run.name for run in self.runs]
        if len(names) == 1:
            return names[0]
        start = common_start(names)
        end = common_start([name[len(start) :][::-1] for name in names])[::-1]
        return f"{start}*{end}"

    @property
    def options(self) -> dict[str, Any]:
        return options_of(self.runs[0].description)

    def rank(self) -> tuple[float, float]:
        """The means of what is minimised and of the training loss; infinite where one is not
        known of every run."""
        minimised = [next(iter(run.losses.values()), math.inf) for run in self.runs]
        training = [run.last.get("train_loss", math.inf) for run in self.runs]
        return statistics.mean(minimised), statistics.mean(training)


def common_start(names: Sequence[str]) -> str:
    """The characters with which all names begin."""
    same = itertools.takewhile(lambda chars: len({*chars}) == 1, zip(*names, strict=False))
    return "".join(chars[0] for chars in same)


def options_of(description: Description) -> dict[str, Any]:
    """All that decides a run but its seed, by name. A text is known by its hash, so it may lie
    elsewhere."""
    identity = {f"{IDENTITY}{key}": value for key, value in description.identity.items()}
    options = own_options(description.config) | identity
    return {k: v for k, v in options.items() if k != "train.seed" and not ELSEWHERE.fullmatch(k)}


def recipes_of(runs: Iterable[RunRecord]) -> list[Recipe]:
    """Runs by their recipes, the lowest mean of what is minimised first.

    A recipe has each seed once. The same run again, by other code say, is a recipe of its own.
    """
    recipes: dict[tuple[str, int], list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        options, number = json.dumps(options_of(run.description), sort_keys=True), 1
        while run.seed in (other.seed for other in recipes.get((options, number), [])):
            number += 1
        recipes.setdefault((options, number), []).append(run)
    return sorted(map(Recipe, recipes.values()), key=Recipe.rank)


def differing(recipes: Sequence[Recipe]) -> list[str]:
    """The names of the options that are not the same in all recipes."""
    first, *others = [recipe.options for recipe in recipes]
    names = dict.fromkeys(name for options in (first, *others) for name in options)
    return [n for n in names if any(other.get(n) != first.get(n) for other in others)]


def table_of_losses(recipes: Sequence[Recipe]) -> str:
    """A line for each recipe: what it came to, on average over its seeds."""
    protocols = list(dict.fromkeys(p for recipe in recipes for r in recipe.runs for p in r.losses))
    rows = [["", "runs", "seeds", *protocols, "best step", "training", "seconds", "parameters"]]
    for number, recipe in enumerate(recipes, start=1):
        runs = recipe.runs
        rows.append(
            [
                f"{number}",
                recipe.name,
                ",".join(f"{run.seed}" for run in runs),
                *(
                    spread_if_known([run.losses.get(protocol) for run in runs])
                    for protocol in protocols
                ),
                between([int(run.best["step"]) for run in runs if run.best]),
                spread_if_known([run.last.get("train_loss") for run in runs]),
                f"{statistics.mean(run.last['seconds'] for run in runs):,.1f}",
                f"{runs[0].parameters:,}",
            ]
        )
    return aligned(rows)


def table_of_options(recipes: Sequence[Recipe]) -> str:
    """What differs: a column for each recipe, under its number, or a line where there are many."""
    rows = [["", *(f"{number}" for number in range(1, len(recipes) + 1))]]
    rows += [
        [name, *(in_words(r.options.get(name)) for r in recipes)] for name in differing(recipes)
    ]
    return aligned([*zip(*rows, strict=True)] if len(recipes) > SIDE_BY_SIDE else rows)


def spread_if_known(values: Sequence[float | None]) -> str:
    """`spread`; a dash where one is not known."""
    known = [value for value in values if value is not None]
    return spread(known) if len(known) == len(values) else UNKNOWN


def between(steps: Sequence[int]) -> str:
    """The first and the last of some steps."""
    ends = {min(steps, default=0), max(steps, default=0)} - {0}
    return "-".join(f"{step:,}" for step in sorted(ends)) or UNKNOWN


def in_words(value: Any) -> str:
    """An option's value, or the beginning of a long one."""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    text = value if isinstance(value, str) and value and value.isprintable() else shorten(value)
    return text if len(text) <= CELL_LIMIT else f"{text[: CELL_LIMIT - 1]}…"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lines with their cells below one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def find_runs(names: Iterable[str]) -> list[Path]:
    """The folders that names stand for: a run's, those in a folder of runs, those that match.

    UserError where a name stands for none, or a folder is there twice."""
    found: dict[Path, Path] = {}
    for name in names:
        path = named(name)
        matches = (
            [path] if path.exists() else [Path(match) for match in sorted(glob.glob(f"{path}"))]
        )
        runs = [run for match in matches for run in runs_in(match)]
        if not runs:
            raise UserError(
                f"--workdirs={name} holds no run (there is no {CONFIG}): name folders that were "
                "trained in, or one that holds such folders"
            )
        for run in runs:
            if (place := run.resolve()) in found:
                raise UserError(f"--workdirs names {run} twice: leave one out")
            found[place] = run
    return [*found.values()]


def runs_in(folder: Path) -> list[Path]:
    """A run's folder itself, or those in it."""
    if holds_run(folder):
        return [folder]
    return sorted(filter(holds_run, folder.iterdir())) if folder.is_dir() else []


def holds_run(folder: Path) -> bool:
    return (folder / CONFIG).exists()


def read_run(folder: Path) -> RunRecord:
    """What a run's folder says; UserError where it says nothing that can be read."""
    path = folder / CONFIG
    try:
        description = Description.from_json(read_description(path))
    except OtherFormat:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): leave it out of --workdirs") from error
    lines = read_metrics(folder)
    return RunRecord(printable(f"{folder}"), description, lines, ended_early(folder, lines))


def ended_early(folder: Path, lines: Sequence[dict[str, Any]]) -> bool:
    """Whether a run's summary says that it ended at its last line, by its patience."""
    try:
        summary = read_json(folder / SUMMARY)
        return "ended_early" in summary and bool(lines) and summary["step"] == lines[-1]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_comparable(runs: Sequence[RunRecord]) -> None:
    """Refuses runs of different tasks, in different units, or measured by different names."""
    first, *others = runs
    for run in others:
        kinds = [(r.description.config.data.task, r.description.unit) for r in (first, run)]
        if kinds[0] != kinds[1]:
            raise UserError(
                "{} is of data.task={}, in {}, and {} of data.task={}, in {}: compare runs of one "
                "task in one unit".format(first.name, *kinds[0], run.name, *kinds[1])
            )
    measures = {tuple(run.losses): run.name for run in runs if run.losses}
    if len(measures) > 1:
        each = ", ".join(f"{name} by {' and '.join(names)}" for names, name in measures.items())
        raise UserError(f"these are not measured alike: {each}; compare runs that are")


def warn_of(runs: Sequence[RunRecord], recipes: Sequence[Recipe]) -> None:
    """Says that runs are unfinished, or that their losses are of different targets."""
    unfinished = [
        f"{run.name} is at step {int(run.last['step']):,} of {steps:,}"
        for run in runs
        if run.last["step"] < (steps := run.description.config.train.steps) and not run.ended_early
    ]
    if unfinished:
        warn(f"not finished: {', '.join(unfinished)}")
    scored = [n for n in differing(recipes) if n.startswith(SCORED) and n != "data.train_chars"]
    if scored:
        warn(f"these runs are not scored on the same: {', '.join(scored)} differ")


def compare(folders: Sequence[Path], workdir: Path) -> int:
    """Prints what differs between runs and what they came to; draws their losses."""
    runs = [read_run(folder) for folder in folders]
    check_comparable(runs)
    recipes = recipes_of(runs)
    losses, options = table_of_losses(recipes), table_of_options(recipes)
    warn_of(runs, recipes)
    unit, path = runs[0].description.unit, workdir / FIGURES / "comparison.png"
    # First, because a folder that cannot be written in is an error, and has no results.
    draw_from(curves_of_recipes(recipes, unit), figures.draw_curves, path)
    show(f"runs: {len(runs)}, recipes: {len(recipes)}; losses in {unit}, at each run's best step\n")
    show(losses)
    show(f"\n{options}" if differing(recipes) else "\nThe configs differ in nothing but the seed.")
    say(f"the picture is {in_format(path, chosen_formats.get()[0])}")
    return 0


def curves_of_recipes(recipes: Sequence[Recipe], unit: str) -> dict[str, Any]:
    """What is drawn of the recipes that have begun: a colour for each, a line for each seed."""
    drawn = [
        figures.Recipe(recipe.name, begun, figures.drops(recipe.runs[0].description.config.model))
        for recipe in recipes
        if (begun := [run.lines for run in recipe.runs if run.lines])
    ]
    return figures.curves_of(drawn, "Recipes compared", unit, "a thin line for each seed")
