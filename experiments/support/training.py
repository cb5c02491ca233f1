"""What `--mode=train` does with a recipe: a run in its folder, announced before and reported
after."""

import re
from contextlib import nullcontext
from pathlib import Path

import jax

from experiments.support.scoring import in_units, plainly, score_in_units, show_lines
from experiments.support.tensorboard import TensorBoard
from lstm_jax.config import Config
from lstm_jax.model import ModelParams, count_parameters
from lstm_jax.model_config import ModelConfig
from lstm_jax.run.checkpoint import FOLDER as CHECKPOINTS
from lstm_jax.run.figures import in_words
from lstm_jax.run.folder import FIGURES, TENSORBOARD
from lstm_jax.run.loop import Run
from lstm_jax.run.metrics import METRICS, SAMPLES, brief, counted, in_digits, measured
from lstm_jax.run.processes import is_first
from lstm_jax.tasks import TASKS
from lstm_jax.terminal import say, write
from lstm_jax.train import division_of


def train(
    config: Config, workdir: Path, title: str, init_from: str | None = None, log: str | None = None
) -> int:
    """Trains, or resumes, and prints what came of it and a sample."""
    task = TASKS[config.data.task].of(config)
    board = TensorBoard(workdir / TENSORBOARD) if log == "tensorboard" and is_first() else None
    hooks = board.hooks if board else {}
    with (
        board or nullcontext(),
        Run(config, task, workdir, title, init_from=init_from, **hooks) as run,
    ):
        announce(run)
        if board:
            board.begin(run.step)
        run.train()
        if not is_first():
            return 0
        try:
            report(run)
        finally:  # also where nobody reads the report
            run.draw_figures()
        say_what_next(run)
    return 0


def announce(run: Run) -> None:
    """Says what is about to be trained on what, what its losses are, and where it is written."""
    train, unit = run.config.train, run.task.unit
    say(run.task.describe())
    say(f"model: {model_in_words(run.config.model, run.state.params)}")
    say(
        f"training: {train.steps:,} steps of {run.journal.targets_at(1):,} {counted(unit)}s on "
        f"{jax.devices()[0].platform}; validation and checkpoint every {train.validate_every:,}"
    )
    say(f"lanes: {lanes_in_words(run.config)}")
    say(f"losses: {unit_in_words(unit)}; lower is better")
    for name, meaning in run.task.meanings.items():
        say(f"{brief(name)}: {meaning}")
    if references := run.task.references():
        say(f"to beat: {each_in_words(references, unit)}")
    say(f"folder: {run.workdir}, of {run.title}")


def lanes_in_words(config: Config) -> str:
    """How a batch is divided, as `16 on 2 devices, 8 each`, and why on no more devices."""
    parts, (mesh, why_fewer) = config.train.accumulate, division_of(config)
    lanes, count = config.train.batch_size // parts, jax.process_count()
    there = jax.device_count()
    devices = f"{mesh.size} of {there}" if why_fewer else f"{there}"
    devices += f" device{'s'[: there - 1]}" + (f" of {count} processes" if count > 1 else "")
    each = f", {lanes // mesh.size} each" if mesh.size > 1 else ""
    in_turn = f" in {parts} parts" if parts > 1 else ""
    why = f" ({why_fewer})" if why_fewer else ""
    return f"{config.train.batch_size}{in_turn} on {devices}{each}{why}"


def model_in_words(config: ModelConfig, params: ModelParams) -> str:
    """A model's layers, and where its parameters are."""
    parts: dict[str, int] = {}
    for name, size in count_parameters(params).items():
        part = re.split(r"\W", name)[0]
        parts[part] = parts.get(part, 0) + size
    each = ", ".join(f"{part} {size:,}" for part, size in parts.items())
    return f"{in_words(config)}, {sum(parts.values()):,} parameters ({each})"


def unit_in_words(unit: str) -> str:
    """What a loss is counted in."""
    if not unit.startswith("nats/"):
        return unit
    return f"{unit}, the mean of -log(probability) of each true {counted(unit)}"


def each_in_words(references: dict[str, float], unit: str) -> str:
    """Losses that are easily reached, as `uniform guessing 4.1744 nats/char`."""
    return (
        ", ".join(f"{name} {in_digits(value)}" for name, value in references.items()) + f" {unit}"
    )


def report(run: Run) -> None:
    """Prints what came of a run, a line for each figure, and a sample."""
    summary, unit, lines = run.summary(), run.task.unit, {}
    if "train_loss" in summary:
        loss = in_units(summary["train_loss"], unit)
        lines["training_loss"] = f"{loss}  (the last steps, to step {summary['step']:,})"
    for name, value in measured(summary).items():
        at = f"(the best checkpoint, of step {summary['best_step']:,})"
        lines[plainly(name)] = f"{score_in_units(name, value, unit)}  {at}"
    if summary.get("skipped"):
        lines["skipped_updates"] = f"{summary['skipped']:,}  (they were not finite)"
    if "seconds" in summary:
        seen = f"{summary['targets']:,} {counted(unit)}s"
        lines["training_time"] = f"{summary['seconds']:.1f} s  ({seen})"
    show_lines(lines)
    if (sample := run.sample()) is not None:
        write(f"\n{sample}\n")


def say_what_next(run: Run) -> None:
    """Says where things are, and what can be done with them."""
    folder = run.workdir
    kept = (f"{FIGURES}/*", SAMPLES, METRICS, CHECKPOINTS)
    there = [f"{found.relative_to(folder)}" for each in kept for found in sorted(folder.glob(each))]
    modes = ["--mode=sample"] if SAMPLES in there else []
    modes += ["--mode=evaluate"] if run.task.validates(run.config) else []
    after = f"; next: {' or '.join(modes)} with --workdir={folder}" if modes else ""
    say(f"{folder} has {', '.join(there)}{after}")
