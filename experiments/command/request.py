"""What is asked for: the config, what changes it, and the folder."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from absl import flags

from experiments.command.catalogue import find_experiment
from experiments.command.flags import CONFIG_FILE, EXPERIMENT, INIT_FROM, MODE, WORKDIR
from experiments.support.config_file import Changes, changes_of
from experiments.support.experiment_file import config_of
from experiments.support.folders import described_in
from experiments.support.naming import run_name
from lstm_jax.config import Config, check_read
from lstm_jax.errors import UserError
from lstm_jax.files import named
from lstm_jax.run.folder import CONFIG


def given() -> Changes:
    """The config values that are given, by the file and by flags."""
    values = {name: flags.FLAGS[f"config.{name}"].value for name in Config().flatten()}
    by_flags = {name: value for name, value in values.items() if value is not None}
    return changes_of(CONFIG_FILE.value, by_flags, read_by_experiment())


def read_by_experiment() -> Collection[str]:
    """The config values that mean something to the experiment."""
    return getattr(find_experiment(EXPERIMENT.value), "READS", Config().flatten())


def grid() -> dict[str, list[Any]]:
    """The values to sweep over, by the option's name (`train.seed`)."""
    values = {name: flags.FLAGS[f"sweep.{name}"].value for name in Config().flatten()}
    return {name: value for name, value in values.items() if value is not None}


def changed(config: Config, changes: Changes) -> Config:
    """A config with changes; UserError where they do not go together."""
    try:
        config = changes.applied_to(config)
        check_read(config, changes.chosen)
    except UserError as error:
        if CONFIG_FILE.value is None:
            raise
        raise UserError(f"{error} (see --config_file={CONFIG_FILE.value})") from error
    return config


def own_run() -> Path | None:
    """The run whose own config is the one to change, where no experiment is named."""
    if MODE.value != "train" or flags.FLAGS["experiment"].present:
        return None
    if WORKDIR.value is not None and (named(WORKDIR.value) / CONFIG).exists():
        return named(WORKDIR.value)
    return None if INIT_FROM.value is None else named(INIT_FROM.value)


def base_config() -> Config:
    """The config that a file and flags change: the experiment's, or the one of a run."""
    if (folder := own_run()) is not None:
        if not folder.exists():
            raise UserError(
                f"there is no {folder} to begin from: a run that has begun from it goes on with "
                "its own --workdir alone"
            )
        return described_in(folder).config
    return config_of(find_experiment(EXPERIMENT.value), EXPERIMENT.value)


def name_of_run(changes: Changes) -> str:
    """What a run is called by what is asked for."""
    if MODE.value == "compare":
        return "compare"
    own, tuned = base_config().flatten(), INIT_FROM.value is not None
    name = str((own_run() or Path(EXPERIMENT.value)).absolute())
    return run_name(name, own, own | changes.values) + ("-tuned" if tuned else "")


def workdir(changes: Changes) -> Path:
    if WORKDIR.value is not None:
        return named(WORKDIR.value)
    return Path("runs", name_of_run(changes) + name_of_sweep())


def name_of_sweep() -> str:
    """What a sweep's folder has more than a run's: the options that it is of."""
    keys = [name.rpartition(".")[2] for name in grid()]
    return "".join(f"-{key}" for key in keys) + ("-sweep" if keys else "")
