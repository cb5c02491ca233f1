"""A grid of runs: every combination of some config values, each a run in a folder of its own.

What is done is not done again, and what was stopped goes on. All runs of a shape share one compiled
program (`lstm_jax.hyperparameters`).
"""

import itertools
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from experiments.support.comparison import aligned
from experiments.support.folders import SWEEP
from experiments.support.output import say_written
from experiments.support.seeds import spread
from lstm_jax.config import Config, check_read
from lstm_jax.errors import UserError
from lstm_jax.files import read_json, write_json
from lstm_jax.run.folder import FIGURES
from lstm_jax.run.loop import Run, check_run
from lstm_jax.run.many import shape_of, side_by_side, train_together
from lstm_jax.run.metrics import brief, kept
from lstm_jax.run.style import COLORS, DASHES, MARKERS, draw_from, new_figure, picture, plain, save
from lstm_jax.tasks import TASKS, Task
from lstm_jax.terminal import say, show, warn

Grid = Mapping[str, Sequence[Any]]  # the values of each option, by its full name
SEED = "train.seed"
PICTURE = "figures/sweep.png"


class Point(NamedTuple):
    """One run of a sweep."""

    values: dict[str, Any]  # by full name, those that are swept
    config: Config
    folder: Path
    task: Task


def short_names(grid: Grid) -> dict[str, str]:
    """The options' names without their sections, where that tells them apart."""
    keys = [name.partition(".")[2] for name in grid]
    return {
        name: key if keys.count(key) == 1 else name for name, key in zip(grid, keys, strict=True)
    }


