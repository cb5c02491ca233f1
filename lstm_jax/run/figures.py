"""Curves: the losses of one recipe's runs in their course, or those of several recipes."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lstm_jax.model_config import ModelConfig
from lstm_jax.run.metrics import AVERAGE, counted, kept, measured, minimised
from lstm_jax.run.style import (
    COLORS,
    DASHES,
    FAINT,
    QUIET,
    REFERENCE,
    new_figure,
    picture,
    plain,
    reference_line,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 200  # of a training curve: what is more is drawn as means
IN_TRAINING = ("targets", "train_loss", "learning_rate")
EARLY = 20  # a run's first 20th is its first part


class Recipe(NamedTuple):
    """Runs that differ by their seed alone."""

    name: str
    runs: Sequence[list[dict[str, Any]]]  # the metrics of each
    drops: bool = False  # so that what is printed as the training loss is a thinned model's


def drops(model: ModelConfig) -> bool:
    """Whether training drops anything that scoring does not."""
    names = ("dropout", "input_dropout", "embedding_dropout", "weight_drop")
    return any(getattr(model, name) for name in (*names, "zoneout_cell", "zoneout_hidden"))


def in_words(model: ModelConfig) -> str:
    """A model in a few words, such as `2 LSTM layers of 384 units`."""
    cell = model.cell.upper() if model.cell in ("lstm", "gru") else model.cell.replace("_", " ")
    sizes = model.layer_sizes
    widths = ", ".join(map(str, sizes if len({*sizes}) > 1 else sizes[:1]))
    return f"{len(sizes)} {cell} layer{'s' * (len(sizes) > 1)} of {widths} units"


def curves_of(
    recipes: Sequence[Recipe],
    title: str,
    unit: str,
    subtitle: str = "",
    references: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What `draw_curves` draws, and nothing more, as JSON.

    Args:
      unit: of the losses, as a task's.
      references: losses that others have reached, or that are easily reached, by name.
    """
    return {
        "title": title,
        "subtitle": subtitle,
        "unit": unit,
        "references": dict(references or {}),
        "recipes": [
            {"name": recipe.name, "drops": recipe.drops, "runs": [*map(curve_of, recipe.runs)]}
            for recipe in recipes
        ],
    }


