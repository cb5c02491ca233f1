"""The picture of results: what models reach on one text, beside somebody else's."""

import statistics
from pathlib import Path
from typing import Any

from lstm_jax.run.metrics import counted
from lstm_jax.run.style import QUIET, REFERENCE, STRONG, new_figure, picture, plain, save

BACKGROUND = {"color": "white", "pad": 0.5}  # so that no line crosses a number


@picture
def draw(numbers: dict[str, Any], path: Path) -> None:
    """Each model's losses, a dot per seed, and the reference's as a line through all rows."""
    models, reference = numbers["models"], numbers["reference"]
    height = 1.25 + 0.42 * len(models)
    figure = new_figure(height, numbers["title"], numbers["subtitle"], 6.4)
    axes = figure.subplots()
    axes.axvline(mean_of(models, reference), color=REFERENCE, lw=0.9, ls=":", zorder=1)
    for row, model in enumerate(models):
        color = QUIET if model["name"] == reference else STRONG
        mean = statistics.mean(model["losses"])
        axes.plot([mean], [row], "|", ms=13, mew=1.6, color=color)
        axes.plot(model["losses"], [row] * len(model["losses"]), "o", ms=4, color=color, alpha=0.6)
        label: dict[str, Any] = {"ha": "center", "color": color, "weight": "bold", "size": 8.5}
        label |= {"xytext": (0, 9), "textcoords": "offset points", "bbox": BACKGROUND}
        axes.annotate(f"{mean:.3f}", (mean, row), **label)
    names = ["\n".join(map(plain, (model["name"], model["about"]))) for model in models]
    axes.set_yticks(range(len(models)), names, linespacing=1.3)
    axes.tick_params(axis="y", length=0)
    unit, of = numbers["unit"].partition("/")[0], counted(numbers["unit"])
    of = "character" if of == "char" else of
    axes.set(ylim=(len(models) - 0.5, -0.75), xlabel=f"loss ({unit} per {of})")
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    save(figure, path)


def mean_of(models: list[dict[str, Any]], name: str) -> float:
    """The mean loss of the model of that name."""
    return statistics.mean(next(model["losses"] for model in models if model["name"] == name))
