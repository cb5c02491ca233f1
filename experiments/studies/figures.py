"""Draws the committed pictures again, from the numbers that are committed beside them.

Every study writes the numbers of its picture into a JSON file beside it; in experiments/figures lie
such files. With --figures=pdf,svg they are drawn in these formats. Curves of runs that are done get
such a file, with `nanoGPT's transformer` as a line where all of them learnt tiny Shakespeare, by

    python -m experiments.studies.figures OUT.json TITLE SUBTITLE RUN [RUN ...]

where each RUN is the folder of another seed of one recipe.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.studies import (
    benchmark,
    long_sequences,
    notebook_audit,
    tiny_shakespeare,
    tiny_shakespeare_ablation,
    verify_gradients,
)
from lstm_jax.config import Config
from lstm_jax.files import read_json, write_json
from lstm_jax.run.description import Description, read_description
from lstm_jax.run.figures import Recipe, curves_of, draw_curves, drops
from lstm_jax.run.folder import CONFIG
from lstm_jax.run.metrics import read_metrics
from lstm_jax.run.style import chosen_formats, in_format
from lstm_jax.tasks import TASKS
from lstm_jax.terminal import show

READS = ()  # everything is in the files
IGNORES = ("compile_cache", "cpu_devices")

COMMITTED = Path(__file__).parent.parent / "figures"
# What is not named here are curves.
DRAWN_BY: dict[str, Callable[..., None]] = {
    "benchmark": benchmark.draw,
    "long_sequences": long_sequences.draw,
    "notebook_audit": notebook_audit.draw,
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
    tiny = all(c.data.corpus == "tiny_shakespeare" and not c.data.path for c in configs)
    references = tiny_shakespeare.REFERENCES if tiny else {}
    unit = TASKS[configs[0].data.task].unit
    return curves_of([recipe], title, unit, subtitle, references)


if __name__ == "__main__":
    out, title, subtitle, *folders = sys.argv[1:]
    write_json(Path(out), curves_of_runs(title, subtitle, [*map(Path, folders)]))