def in_words(value: Any) -> str:
    """A value as it stands in a folder's name and in the table."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def name_of(values: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """What tells a run from the others, such as `learning_rate=0.001_seed=0`."""
    # No commas: several folders are named with commas between them.
    return "_".join(f"{names[name]}={in_words(value)}" for name, value in values.items())


def points_of(config: Config, grid: Grid, workdir: Path, given: Sequence[str]) -> list[Point]:
    """Every combination of the grid's values; `given` are the options that flags changed beside
    them. UserError, before any run has begun, for what one of them could not do."""
    for name, swept in grid.items():
        if name == "data.task":
            raise UserError("--sweep.data.task means nothing: the runs of a sweep are of one task")
        if len({*swept}) < len(swept):
            raise UserError(f"--sweep.{name} has a value twice: {', '.join(map(str, swept))}")
    names, chosen = short_names(grid), config.flatten()
    points: list[Point] = []
    tasks: dict[Any, Task] = {}  # one per distinct data, which is read once
    for combination in itertools.product(*grid.values()):
        values = dict(zip(grid, combination, strict=True))
        folder = workdir / re.sub(r"[^\w.=+-]", "_", name_of(values, names))
        if any(folder == point.folder for point in points):
            raise UserError(
                f"two runs of the sweep would be in {folder}: name the values otherwise"
            )
        try:
            # With what is given, too: a value of the grid is not to drop it.
            of_point = config.replace({name: chosen[name] for name in given} | values)
            check_read(of_point, [*given, *grid])
            if (same := tasks.get(of_point.data)) is None:
                same = tasks[of_point.data] = TASKS[of_point.data.task].of(of_point)
            task = same.sharing(of_point)
            check_run(of_point, task, folder)
        except UserError as error:
            raise UserError(f"the run {folder.name}: {error}") from error
        points.append(Point(values, of_point, folder, task))
    check_scored_alike(points, grid)
    return points


def check_scored_alike(points: Sequence[Point], grid: Grid) -> None:
    """Refuses runs whose losses are in different units, or some of which have none; warns of
    others that are not of the same targets."""
    if len(units := sorted({point.task.unit for point in points})) > 1:
        raise UserError(f"the runs of a sweep are compared, and these are in {' and '.join(units)}")
    if len({TASKS[p.config.data.task].validates(p.config) for p in points}) > 1:
        raise UserError("the runs of a sweep are compared, and some of these validate on nothing")
    scored = [n for n in grid if n.startswith(("data.", "evaluate.")) and n != "data.train_chars"]
    if scored:
        warn(f"the runs are not scored on the same, because {', '.join(scored)} differ")


def train_sweep(
    config: Config, grid: Grid, workdir: Path, title: str, given: Sequence[str] = ()
) -> int:
    """Trains every run of the grid, or goes on; prints the table, writes sweep.json and its
    picture. Returns the exit code: not 0 where a run failed, such as one that diverged."""
    points = points_of(config, grid, workdir, given)
    about = {"swept": grid, "config": config.flatten()}
    before = runs_before(workdir, grid)
    write_json(workdir / SWEEP, about | {"runs": [*before.values()]})
    say(f"a sweep of {len(points)} runs of {title}, in {workdir}")
    found: dict[Path, dict[str, Any]] = {}
    runs: list[dict[str, Any]] = []
    for chunk, width in chunks_of(points):
        first, last = len(found) + 1, len(found) + len(chunk)
        number = f"run {first}" if first == last else f"runs {first} to {last}, side by side,"
        names = "; ".join(point.folder.name for point in chunk)
        say(f"{number} of {len(points)}: {names}")
        found |= train_chunk(chunk, width, title)
        runs = [
            {"folder": point.folder.name, "values": point.values, **found[point.folder]}
            for point in points
            if point.folder in found
        ]
        known = before | {run["folder"]: run for run in runs}
        write_json(workdir / SWEEP, about | {"runs": [*known.values()]})
    settings = settings_of(runs)
    show_table(settings, short_names(grid))
    numbers = numbers_of(settings, grid, f"A sweep of {title}", points[0].task.unit)
    draw_from(numbers, draw, workdir / PICTURE)
    say_written(workdir, SWEEP, f"{FIGURES}/*")
    return 2 if any("error" in run for run in runs) else 0


def runs_before(workdir: Path, grid: Grid) -> dict[str, Any]:
    """What a folder's sweep came to so far, by run; UserError where it is of other options."""
    if not (workdir / SWEEP).exists():
        return {}
    try:
        sweep = read_json(workdir / SWEEP)
        swept, runs = [*sweep["swept"]], {run["folder"]: run for run in sweep["runs"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{workdir / SWEEP} cannot be read ({error}): choose another --workdir"
        ) from error
    if swept != [*grid]:
        raise UserError(
            f"{workdir} holds a sweep of {', '.join(map(str, swept))}: choose another --workdir"
        )
    return runs


def chunks_of(points: Sequence[Point]) -> Iterator[tuple[list[Point], int]]:
    """The runs that train at a time, and the width of the program that they share."""
    shapes: dict[Any, list[Point]] = {}
    for point in points:
        shapes.setdefault(shape_of(point.config), []).append(point)
    for of_shape in shapes.values():
        task = of_shape[0].task
        batch = task.batch_at(0)
        width = side_by_side(of_shape[0].config, task.interface, batch, len(of_shape))
        for first in range(0, len(of_shape), width):
            yield of_shape[first : first + width], width


def train_chunk(points: Sequence[Point], width: int, title: str) -> dict[Path, dict[str, Any]]:
    """The summary of each run, by its folder, or what went wrong with it: the others go on."""
    found: dict[Path, dict[str, Any]] = {}

    def note(folder: Path, error: UserError) -> None:
        say(f"error: {error}")
        found[folder] = {"error": str(error)}

    with ExitStack() as held:
        runs: dict[Path, Run] = {}
        for point in points:
            name = f"{title}, {point.folder.name}"
            try:
                run = Run(point.config, point.task, point.folder, name)
                runs[point.folder] = held.enter_context(run)
            except UserError as error:
                note(point.folder, error)
        for folder, failure in train_runs([*runs.values()], width).items():
            note(folder, failure)
        for folder, run in runs.items():
            if folder not in found:
                found[folder] = run.summary()
                run.draw_figures()
    return found


def train_runs(runs: Sequence[Run], width: int) -> dict[Path, UserError]:
    """Trains them to their end, side by side where that pays; what failed."""
    errors: dict[Run, UserError] = {}
    if width > 1:
        errors = train_together(runs, width)
    else:
        for run in runs:
            try:
                run.train()
            except UserError as error:
                errors[run] = error
    return {run.workdir: error for run, error in errors.items()}


class Setting(NamedTuple):
    """Runs that differ in their seeds alone."""

    values: dict[str, Any]  # of the other options
    losses: dict[str, list[float]]  # each kind's, one per run; what is minimised is the first
    failed: int  # runs without a loss

    @property
    def mean(self) -> float:
        """Of what is minimised; where a run has failed, infinite."""
        first = next(iter(self.losses.values()), [])
        return statistics.mean(first) if first and not self.failed else math.inf


def losses_of(run: Mapping[str, Any]) -> dict[str, float]:
    """What a run came to, as the task measures it; else its loss in training."""
    measured = {brief(name): loss for name, loss in kept(run).items()}
    return measured or {name: run[name] for name in ("train_loss",) if name in run}


def settings_of(runs: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The runs by what they differ in besides the seed, the lowest loss first."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        others = {name: value for name, value in run["values"].items() if name != SEED}
        groups.setdefault(tuple(others.items()), []).append(run)
    settings = []
    for values, group in groups.items():
        found = [losses for run in group if (losses := losses_of(run))]
        kinds = {name: [losses[name] for losses in found] for name in (found[0] if found else ())}
        settings.append(Setting(dict(values), kinds, len(group) - len(found)))
    return sorted(settings, key=lambda setting: setting.mean)


def show_table(settings: Sequence[Setting], names: Mapping[str, str]) -> None:
    """A line per setting: its values, and each loss's mean and deviation over the seeds."""
    swept = [name for name in settings[0].values] if settings else []
    kinds = [*dict.fromkeys(kind for setting in settings for kind in setting.losses)]
    rows = [[*(names[name] for name in swept), *kinds, "runs"]]
    for setting in settings:
        losses = [spread(setting.losses[kind]) if kind in setting.losses else "-" for kind in kinds]
        count = len(next(iter(setting.losses.values()), []))
        runs = f"{count}" + (f", {setting.failed} failed" if setting.failed else "")
        rows.append([*map(in_words, setting.values.values()), *losses, runs])
    show(aligned(rows))


def numbers_of(settings: Sequence[Setting], grid: Grid, title: str, unit: str) -> dict[str, Any]:
    """What the picture is drawn from: each run's loss at its value of the option that has most of
    them, in a line for every combination of the others."""
    others = [name for name in grid if name != SEED]
    along = max(others, key=lambda name: len(grid[name]), default=None)
    values = list(grid[along]) if along else [""]
    lines: dict[str, list[tuple[float, list[float]]]] = {}
    for setting in settings:
        if setting.losses:
            x = positions(values)[values.index(setting.values[along])] if along else 0.0
            rest = {name: value for name, value in setting.values.items() if name != along}
            label = name_of(rest, short_names(grid))
            lines.setdefault(label, []).append((x, next(iter(setting.losses.values()))))
    kind = next((kind for setting in settings for kind in setting.losses), "loss")
    return {
        "title": title,
        "about": "a point per run, lines through the means",
        "x": along or "",
        "ticks": [*zip(positions(values), map(in_words, values), strict=True)],
        "geometric": is_geometric(values),
        "y": f"{kind} ({unit}), lower is better",
        "lines": {label: sorted(points) for label, points in lines.items()},
    }


@picture
def draw(numbers: dict[str, Any], path: Path) -> None:
    """The losses against the swept value."""
    figure = new_figure(3.2, numbers["title"], numbers["about"])
    axes = figure.subplots()
    for n, (label, points) in enumerate(numbers["lines"].items()):
        color, marker = COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)]
        means = [statistics.mean(losses) for _, losses in points]
        style: dict[str, Any] = {"color": color, "ls": DASHES[n % len(DASHES)]}
        axes.plot([x for x, _ in points], means, label=plain(label), **style)
        each = [(x, loss) for x, losses in points for loss in losses]
        axes.plot(*zip(*each, strict=True), marker, color=color, ms=3.5, alpha=0.8)
    if numbers["geometric"]:
        axes.set_xscale("log")
    axes.set_xticks(*zip(*numbers["ticks"], strict=True))
    axes.minorticks_off()
    axes.set(xlabel=numbers["x"], ylabel=numbers["y"])
    if len(numbers["lines"]) > 1:
        axes.legend()
    save(figure, path)


def positions(values: Sequence[Any]) -> list[float]:
    """Where values stand on an axis: numbers at themselves, others side by side."""
    numbers = all(type(value) in (int, float) for value in values)
    return [float(value if numbers else n) for n, value in enumerate(values)]


def is_geometric(values: Sequence[Any]) -> bool:
    """Whether values are positive numbers of several sizes, as rates are."""
    at = positions(values)
    return min(at) > 0 and max(at) / min(at) > 5
