"""One style for all pictures: for a paper's column, for a talk, and for a printer without colour.

matplotlib is imported when the first one is drawn: it takes as long to import as JAX does, and a
run draws nothing before its end.
"""

import functools
import io
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_jax.files import write_atomically, write_json
from lstm_jax.terminal import escaped, warn

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
# Inches. At a column of 3.3 the text still has 6 points, and at a page's width it has 10.
WIDTH = 5.0
MOST_LINES = 3  # of a title, or a subtitle: a folder's name may have any length
# Each is lighter than the one before, so that they stay apart in grey.
COLORS = ("#14213d", "#a63446", "#2a9d8f", "#e09f3e", "#a8c5e8", "#ead9c2")
DASHES = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (2.5, 1)), (0, (8, 2)), (0, (1, 0.6)))
MARKERS = ("o", "s", "^", "D", "v", "P")
STRONG, QUIET, FAINT, REFERENCE = COLORS[0], "#7a8089", "#bfc3c9", "#444444"
SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.2,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e6e9",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "savefig.dpi": 220,
    "pdf.fonttype": 42,  # as TrueType: many journals refuse matplotlib's own Type 3
    "svg.hashsalt": "lstm_jax",  # else its ids are drawn at random
}
# What would make a picture of the same numbers another file.
NO_DATE = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}

chosen_formats: ContextVar[tuple[str, ...]] = ContextVar("chosen_formats", default=("png",))


@contextmanager
def drawn_as(*formats: str) -> Iterator[None]:
    """Within it every picture is written in these formats, side by side; without, as PNG."""
    before = chosen_formats.set(formats)
    try:
        yield
    finally:
        chosen_formats.reset(before)


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
            settings = {**matplotlib.rcParamsDefault, **SETTINGS}
            del settings["backend"]  # the user's screen is not drawn on, and stays as it is
            with matplotlib.rc_context(settings), warnings.catch_warnings():
                # Of a letter that the font lacks; a box stands for it.
                warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
                draw(*args)
        except Exception as error:
            path = in_format(args[-1], chosen_formats.get()[0])
            warn(f"the figure {path} is not drawn: {error or type(error).__name__}")

    return attempt


def new_figure(height: float, title: str, subtitle: str = "", width: float = WIDTH) -> "Figure":
    """A figure of that size in inches, drawn without a display, its titles at the upper left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    above = textwrap.wrap(plain(title), round(10.4 * width))[:MOST_LINES]
    below = textwrap.wrap(plain(subtitle), round(15 * width))[:MOST_LINES]
    # The layout keeps room for the title alone: the subtitle lies over empty lines of it.
    place: dict[str, Any] = {"x": 0.06 / width, "ha": "left", "va": "top"}
    text = "\n".join([*above, *[""] * len(below)])
    figure.suptitle(text, size=10.5, weight="bold", **place)
    under = 1 - (0.07 + 0.175 * len(above)) / height
    figure.text(y=under, s="\n".join(below), size=8.5, color="#555555", **place)
    return figure


def plain(text: str) -> str:
    """Text that can be drawn, in which matplotlib finds no formulas."""
    return escaped(text).replace("$", r"\$")


def reference_line(axes: "Axes", value: float, label: str, above: bool) -> None:
    """A dotted line at a value of the y axis, with its label on the right, above it or below."""
    axes.axhline(value, color=REFERENCE, lw=0.9, ls=":", zorder=1.5)
    axes.annotate(
        plain(label),
        (0.99, value),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 2 if above else -2.5),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        size=7.5,
        color=REFERENCE,
    )


def in_format(path: Path, name: str) -> Path:
    """A picture's path in one of FORMATS."""
    return Path(path).with_suffix(f".{name}")


def save(figure: "Figure", path: Path) -> None:
    """Writes the figure in the chosen formats; of the path, the ending is theirs."""
    for name in chosen_formats.get():
        content = io.BytesIO()
        figure.savefig(content, format=name, metadata=NO_DATE[name])
        write_atomically(in_format(path, name), content.getvalue())


def draw_from(numbers: dict[str, Any], draw: Callable[..., None], path: Path) -> None:
    """Writes the numbers of a picture down beside it, and draws it from them and nothing else.

    So it can be drawn again, in another style or format, without what was measured.
    """
    write_json(in_format(path, "json"), numbers)
    draw(numbers, path)
