"""Tiny Shakespeare, the record: `tiny_shakespeare_hour` with three seeds, and the three averaged.

A line for each seed and for their mean, and one for the mean of their predictions: an ensemble, of
5.7 million parameters. Runs that are done are not done again, so the command can be stopped and
given again. Three times as long as the hour.
"""

import json
import sys
from pathlib import Path
from typing import Any

from experiments import seeds, tiny_shakespeare_hour
from experiments.seeds import losses_of, spread, train
from lstm_jax.checkpoint import load_model
from lstm_jax.config import Config
from lstm_jax.data.batches import split_ids
from lstm_jax.data.corpora import load_text
from lstm_jax.data.vocabulary import Text
from lstm_jax.evaluate import Evaluation, evaluate_ensemble
from lstm_jax.figures import draw_curves
from lstm_jax.files import write_atomically
from lstm_jax.loop import check_validates
from lstm_jax.metrics import read_metrics
from lstm_jax.model import expected_masks

READS = tuple(name for name in Config().flatten() if name != "train.seed")


def get_config() -> Config:
    return tiny_shakespeare_hour.get_config()


def row(name: str, windows: str, stream: str, parameters: int, seconds: float | None = None) -> str:
    """A line of the table."""
    took = "" if seconds is None else f"  {seconds:7,.0f} s"
    return f"{name:8}  {windows:15}  {stream:15}  {parameters:>10,}{took}"


def row_of(name: str, run: dict[str, Any]) -> str:
    """A seed's line."""
    windows, stream = (f"{run[f'val_loss_{protocol}']:.4f}" for protocol in ("windows", "stream"))
    return row(name, windows, stream, run["parameters"], run["seconds"])


def average(config: Config, text: Text, folders: list[Path]) -> Evaluation:
    """The loss of the mean of the predictions of each folder's best model."""
    masks = expected_masks(config.model)
    models = [(load_model(folder, "best")[0].eval_params, masks) for folder in folders]
    return evaluate_ensemble(models, split_ids(text.ids, config.data).validation, config.evaluate)


def main(config: Config, workdir: Path) -> int:
    """Prints a line for each seed as it is done; writes record.json and the curves."""
    text = load_text(config.data)
    check_validates(config, text, "the record")
    print(f"{'':8}  {'windows':15}  {'stream':15}  parameters    seconds")
    folders, runs = [workdir / f"seed_{seed}" for seed in seeds.SEEDS], []
    for seed, folder in zip(seeds.SEEDS, folders, strict=True):
        name = f"seed {seed}"
        print(f"{name} ({len(runs) + 1}/{len(folders)})", file=sys.stderr)
        runs.append(train(config.replace({"train.seed": seed}), text, folder, name))
        print(row_of(name, runs[-1]), flush=True)
    means = [spread(losses_of(runs, protocol)) for protocol in ("windows", "stream")]
    print(row("mean", *means, runs[0]["parameters"]))
    found = average(config, text, folders)
    size = sum(run["parameters"] for run in runs)
    print(row("averaged", f"{found.windows:.4f}", f"{found.stream:.4f}", size))
    written = {"config": config.flatten(), "runs": runs, "averaged": found._asdict()}
    write_atomically(workdir / "record.json", (json.dumps(written, indent=1) + "\n").encode())
    curves = [read_metrics(folder) for folder in folders]
    draw_curves(curves, f"{len(curves)} seeds", workdir / "figures" / "record.png")
    return 0
