"""The modes: each does with a folder what the flags ask for, and returns the exit code."""

from collections.abc import Callable
from pathlib import Path

from experiments.command.catalogue import find_experiment, is_study
from experiments.command.checks import refuse_flags_of_texts
from experiments.command.flags import (
    CHECKPOINT,
    DRAWS,
    DYNAMIC,
    DYNAMIC_OPTIONS,
    ENSEMBLE,
    EXPERIMENT,
    INIT_FROM,
    LENGTH,
    LOG,
    NUM_SAMPLES,
    PROMPT,
    SAMPLE_SEED,
    SAMPLING,
    SPLIT,
    STOP,
    TEXT,
    WEIGHTS_FORMAT,
    WEIGHTS_FROM,
    WEIGHTS_TO,
    WORKDIRS,
)
from experiments.command.request import base_config, changed, grid, name_of_run, own_run
from experiments.support.comparison import compare, find_runs
from experiments.support.config_file import Changes
from experiments.support.evaluation import Wanted, evaluate_task, evaluate_text
from experiments.support.folders import check_own_text, check_usable, described_in
from experiments.support.inspecting import Written, inspect_text
from experiments.support.interchange import export_weights, import_weights
from experiments.support.samples import sample_task, sample_text
from experiments.support.sweep import train_sweep
from experiments.support.training import train
from lstm_jax.config import Config
from lstm_jax.errors import UserError
from lstm_jax.model import Interface
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.memory import check_state_fits
from lstm_jax.sample import SamplingConfig
from lstm_jax.scoring.dynamic import DynamicConfig


def run_experiment(changes: Changes, folder: Path) -> int:
    """Runs the experiment with its config as it is changed; returns the exit code."""
    experiment = find_experiment(EXPERIMENT.value)
    config = changed(base_config(), changes)
    if (own := own_run()) is not None:
        check_own_text(described_in(own), config, changes.values)
    if swept := grid():
        return train_sweep(config, swept, folder, name_of_run(changes), [*changes.chosen])
    if not is_study(experiment):
        title = "" if own == folder else name_of_run(changes)
        return train(config, folder, title, INIT_FROM.value, LOG.value)
    check_state_fits(config, Interface.of(1))
    if not changes.values and hasattr(experiment, "main_unchanged"):
        return experiment.main_unchanged(folder)
    return experiment.main(config, folder)


def check_data(config: Config, changes: Changes, folder: Path) -> None:
    """Refuses data that led to a folder, and that the run there is not of."""
    for name in ("data.task", "data.corpus"):
        wanted = changes.values.get(name, own := config.flatten()[name])
        if wanted != own:
            raise UserError(f"{folder} holds a run of {name}={own}, not of {wanted}")


def evaluate_run(changes: Changes, folder: Path) -> int:
    """Prints the losses of a checkpoint on its validation split, or on the one that is named."""
    state, description = load_model(folder, CHECKPOINT.value)
    check_data(description.config, changes, folder)
    config = changed(description.config, changes)
    if config.data.task != "text":
        refuse_flags_of_texts(config)
        return evaluate_task(state, description, config, SPLIT.value)
    rule = DynamicConfig(
        **{name.removeprefix("dynamic_"): flag.value for name, flag in DYNAMIC_OPTIONS.items()}
    )
    wanted = Wanted(
        folder,
        CHECKPOINT.value,
        SPLIT.value,
        TEXT.value,
        ENSEMBLE.value,
        DRAWS.value,
        rule if DYNAMIC.value else None,
    )
    return evaluate_text(state, description, config, wanted)


def sample_run(changes: Changes, folder: Path) -> int:
    """Writes what a text's model would write, or what another task has to show."""
    state, description = load_model(folder, CHECKPOINT.value)
    check_data(description.config, changes, folder)
    config = description.config
    if config.data.task != "text":
        refuse_flags_of_texts(config)
        return sample_task(state, description)
    return sample_text(
        state,
        description,
        sampling(),
        PROMPT.value,
        LENGTH.value,
        NUM_SAMPLES.value,
        SAMPLE_SEED.value,
        STOP.value,
    )


def sampling() -> SamplingConfig:
    """How characters are drawn."""
    return SamplingConfig(**{name: holder.value for name, holder in SAMPLING.items()})


def inspect_run(changes: Changes, folder: Path) -> int:
    """Writes a page that shows what the units of a text's model do."""
    state, description = load_model(folder, CHECKPOINT.value)
    check_data(description.config, changes, folder)
    config = changed(description.config, changes)
    if config.data.task != "text":
        raise UserError(
            f"--mode=inspect means nothing to a run of data.task={config.data.task}, which is no "
            "text: take a run on a text"
        )
    written = Written(PROMPT.value, LENGTH.value, sampling(), SAMPLE_SEED.value)
    return inspect_text(state, description, config, folder, TEXT.value, written)


def export_run(changes: Changes, folder: Path) -> int:
    """Writes the weights of a checkpoint into a file."""
    return export_weights(folder, WEIGHTS_FORMAT.value, WEIGHTS_TO.value, CHECKPOINT.value)


def import_run(changes: Changes, folder: Path) -> int:
    """Makes a run's folder of a file of weights."""
    return import_weights(WEIGHTS_FROM.value, folder, WEIGHTS_FORMAT.value, changes.values)


def compare_runs(_: Changes, folder: Path) -> int:
    """Prints what differs between runs, and their losses."""
    folders = find_runs(WORKDIRS.value)
    for other in folders:
        check_usable(other, "workdirs")
    return compare(folders, folder)


MODES: dict[str, Callable[[Changes, Path], int]] = {
    "train": run_experiment,
    "evaluate": evaluate_run,
    "sample": sample_run,
    "compare": compare_runs,
    "inspect": inspect_run,
    "export": export_run,
    "import": import_run,
}
