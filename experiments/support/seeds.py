"""One recipe with several seeds, each a run in a folder of its own; what is done is not done
again."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from lstm_jax.config import Config
from lstm_jax.data.vocabulary import Text
from lstm_jax.run.checkpoint import Description
from lstm_jax.run.loop import Run, check_folder, split_and_streams
from lstm_jax.run.metrics import kept_losses
from lstm_jax.terminal import say

SEEDS = range(3)
READS = tuple(name for name in Config().flatten() if name != "train.seed")


def seeded(config: Config, text: Text, workdir: Path) -> dict[Path, Config]:
    """Each seed's folder and config; UserError, before any of them has begun, for what one of them
    could not do, or where its folder holds another run."""
    configs = {workdir / f"seed_{seed}": config.replace({"train.seed": seed}) for seed in SEEDS}
    for folder, of_seed in configs.items():
        split_and_streams(of_seed, text)
        check_folder(folder, Description.of(of_seed, text))
    return configs


def train(configs: dict[Path, Config], text: Text, title: str) -> Iterator[dict[str, Any]]:
    """Trains each, or goes on, and yields its summary, with the losses by `stream` and `windows` of
    what it kept: the step that is best by `stream`, the average's where there is one."""
    for folder, config in configs.items():
        platform = jax.devices()[0].platform
        say(f"{title}: seed {config.train.seed}, on {platform}")
        with Run(config, text, folder, title) as run:
            run.train()
            found = run.summary()
            run.draw()
        stream, windows = kept_losses(found)
        # Without its metrics.jsonl nobody knows how long a run took.
        named = {"seconds": None, **found, "seed": config.train.seed}
        yield named | {"stream": stream, "windows": windows}


def mean_seconds(runs: list[dict[str, Any]]) -> str:
    """What the runs took, on average; a dash where one of them does not know."""
    found = [run["seconds"] for run in runs]
    return "-" if None in found else f"{statistics.mean(found):,.0f}"


def spread(values: list[float]) -> str:
    """The mean, and the deviation where there are several."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"
