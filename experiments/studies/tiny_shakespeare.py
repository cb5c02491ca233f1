"""Tiny Shakespeare, the record: wider than `tiny_shakespeare_hour`, with three seeds. For a GPU.

On an H100 the three take five minutes; on two CPU cores a seed alone takes some eight
hours, and `tiny_shakespeare_hour` is made for those.

A line for each seed and for their mean, and one for the mean of their predictions, an ensemble.
Runs that are done are not done again, so the command can be stopped and given again.
"""

from pathlib import Path
from typing import Any

from experiments.recipes import tiny_shakespeare_hour
from experiments.support.naming import run_name
from experiments.support.output import say_written
from experiments.support.seeds import READS as READS
from experiments.support.seeds import mean_seconds, seeded, spread, text_to_validate_on, train
from experiments.support.timing import describe_machine
from lstm_jax.config import Config
from lstm_jax.files import write_json
from lstm_jax.masks import evaluation_masks
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.figures import Recipe, curves_of, draw_curves, drops, in_words
from lstm_jax.run.metrics import read_metrics
from lstm_jax.run.style import draw_from
from lstm_jax.scoring.ensemble import evaluate_ensemble
from lstm_jax.tasks.text import TextTask
from lstm_jax.terminal import show

# The loss of nanoGPT's transformer, by its README, with a context of 256 characters.
NANOGPT = {"nanoGPT, windows": 1.4697}
PROTOCOLS = ("windows", "stream")
HEADER = f"{'':8}  {'windows':15}  {'stream':15}  parameters   training"


def get_config() -> Config:
    # 9.9 million parameters: fewer than the transformer that it is compared with.
    return tiny_shakespeare_hour.get_config().replace(
        {"model.hidden_size": 896, "train.steps": 9600, "train.validate_every": 960}
    )


def references_of(config: Config) -> dict[str, float]:
    """What others have reached on the config's text."""
    data = config.data
    return NANOGPT if data.corpus == "tiny_shakespeare" and not data.path else {}


def row(name: str, losses: list[str], parameters: int) -> str:
    """A line of the table, by `windows` and by `stream`."""
    return f"{name:8}  " + "  ".join(f"{loss:15}" for loss in losses) + f"  {parameters:>10,}"


def exactly(losses: dict[str, Any]) -> list[str]:
    """The losses of one model."""
    return [f"{losses[protocol]:.4f}" for protocol in PROTOCOLS]


def main(config: Config, workdir: Path) -> int:
    """Prints a line for each seed as it is done; writes record.json and the curves."""
    text = text_to_validate_on(config, "the record")
    configs = seeded(config, text, workdir)
    runs: list[dict[str, Any]] = []
    name = run_name("tiny_shakespeare", get_config().flatten(), config.flatten())
    for run in train(configs, text, name):
        if not runs:
            show(HEADER)
        runs.append(run)
        seconds = f"  {mean_seconds([run]):>7} s"
        show(row(f"seed {run['seed']}", exactly(run), run["parameters"]) + seconds)
    means = [spread([run[protocol] for run in runs]) for protocol in PROTOCOLS]
    show(row("mean", means, runs[0]["parameters"]))
    task, masks = TextTask(config, text), evaluation_masks(config.model)
    models = [(load_model(folder, "best")[0].eval_params, masks) for folder in configs]
    assert task.split.validation is not None  # `text_to_validate_on` has refused what has none
    ensemble = evaluate_ensemble(models, task.split.validation, config.evaluate)._asdict()
    show(row("ensemble", exactly(ensemble), sum(run["parameters"] for run in runs)))
    record = {"machine": describe_machine(), "config": config.flatten()}
    write_json(workdir / "record.json", record | {"seeds": runs, "ensemble": ensemble})
    recipe = Recipe(name, [*map(read_metrics, configs)], drops(config.model))
    about = f"{in_words(config.model)}, {len(runs)} seeds"
    curves = curves_of([recipe], text.name, task.unit, about, references_of(config))
    draw_from(curves, draw_curves, workdir / "figures" / "tiny_shakespeare.png")
    say_written(workdir, "record.json", "figures/*", "seed_*")
    return 0
