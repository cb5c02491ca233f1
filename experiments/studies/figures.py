"""Draws the committed pictures again, from the numbers that are committed beside them.

A study writes the numbers of its picture into `figures/NAME.json` beside it. The committed ones are
such files in experiments/figures. --figures=pdf,svg draws them in these formats.

The curves of runs that are done get such a file by this command. Each RUN is the folder of another
seed of one recipe. On tiny Shakespeare nanoGPT's loss is a line of the picture.

    python -m experiments.studies.figures OUT.json TITLE SUBTITLE RUN [RUN ...]
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.studies import (
    benchmark,
    gradient_flow,
    learning_to_forget,
    long_sequences,
    notebook_audit,
    odyssey,
    table_1997,
    tiny_shakespeare_ablation,
    verify_gradients,
)
from experiments.studies.tiny_shakespeare import references_of
from experiments.support import results
from lstm_jax.config import Config
from lstm_jax.errors import UserError
from lstm_jax.files import read_json, write_json
from lstm_jax.run.description import Description, read_description
from lstm_jax.run.figures import Recipe, curves_of, draw_curves, drops
from lstm_jax.run.folder import CONFIG
from lstm_jax.run.metrics import read_metrics
from lstm_jax.run.style import chosen_formats, in_format
from lstm_jax.terminal import say, show

READS = ()  # everything is in the files
IGNORES = ("compile_cache", "cpu_devices")

COMMITTED = Path(__file__).parent.parent / "figures"
# What is not named here are curves.
DRAWN_BY: dict[str, Callable[..., None]] = {
    "benchmark": benchmark.draw,
    "gradient_flow": gradient_flow.draw,
    "learning_to_forget": learning_to_forget.draw,
    "long_sequences": long_sequences.draw,
    "notebook_audit": notebook_audit.draw,
    "odyssey": odyssey.draw,
    "results": results.draw,
    "table_1997": table_1997.draw,
    "tiny_shakespeare_ablation": tiny_shakespeare_ablation.draw,
    "verify_gradients": verify_gradients.draw,
}


def get_config() -> Config:
    return Config()


def main(config: Config, workdir: Path) -> int:
    """Draws every picture into the folder and names it."""
    for numbers in sorted(COMMITTED.glob("*.json")):
        path = workdir / f"{numbers.stem}.png"
        DRAWN_BY.get(numbers.stem, draw_curves)(read_json(numbers), path)
        for name in chosen_formats.get():
            show(str(in_format(path, name)))
    return 0


def curves_of_runs(title: str, subtitle: str, folders: list[Path]) -> dict[str, Any]:
    """The numbers of a picture of runs that are each another seed of one recipe."""
    described = [Description.from_json(read_description(folder / CONFIG)) for folder in folders]
    configs = [one.config for one in described]
    recipe = Recipe(title, [*map(read_metrics, folders)], any(drops(c.model) for c in configs))
    return curves_of([recipe], title, described[0].unit, subtitle, references_of(configs[0]))


def write_curves(out: str, title: str, subtitle: str, *folders: str) -> int:
    """The command of the docstring; returns the exit code."""
    try:
        write_json(Path(out), curves_of_runs(title, subtitle, [*map(Path, folders)]))
    except (UserError, OSError, ValueError) as error:
        say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 5:
        say("error: it takes OUT.json TITLE SUBTITLE RUN [RUN ...]")
        sys.exit(2)
    sys.exit(write_curves(*sys.argv[1:]))
