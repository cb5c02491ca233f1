"""Pictures of a run: the same for every user, and never worth more than the run.

matplotlib is imported when the first one is drawn: it takes as long to import as JAX does, and a
run draws nothing before its end.
"""

import functools
import io
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_jax.files import write_atomically
from lstm_jax.run.metrics import AVERAGE, counted, in_digits, kept, measured, minimised
from lstm_jax.terminal import warn

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, STREAM, WINDOWS, RATE = "#9aa7b4", "#c0392b", "#2c6fbb", "#7f8c8d"
STREAM_AVERAGE, WINDOWS_AVERAGE = "#e59866", "#85b6e3"
COLORS = (STREAM, WINDOWS, STREAM_AVERAGE, WINDOWS_AVERAGE)  # of a task's losses, in order


def import_matplotlib() -> "ModuleType":
    """matplotlib, also where MPLBACKEND names a backend that is not installed.

    Notebooks export theirs to the processes that they start, and with one that it does not find
    matplotlib refuses to be imported. Nothing here draws on a screen.
    """
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    chosen = os.environ.pop("MPLBACKEND", "")
    try:
        import matplotlib
    finally:
        if chosen:
            os.environ["MPLBACKEND"] = chosen
    if chosen:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = chosen
    return matplotlib


def picture(draw: Callable[..., None]) -> Callable[..., None]:
    """Makes a function that draws a picture, its path last, independent of the user's settings.

    Where it fails there is a warning and no picture: what was measured is written down elsewhere.
    """

    @functools.wraps(draw)
    def attempt(*args: Any) -> None:
        try:
            matplotlib = import_matplotlib()
            settings = {**matplotlib.rcParamsDefault}
            del settings["backend"]  # the user's screen is not drawn on, and stays as it is
            with matplotlib.rc_context(settings):
                draw(*args)
        except Exception as error:
            warn(f"the figure {args[-1]} is not drawn: {error or type(error).__name__}")

    return attempt


def new_figure(width: float, height: float) -> "Figure":
    """A figure of that size in inches, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: "Axes", grid: str = "both") -> None:
    """A faint grid (`x`, `y` or `both`), and the two axes alone for a frame."""
    axes.grid(axis=grid, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: "Figure", path: Path) -> None:
    """Writes the figure as a PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=130, format="png")
    write_atomically(path, picture.getvalue())


@picture
def draw_curves(runs: Sequence[list[dict[str, Any]]], title: str, unit: str, path: Path) -> None:
    """Training and validation losses of one recipe's runs, the metrics of each, against how many
    targets were seen, the learning rate below."""
    figure = new_figure(8, 5.5)
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    loss.plot(*series(runs, "train_loss"), color=TRAIN, lw=1, label="training")
    validated = [[m for m in metrics if measured(m)] for metrics in runs]
    if all(validated):
        # What is kept of a run is one step: each curve's own best would be another model's.
        best = [min(metrics, key=minimised) for metrics in validated]
        for name, color in zip(losses_of(best), COLORS, strict=False):
            label = label_of(name, best)
            loss.plot(*series(validated, name), color=color, lw=1, marker="o", ms=3, label=label)
    # The first fiftieth of a run falls from log V so far that the rest would look flat.
    _, late = series([metrics[len(metrics) // 50 :] for metrics in runs], "train_loss")
    top = max((y for y in late if not math.isnan(y)), default=1.0)
    loss.set(ylabel=f"loss ({unit})", title=title, ylim=(None, 1.05 * top))
    loss.legend(frameon=False)
    rate.plot(*series(runs, "learning_rate"), color=RATE, lw=1)
    rate.set(xlabel=f"{counted(unit)}s seen (millions)", ylabel="learning rate", ylim=(0, None))
    for axes in (loss, rate):
        tidy(axes)
    save(figure, path)


def losses_of(best: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the losses that each of some lines has, those of an average last."""
    names = [name for name in measured(best[0]) if name.startswith("val_loss")]
    names = [name for name in names if all(name in line for line in best)]
    return sorted(names, key=lambda name: name.endswith(AVERAGE))


def label_of(name: str, best: Sequence[dict[str, Any]]) -> str:
    """A loss's name in words, with its mean over the best lines of the runs."""
    of = "the average's" if name.endswith(AVERAGE) else "validation"
    kind = name.removesuffix(AVERAGE).removeprefix("val_loss").strip("_")
    where = "at best" if name == next(iter(kept(best[0]))) else "there"
    mean = in_digits(statistics.mean(line[name] for line in best))
    over = ", on average" if len(best) > 1 else ""
    return f"{of}{', ' if kind else ''}{kind}: {mean} {where}{over}"


def series(runs: Sequence[list[dict[str, Any]]], name: str) -> tuple[list[float], list[float]]:
    """Millions of targets seen, and a value, with a gap (NaN) between two runs.

    There is a gap also where a line has no such value: a dispatch whose updates were all skipped
    has no loss."""
    x, y = [], []
    for metrics in runs:
        x += [m["targets"] / 1e6 for m in metrics] + [math.nan]
        y += [m.get(name, math.nan) for m in metrics] + [math.nan]
    return x, y
