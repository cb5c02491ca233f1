"""One recipe with several seeds, each a run in a folder of its own; what is done is not done
again."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from lstm_jax.config import Config
from lstm_jax.data.vocabulary import Text
from lstm_jax.errors import UserError
from lstm_jax.run.loop import Run, check_run
from lstm_jax.run.memory import check_run_fits
from lstm_jax.run.metrics import brief, in_digits, kept
from lstm_jax.tasks.text import TextTask
from lstm_jax.terminal import say

SEEDS = range(3)
READS = tuple(name for name in Config().flatten() if name not in ("train.seed", "data.task"))


def text_to_validate_on(config: Config, what: str) -> Text:
    """The config's text; UserError where no run could be made on it, or nothing of it is kept to
    validate on, which `what` needs."""
    task = TextTask.of(config)
    check_run_fits(config, task.interface, task.batch_at(0))
    if not task.validates(config):
        raise UserError(
            f"{what} needs a validation split: data.validation_fraction is 0; leave it out, or "
            "give another"
        )
    return task.text


def seeded(config: Config, text: Text, workdir: Path) -> dict[Path, Config]:
    """Each seed's folder and config; UserError, before any of them has begun, for what one of them
    could not do, or where its folder holds another run."""
    configs = {workdir / f"seed_{seed}": config.replace({"train.seed": seed}) for seed in SEEDS}
    for folder, of_seed in configs.items():
        check_run(of_seed, TextTask(of_seed, text), folder)
    return configs


def train(configs: dict[Path, Config], text: Text, title: str) -> Iterator[dict[str, Any]]:
    """Trains each, or goes on, and yields its summary, with the losses by `stream` and `windows` of
    what it kept: the step that is best by `stream`, the average's where there is one."""
    for folder, config in configs.items():
        platform = jax.devices()[0].platform
        say(f"{title}: seed {config.train.seed}, on {platform}")
        with Run(config, TextTask(config, text), folder, title) as run:
            run.train()
            summary = run.summary()
            run.draw_figures()
        losses = {brief(name): loss for name, loss in kept(summary).items()}
        # Without its metrics.jsonl nobody knows how long a run took.
        named = {"seconds": None, **summary, "seed": config.train.seed}
        yield named | losses


def mean_seconds(runs: list[dict[str, Any]]) -> str:
    """What the runs took, on average; a dash where one of them does not know."""
    seconds = [run["seconds"] for run in runs]
    return "-" if None in seconds else f"{statistics.mean(seconds):,.0f}"


def spread(values: list[float]) -> str:
    """The mean, and the deviation where there are several."""
    deviation = f" ± {in_digits(statistics.stdev(values))}" if len(values) > 1 else ""
    return f"{in_digits(statistics.mean(values))}{deviation}"
