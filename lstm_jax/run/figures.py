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
from lstm_jax.run.metrics import AVERAGE, kept_losses, kept_suffix
from lstm_jax.terminal import warn

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, STREAM, WINDOWS, RATE = "#9aa7b4", "#c0392b", "#2c6fbb", "#7f8c8d"
STREAM_AVERAGE, WINDOWS_AVERAGE = "#e59866", "#85b6e3"


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
def draw_curves(runs: Sequence[list[dict[str, Any]]], title: str, path: Path) -> None:
    """Training and validation loss of one recipe's runs, the metrics of each, against characters
    seen, the learning rate below."""
    figure = new_figure(8, 5.5)
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    loss.plot(*series(runs, "train_loss"), color=TRAIN, lw=1, label="training")
    validated = [[m for m in metrics if "val_loss_stream" in m] for metrics in runs]
    for name, color, label in (
        ("val_loss_stream", STREAM, "validation, stream"),
        ("val_loss_windows", WINDOWS, "validation, windows"),
        (f"val_loss_stream{AVERAGE}", STREAM_AVERAGE, "the average's, stream"),
        (f"val_loss_windows{AVERAGE}", WINDOWS_AVERAGE, "the average's, windows"),
    ):
        if not all(metrics and name in metrics[-1] for metrics in validated):
            continue
        # What is kept of a run is one step: each curve's own best would be another model's.
        kept = [min(metrics, key=lambda m: kept_losses(m)[0]) for metrics in validated]
        chosen = name == f"val_loss_stream{kept_suffix(kept[0])}"
        label += (
            f": {statistics.mean(m[name] for m in kept):.4f} {'at best' if chosen else 'there'}"
        )
        label += ", on average" if len(runs) > 1 else ""
        loss.plot(*series(validated, name), color=color, lw=1, marker="o", ms=3, label=label)
    # The first fiftieth of a run falls from log V so far that the rest would look flat.
    _, late = series([metrics[len(metrics) // 50 :] for metrics in runs], "train_loss")
    top = max((y for y in late if not math.isnan(y)), default=1.0)
    loss.set(ylabel="loss (nats per character)", title=title, ylim=(None, 1.05 * top))
    loss.legend(frameon=False)
    rate.plot(*series(runs, "learning_rate"), color=RATE, lw=1)
    rate.set(xlabel="characters seen (millions)", ylabel="learning rate", ylim=(0, None))
    for axes in (loss, rate):
        tidy(axes)
    save(figure, path)


def series(runs: Sequence[list[dict[str, Any]]], name: str) -> tuple[list[float], list[float]]:
    """Millions of characters seen, and a value: with a gap (NaN) between two runs, and where a
    line has no such value, as that of a dispatch whose updates were all skipped has no loss."""
    x, y = [], []
    for metrics in runs:
        x += [m["characters"] / 1e6 for m in metrics] + [math.nan]
        y += [m.get(name, math.nan) for m in metrics] + [math.nan]
    return x, y
