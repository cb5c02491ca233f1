"""One recipe with several seeds, each a run in a folder of its own; what is done is not done
again."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstm_jax.config import Config
from lstm_jax.data.vocabulary import Text
from lstm_jax.loop import Run
from lstm_jax.metrics import kept_losses

SEEDS = range(3)


def train(config: Config, text: Text, workdir: Path, title: str) -> dict[str, Any]:
    """Trains, or goes on, and returns the run's summary; of the average's losses, if it has one."""
    with Run(config, text, workdir, title) as run:
        run.train()
        found = run.summary()
    found["val_loss_stream"], found["val_loss_windows"] = kept_losses(found)
    return found


def losses_of(runs: Sequence[dict[str, Any]], protocol: str) -> list[float]:
    """Each run's best validation loss by a protocol."""
    return [run[f"val_loss_{protocol}"] for run in runs]


def spread(values: list[float]) -> str:
    """The mean, and the deviation where there are several."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"