def curve_of(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """One run: its training in at most POINTS means, and what its validations measured.

    The losses of the parameters that are kept come first, and `kept` is the number of the
    validation that is best by the very first.
    """
    size = math.ceil(len(metrics) / POINTS)
    parts = [metrics[start : start + size] for start in range(0, len(metrics), size)]
    validated = [line for line in metrics if measured(line)]
    run: dict[str, Any] = {name: means(parts, name) for name in IN_TRAINING}
    run |= {"validated": [line["targets"] for line in validated], "losses": {}, "kept": None}
    if validated:
        for name in dict.fromkeys([*kept(validated[0]), *measured(validated[0])]):
            if is_loss(name) and all(name in line for line in validated):
                run["losses"][name] = [in_short(line[name]) for line in validated]
        run["kept"] = min(range(len(validated)), key=lambda n: minimised(validated[n]))
    return run


def is_loss(name: str) -> bool:
    return name.startswith("val_loss")


def means(parts: list[list[dict[str, Any]]], name: str) -> list[float | None]:
    """The mean of a value over each part; None where no line has it, as where all of a dispatch's
    updates were skipped."""
    values = ([line[name] for line in part if name in line] for part in parts)
    return [in_short(statistics.fmean(each)) if each else None for each in values]


def in_short(value: float) -> float:
    """A number with the digits that a picture shows."""
    return float(f"{value:.6g}")


@picture
def draw_curves(curves: dict[str, Any], path: Path) -> None:
    """Losses against how many targets were seen, the learning rate below (`curves_of`).

    A single recipe has a colour for each loss. Of several, each has a colour for the loss that
    decides what is kept; their training is not drawn, unless there is nothing else. Every seed has
    a line, with a dot at the step that is kept.
    """
    figure = new_figure(3.7, curves["title"], curves["subtitle"])
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    recipes = curves["recipes"]
    what = draw_one(loss, *recipes) if len(recipes) == 1 else draw_each(loss, recipes)
    for recipe, (color, dashes) in zip(recipes, styles(), strict=False):
        for run in recipe["runs"]:
            draw_line(rate, run["targets"], run["learning_rate"], color=color, ls=dashes, lw=1)
    if any(run["losses"] for recipe in recipes for run in recipe["runs"]):
        loss.plot([], [], "o", ms=4, color=QUIET, label="the step that is kept")
    highest = highest_of(recipes)
    mark_references(loss, curves["references"], highest)
    frame(loss, lowest_of(loss), highest)
    unit, of = curves["unit"].partition("/")[0], in_full(counted(curves["unit"]))
    gap = " " if len(recipes) == 1 else "\n"
    loss.set(ylabel=f"{what}{gap}({unit} per {of})", xlim=(0, None))
    rate.set(xlabel=f"{of}s seen (millions)", ylabel="learning\nrate", ylim=(0, None))
    figure.align_ylabels()
    save(figure, path)


def in_full(word: str) -> str:
    """What a loss is a mean of, where a unit abbreviates it."""
    return "character" if word == "char" else word


def draw_one(axes: "Axes", recipe: dict[str, Any]) -> str:
    """Each loss of one recipe, the training in grey; returns what the axis is of."""
    draw_training(axes, recipe, training_in_words(recipe), FAINT, "-")
    for name, (color, dashes) in zip(shared_losses(recipe), styles(), strict=False):
        draw_validation(axes, recipe, name, loss_in_words(name), color, dashes)
    return "loss"


def draw_each(axes: "Axes", recipes: list[dict[str, Any]]) -> str:
    """One loss of each recipe; returns what the axis is of."""
    drawn = set()
    for recipe, (color, dashes) in zip(recipes, styles(), strict=False):
        name = next(iter(shared_losses(recipe)), None)
        drawn.add(training_in_words(recipe) if name is None else loss_in_words(name))
        if name is None:
            draw_training(axes, recipe, recipe["name"], color, dashes)
        else:
            draw_validation(axes, recipe, name, recipe["name"], color, dashes)
    return "; ".join(sorted(drawn))


def shared_losses(recipe: dict[str, Any]) -> list[str]:
    """The validation losses that all runs of a recipe have."""
    first, *others = (run["losses"] for run in recipe["runs"])
    return [name for name in first if all(name in losses for losses in others)]


def loss_in_words(name: str) -> str:
    """A loss's name for people: of `val_loss_stream`, `validation, stream`."""
    kind = name.removesuffix(AVERAGE).removeprefix("val_loss").strip("_")
    of = "validation of the average" if name.endswith(AVERAGE) else "validation"
    return f"{of}, {kind}" if kind else of


def training_in_words(recipe: dict[str, Any]) -> str:
    return "training, with dropout" if recipe["drops"] else "training"


def draw_training(
    axes: "Axes", recipe: dict[str, Any], label: str, color: str, dashes: Any
) -> None:
    """The training losses of a recipe, a thin line for each seed."""
    for number, run in enumerate(recipe["runs"]):
        named = plain(label) if number == 0 else None
        style = {"color": color, "ls": dashes, "lw": 0.8, "label": named}
        draw_line(axes, run["targets"], run["train_loss"], **style)


def draw_validation(
    axes: "Axes", recipe: dict[str, Any], name: str, label: str, color: str, dashes: Any
) -> None:
    """One validation loss of a recipe, a line for each seed, labelled with the mean of the kept."""
    runs = recipe["runs"]
    losses = [run["losses"][name][run["kept"]] for run in runs]
    of = f" (mean of {len(runs)})" if len(runs) > 1 else ""
    label = plain(f"{label}: {in_figures(statistics.fmean(losses))}{of}")
    style = {"color": color, "ls": dashes, "lw": 1.3 if len(runs) == 1 else 0.9}
    for number, (run, loss) in enumerate(zip(runs, losses, strict=True)):
        named = None if number else label
        draw_line(axes, run["validated"], run["losses"][name], **style, label=named)
        at = run["validated"][run["kept"]]
        draw_line(axes, [at], [loss], marker="o", ms=4, color=color, mec="white", mew=0.4)


def draw_line(axes: "Axes", targets: list[float], values: list[float | None], **style: Any) -> None:
    """Values against millions of targets, with a gap where there is none."""
    y = [math.nan if value is None else value for value in values]
    axes.plot([number / 1e6 for number in targets], y, **style)


def in_figures(value: float) -> str:
    """A loss with as many decimals as a legend has room for."""
    return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def styles() -> Iterator[tuple[str, Any]]:
    """A colour and a dash for each line; with more lines than colours, other pairs of them."""
    return (
        (COLORS[n % len(COLORS)], DASHES[(n + n // len(COLORS)) % len(DASHES)])
        for n in itertools.count()
    )


def mark_references(axes: "Axes", references: dict[str, float], top: float) -> None:
    """Draws the references. Those above `top` are named in the legend: nothing would be left to see
    of the curves below them."""
    named = {name: f"{name}: {in_figures(value)}" for name, value in references.items()}
    ends = [y[-1] for y in lines_of(axes) if len(y) and not math.isnan(y[-1])]
    for name, value in references.items():
        if value < top:
            # Its label is on the side where the nearest curve does not end.
            nearest = min(ends, key=lambda end: abs(end - value), default=value)
            reference_line(axes, value, named.pop(name), above=nearest <= value)
    if named:
        label = plain(f"above: {', '.join(named.values())}")
        axes.plot([], [], ls=":", color=REFERENCE, lw=0.9, label=label)


def highest_of(recipes: list[dict[str, Any]]) -> float:
    """The highest loss to be seen: of all validations; without any, of training.

    Of training but for its first part, which falls from log V so far that the rest would look
    flat.
    """
    runs = [run for recipe in recipes for run in recipe["runs"]]
    losses = [run["losses"][name] for run in runs for name in run["losses"]]
    seen = losses or [run["train_loss"][len(run["train_loss"]) // EARLY :] for run in runs]
    return max((y for line in seen for y in line if y is not None), default=1.0)


def lines_of(axes: "Axes") -> list[np.ndarray]:
    """The values of each line that is drawn."""
    return [np.asarray(line.get_ydata()) for line in axes.lines]


def lowest_of(axes: "Axes") -> float:
    """The lowest value that is drawn."""
    drawn = (y for line in lines_of(axes) for y in line)
    return min((y for y in drawn if not math.isnan(y)), default=0.0)


def frame(axes: "Axes", lowest: float, highest: float) -> None:
    """Adds the legend, and sets a range of y with room for it above the curves."""
    entries = len(axes.get_legend_handles_labels()[1])
    legend = min(0.08 * entries, 0.6)  # its share of the height
    span = (highest - lowest) or 1.0
    axes.set_ylim(lowest - 0.09 * span, highest + span * legend / (1 - legend))
    axes.legend(loc="upper right")
