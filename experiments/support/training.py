"""What `--mode=train` does with a recipe: a run in its folder, announced before and reported
after."""

from contextlib import nullcontext
from pathlib import Path

import jax

from experiments.support.scoring import score_in_units
from experiments.support.tensorboard import TensorBoard
from lstm_jax.config import Config
from lstm_jax.model import count_parameters
from lstm_jax.run.folder import TENSORBOARD
from lstm_jax.run.loop import Run
from lstm_jax.run.metrics import counted, in_digits, measured
from lstm_jax.tasks import TASKS
from lstm_jax.terminal import say, show, write


def train(config: Config, workdir: Path, title: str, log: str | None = None) -> int:
    """Trains, or resumes, and prints what came of it and a sample."""
    board = TensorBoard(workdir / TENSORBOARD) if log == "tensorboard" else None
    hooks = board.hooks if board else {}
    task = TASKS[config.data.task].of(config)
    with board or nullcontext(), Run(config, task, workdir, title, **hooks) as run:
        announce(run)
        if board:
            board.begin(run.step)
        run.train()
        try:
            report(run)
        finally:  # also where nobody reads the report
            run.draw_figures()
    return 0


def announce(run: Run) -> None:
    """Says what is about to be trained on what."""
    sizes = count_parameters(run.state.params)
    say(run.task.describe())
    say(
        f"{sum(sizes.values()):,} parameters: "
        + ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    )
    if references := run.task.references():
        say(f"to beat: {in_words(references, run.task.unit)}")
    say(f"{run.config.train.steps:,} steps on {jax.devices()[0].platform}, into {run.workdir}")


def in_words(references: dict[str, float], unit: str) -> str:
    """Losses that are easily reached, as `uniform guessing 4.1744 nats/char`."""
    return (
        ", ".join(f"{name} {in_digits(value)}" for name, value in references.items()) + f" {unit}"
    )


def report(run: Run) -> None:
    """Prints what came of a run and a sample."""
    summary = run.summary()
    scores, unit = measured(summary), run.task.unit
    if "train_loss" in summary:
        scores = {"train_loss": summary["train_loss"]} | scores
    width = max([17, *map(len, scores)])
    for name, value in scores.items():
        at = f"  (step {summary['step' if name == 'train_loss' else 'best_step']})"
        show(f"{name:{width}} {score_in_units(name, value, unit)}{at}")
    if summary.get("skipped"):
        show(f"{'skipped':17} {summary['skipped']:,} updates that were not finite")
    if "seconds" in summary:
        show(f"{'training':17} {summary['seconds']:.1f} s, {summary['targets']:,} {counted(unit)}s")
    if (sample := run.sample()) is not None:
        write(f"\n{sample}\n")
