"""Pictures of a run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lstm_jax.verify import TOLERANCES, Row

TRAIN, STREAM, WINDOWS, RATE = "#9aa7b4", "#c0392b", "#2c6fbb", "#7f8c8d"


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches, drawn without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def draw_curves(metrics: list[dict[str, Any]], title: str, path: Path) -> None:
    """Training and validation loss against characters seen, the learning rate below."""
    figure = new_figure(8, 5.5)
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    characters = [m["characters"] / 1e6 for m in metrics]
    loss.plot(characters, [m["train_loss"] for m in metrics], color=TRAIN, lw=1, label="training")
    for name, color, label in (
        ("val_loss_stream", STREAM, "validation, stream"),
        ("val_loss_windows", WINDOWS, "validation, windows"),
    ):
        points = [(m["characters"] / 1e6, m[name]) for m in metrics if name in m]
        if points:
            label = f"{label}: {min(y for _, y in points):.4f} at best"
            loss.plot(*zip(*points, strict=True), color=color, marker="o", ms=3.5, label=label)
    loss.set(ylabel="loss (nats per character)", title=title)
    loss.legend(frameon=False)
    rate.plot(characters, [m["learning_rate"] for m in metrics], color=RATE, lw=1)
    rate.set(xlabel="characters seen (millions)", ylabel="learning rate", ylim=(0, None))
    for axes in (loss, rate):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def draw_verification(rows: list[Row], path: Path) -> None:
    """The worst relative error of every leaf (rows) between every two sources (columns)."""
    pairs = list(dict.fromkeys((row.pair, row.kind) for row in rows))
    leaves = sorted({row.leaf for row in rows})
    errors = np.full((len(leaves), len(pairs)), np.nan)
    for row in rows:
        at = leaves.index(row.leaf), pairs.index((row.pair, row.kind))
        errors[at] = math.log10(max(row.relative, 1e-17)) if math.isfinite(row.relative) else 0.0
    figure = new_figure(1.5 + 0.8 * len(pairs), 3.2 + 0.36 * len(leaves))
    axes = figure.subplots()
    image = axes.imshow(errors, cmap="viridis_r", vmin=-17, vmax=-4, aspect="auto")
    for (y, x), value in np.ndenumerate(errors):
        if not np.isnan(value):
            bad = value > math.log10(TOLERANCES[pairs[x][1]])
            text = f"{value:.1f}" + (" FAILED" if bad else "")
            axes.text(
                x,
                y,
                text,
                ha="center",
                va="center",
                fontsize=7,
                color="red" if bad else "white" if value > -11 else "black",
            )
    labels = [f"{pair}\nallowed {TOLERANCES[kind]:.0e}" for pair, kind in pairs]
    axes.set_xticks(range(len(pairs)), labels, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(leaves)), leaves, fontsize=8)
    axes.set_title("largest difference between two gradients, as a share of the largest gradient")
    figure.colorbar(image, label="log10")
    save(figure, path)


def draw_audit(curves: dict[str, list[float]], path: Path) -> None:
    """The loss of the notebook's setting, its backward pass mended one defect after another."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    shades = ("C0", "C1", "C2", "C4", "C5", "C7")
    colors = ["#000000", *shades[: len(curves) - 2], STREAM]
    for (stage, losses), color in zip(curves.items(), colors, strict=True):
        ends = stage in (next(iter(curves)), list(curves)[-1])
        axes.plot(losses, color=color, lw=2.2 if ends else 1.2, label=stage)
    start = next(iter(curves.values()))[0]
    axes.axhline(start, color=RATE, lw=0.8, ls=":")
    axes.set(
        xlabel="pass",
        ylabel="loss summed over the 25 characters (nats)",
        ylim=(0, 1.3 * start),
        title="The notebook's backward pass, mended one defect after another",
    )
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
