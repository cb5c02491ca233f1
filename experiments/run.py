"""Trains, scores and samples sequence models.

    python -m experiments.run --experiment=shakespeare
    python -m experiments.run --config.model.hidden_size=64 --workdir=runs/small
    python -m experiments.run --mode=evaluate --workdir=runs/shakespeare
    python -m experiments.run --mode=sample --workdir=runs/shakespeare --prompt=ROMEO:
    python -m experiments.run --mode=compare --workdirs=runs/shakespeare,runs/small

The same command run again in its folder resumes there. Results go to stdout, the rest to stderr.
"""

import dataclasses
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from absl import app, flags, logging

from experiments.recipes import (
    adding,
    notebook,
    shakespeare,
    tiny_shakespeare_hour,
    tiny_shakespeare_small,
)
from experiments.studies import (
    benchmark,
    benchmark_sampling,
    device_check,
    figures,
    long_sequences,
    notebook_audit,
    speedrun,
    tiny_shakespeare,
    tiny_shakespeare_ablation,
    verify_gradients,
    verify_recipes,
)
from experiments.support.comparison import compare, find_runs
from experiments.support.evaluation import Wanted, evaluate_task, evaluate_text
from experiments.support.machine import keep_memory, use_devices
from experiments.support.output import READER_LEFT, flush_streams, open_streams, use_hooks
from experiments.support.programs import keep_no_programs, keep_programs, keep_programs_unasked
from experiments.support.samples import sample_task, sample_text
from experiments.support.training import train
from lstm_jax.config import SECTIONS, Config, check_read, fields_of
from lstm_jax.data.fetch import cache_folder
from lstm_jax.errors import UserError
from lstm_jax.files import check_plain, named
from lstm_jax.model import Interface
from lstm_jax.options import value_type
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.folder import RUN_FILES
from lstm_jax.run.memory import check_state_fits
from lstm_jax.run.signals import Interrupted
from lstm_jax.run.style import FORMATS, drawn_as
from lstm_jax.sample import SamplingConfig
from lstm_jax.scoring.dynamic import DynamicConfig
from lstm_jax.terminal import say

# A recipe is a module with a `get_config`, which is trained. A study has more: what it does in
# place of training (`main`), the config values that it READS, and the flags that it IGNORES. One
# that does something else where no value is given has a `main_unchanged`.
EXPERIMENTS: dict[str, ModuleType] = {
    "shakespeare": shakespeare,
    "tiny_shakespeare": tiny_shakespeare,
    "tiny_shakespeare_small": tiny_shakespeare_small,
    "tiny_shakespeare_hour": tiny_shakespeare_hour,
    "tiny_shakespeare_ablation": tiny_shakespeare_ablation,
    "notebook": notebook,
    "adding": adding,
    "notebook_audit": notebook_audit,
    "verify_gradients": verify_gradients,
    "verify_recipes": verify_recipes,
    "device_check": device_check,
    "benchmark": benchmark,
    "benchmark_sampling": benchmark_sampling,
    "long_sequences": long_sequences,
    "speedrun": speedrun,
    "figures": figures,
}

EXPERIMENT = flags.DEFINE_enum(
    "experiment", "shakespeare", list(EXPERIMENTS), "which experiment; each is a file of its name"
)
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "sample", "compare"],
    "run the experiment, score it, let it write, compare several runs",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "the run's folder (default: runs/EXPERIMENT); compare: where the picture goes (default: "
    "runs/compare)",
)
WORKDIRS = flags.DEFINE_list(
    "workdirs",
    [],
    "compare: folders of runs, with commas between them; a folder that holds such folders stands "
    "for all of them, and a quoted 'runs/small_*' for what matches",
)
COMPILE_CACHE = flags.DEFINE_string(
    "compile_cache",
    None,
    "a folder that only you can write, where compiled programs are kept for the next run; off: "
    "nowhere (default: JAX_COMPILATION_CACHE_DIR, or else the user's cache folder)",
)
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "evaluate, sample: the checkpoint, by validation"
)
PROMPT = flags.DEFINE_string("prompt", None, "sample: what the model reads first (a new line)")
LENGTH = flags.DEFINE_integer("length", 500, "sample: characters to write", 1, 2**31 - 1)
STOP = flags.DEFINE_string(
    "stop", None, "sample: each sample ends before this text, if it comes to write it"
)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "sample: how many", 1, 65536)
CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices",
    0,
    "cores that share a batch's lanes, on a CPU, where that pays; 0: all of them",
    0,
    1024,
)
ENSEMBLE = flags.DEFINE_list(
    "ensemble",
    [],
    "evaluate: folders of other runs, whose predictions are averaged with this one's and scored on "
    "lines of their own",
)
DYNAMIC = flags.DEFINE_bool(
    "dynamic", False, "evaluate: dynamic evaluation as well, on a line of its own"
)
DRAWS = flags.DEFINE_integer(
    "draws",
    0,
    "evaluate: Monte Carlo dropout as well, the mean prediction of so many draws of what training "
    "drops, on lines of its own; 0: not",
    0,
    4096,
)
SPLIT = flags.DEFINE_enum(
    "split",
    "validation",
    ["validation", "test", "training_end"],
    "evaluate: what to score; training_end: as long a piece at the end of the training split, to "
    "tune dynamic evaluation on",
)
LOG = flags.DEFINE_enum(
    "log",
    None,
    ["tensorboard"],
    "train: also write metrics, samples and curves for TensorBoard, into WORKDIR/tensorboard",
)
TEXT = flags.DEFINE_string(
    "text", None, "evaluate: a file to score all of, in place of a split, by the run's alphabet"
)
FIGURES = flags.DEFINE_list(
    "figures", ["png"], f"train: the formats of pictures, with commas: {', '.join(FORMATS)}"
)
flags.register_validator(
    "figures",
    lambda names: names and {*names} <= {*FORMATS},
    f"it takes some of {', '.join(FORMATS)}, with commas between them",
)
SAMPLE_SEED = flags.DEFINE_integer(
    "sample_seed", 0, "sample: the same seed, the same text", 0, 2**32 - 1
)


def help_of(field: dataclasses.Field) -> str:
    """What a value means, its range, and its default where the flag has none of its own."""
    meta, default = field.metadata, field.default
    numeric = value_type(field) in (int, float, tuple)
    bounds = f"; {meta['low']:,} to {meta['high']:,}" if numeric else ""
    return f"{meta['help']}{bounds}" + (
        f"; default {default}" if default not in (None, "", ()) else ""
    )


class Integers(flags.ArgumentParser):
    """Integers with commas between them."""

    syntactic_help = "integers with commas between them"

    def parse(self, argument: Any) -> tuple[int, ...]:
        if not isinstance(argument, str):
            return tuple(argument)
        try:
            return tuple(int(number) for number in argument.split(","))
        except ValueError as error:
            raise ValueError("it takes integers with commas between them") from error


def define_flag(name: str, field: dataclasses.Field, default: Any) -> flags.FlagHolder:
    """A flag of the field's own type."""
    if field.metadata["choices"] is not None:
        return flags.DEFINE_enum(name, default, [*field.metadata["choices"]], help_of(field))
    if value_type(field) is tuple:
        return flags.DEFINE(Integers(), name, default, help_of(field))
    define = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }[value_type(field)]
    return define(name, default, help_of(field))


SAMPLING = {
    field.name: define_flag(field.name, field, field.default)
    for field in dataclasses.fields(SamplingConfig)
}
TEMPERATURE, TOP_K, TOP_P = (SAMPLING[name] for name in ("temperature", "top_k", "top_p"))
DYNAMIC_OPTIONS = {
    f"dynamic_{field.name}": define_flag(f"dynamic_{field.name}", field, field.default)
    for field in dataclasses.fields(DynamicConfig)
}
# A config value that is not given leaves the experiment's own.
CONFIG = {
    f"config.{section}.{key}": define_flag(f"config.{section}.{key}", field, None)
    for section in SECTIONS
    for key, field in fields_of(section).items()
}

PATHS = ("config.data.path", "config.data.validation_path", "config.data.test_path")

# What each mode reads besides the config, the experiment and the folder.
READ_BY_MODE = {
    "train": {"figures", "log"},
    "evaluate": {"checkpoint", "split", "text", "ensemble", "draws", "dynamic", *DYNAMIC_OPTIONS},
    "sample": {"checkpoint", "prompt", "length", "stop", "num_samples", "sample_seed", *SAMPLING},
    "compare": {"workdirs", "figures"},
}


def is_study(experiment: ModuleType) -> bool:
    """Whether an experiment does something of its own in place of training a config."""
    return hasattr(experiment, "main")


def ignored_by(experiment: str) -> tuple[str, ...]:
    """The flags that mean nothing to an experiment."""
    return getattr(EXPERIMENTS[experiment], "IGNORES", ())


def check_flags(mode: str, changes: dict[str, Any]) -> None:
    """Refuses flags that this mode, this experiment, or another flag, would make meaningless."""
    for name, what in (("workdir", "folder"), ("compile_cache", "folder"), ("text", "file")):
        if flags.FLAGS[name].value == "":
            raise UserError(f"--{name} is empty: name a {what}, or leave the flag out")
    for name in ("ensemble", "workdirs"):
        if flags.FLAGS[name].present and not all(flags.FLAGS[name].value or [""]):
            raise UserError(f"--{name} has an empty name: give folders, with commas between them")
    if mode == "compare" and not WORKDIRS.value:
        raise UserError("--mode=compare needs --workdirs=DIR,DIR,…: the folders of the runs")
    if STOP.value == "":
        raise UserError("--stop is empty: name a text, or leave it out")
    train, in_a_folder = mode == "train", flags.FLAGS["workdir"].present
    for names, meaningless, reader in (
        (set().union(*READ_BY_MODE.values()) - READ_BY_MODE[mode], True, f"to --mode={mode}"),
        (ignored_by(EXPERIMENT.value), train, f"to --experiment={EXPERIMENT.value}"),
        (("log",), is_study(EXPERIMENTS[EXPERIMENT.value]), f"to --experiment={EXPERIMENT.value}"),
        (("experiment",), in_a_folder and not train, f"to --mode={mode} beside --workdir"),
        (("compile_cache", "cpu_devices", "experiment"), mode == "compare", "to --mode=compare"),
        (DYNAMIC_OPTIONS, not DYNAMIC.value, "without --dynamic"),
        (("split",), TEXT.value is not None, "beside --text"),
        (PATHS, TEXT.value is not None and not DYNAMIC.value, "beside --text without --dynamic"),
        (("sample_seed", "top_k", "top_p"), TEMPERATURE.value == 0, "at --temperature=0"),
        (("sample_seed", "temperature", "top_p"), TOP_K.value == 1, "at --top_k=1"),
        (("sample_seed", "temperature", "top_k"), TOP_P.value == 0, "at --top_p=0"),
        (("cpu_devices",), mode == "sample", "to --mode=sample, which uses one"),
    ):
        given = [name for name in sorted(names) if flags.FLAGS[name].present]
        if meaningless and given:
            raise UserError(f"--{given[0]} means nothing {reader}: leave it out")
    greedy = TEMPERATURE.value == 0 or TOP_K.value == 1 or TOP_P.value == 0
    if greedy and NUM_SAMPLES.value > 1:
        raise UserError(
            f"--num_samples={NUM_SAMPLES.value} would be one text many times, because only the "
            "likeliest character is ever chosen: leave it out"
        )
    check_changes(mode, changes)


def check_changes(mode: str, changes: dict[str, Any]) -> None:
    """Refuses config values that this mode, this experiment, or another one, would make
    meaningless."""
    if mode == "train":
        reads = getattr(EXPERIMENTS[EXPERIMENT.value], "READS", changes)
        wrong = [name for name in changes if name not in reads]
        reader = f"--experiment={EXPERIMENT.value}"
    else:
        paths = [name.removeprefix("config.") for name in PATHS]
        kept = ("evaluate.", *paths) if mode == "evaluate" else ()
        wrong = [name for name in changes if not name.startswith(kept)]
        reader = f"--mode={mode}, which takes the run's own config"
    if wrong:
        raise UserError(f"--config.{wrong[0]} means nothing to {reader}: leave it out")


def overrides() -> dict[str, Any]:
    """The config values given on the command line, by name (`model.hidden_size`)."""
    return {
        name.removeprefix("config."): holder.value
        for name, holder in CONFIG.items()
        if holder.value is not None
    }


def workdir() -> Path:
    name = "compare" if MODE.value == "compare" else EXPERIMENT.value
    return named(f"runs/{name}" if WORKDIR.value is None else WORKDIR.value)


def check_usable(folder: Path, flag: str) -> None:
    """Refuses what can be no run's folder."""
    try:
        str(folder).encode()  # what writes the checkpoints takes no other names
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL inside the path
        reason = getattr(error, "strerror", error)
        raise UserError(f"--{flag}={folder} cannot be used ({reason}): choose another") from error
    if not is_folder:
        raise UserError(f"--{flag}={folder} is a file, not a folder: choose another")
    check_plain(folder, RUN_FILES)


def set_compile_cache() -> None:
    """Compiled programs are kept, unless the user, or a cache set up for JAX, says otherwise."""
    chosen = COMPILE_CACHE.value
    if MODE.value == "train" and "compile_cache" in ignored_by(EXPERIMENT.value):
        chosen = "off"
    if chosen == "off":
        keep_no_programs()
    elif chosen:
        keep_programs(named(chosen))
    elif (set_up := jax.config.jax_compilation_cache_dir) is None:
        keep_programs_unasked(cache_folder())
    elif set_up.startswith("~"):  # which JAX would take for a name
        jax.config.update("jax_compilation_cache_dir", str(named(set_up)))


def run_experiment() -> int:
    """Runs the experiment with its config as the flags change it; returns the exit code."""
    experiment = EXPERIMENTS[EXPERIMENT.value]
    config = experiment.get_config().replace(overrides())
    check_read(config, overrides())
    if not is_study(experiment):
        return train(config, workdir(), EXPERIMENT.value, LOG.value)
    check_state_fits(config, Interface.of(1))
    if not overrides() and hasattr(experiment, "main_unchanged"):
        return experiment.main_unchanged(workdir())
    return experiment.main(config, workdir())


def evaluate_run() -> int:
    """Prints the losses of a checkpoint on its validation split, or on the one that is named."""
    state, description = load_model(workdir(), CHECKPOINT.value)
    config = description.config.replace(overrides())
    check_read(config, overrides())
    if config.data.task != "text":
        refuse_flags_of_texts(config)
        return evaluate_task(state, description, config)
    rule = DynamicConfig(
        **{name.removeprefix("dynamic_"): flag.value for name, flag in DYNAMIC_OPTIONS.items()}
    )
    wanted = Wanted(
        workdir(),
        CHECKPOINT.value,
        SPLIT.value,
        TEXT.value,
        ENSEMBLE.value,
        DRAWS.value,
        rule if DYNAMIC.value else None,
    )
    return evaluate_text(state, description, config, wanted)


def sample_run() -> int:
    """Writes what a text's model would write, or what another task has to show."""
    state, description = load_model(workdir(), CHECKPOINT.value)
    config = description.config
    if config.data.task != "text":
        refuse_flags_of_texts(config)
        return sample_task(state, description)
    return sample_text(
        state,
        description,
        SamplingConfig(**{name: holder.value for name, holder in SAMPLING.items()}),
        PROMPT.value,
        LENGTH.value,
        NUM_SAMPLES.value,
        SAMPLE_SEED.value,
        STOP.value,
    )


def compare_runs() -> int:
    """Prints what differs between runs, and their losses."""
    folders = find_runs(WORKDIRS.value)
    for folder in folders:
        check_usable(folder, "workdirs")
    return compare(folders, workdir())


def refuse_flags_of_texts(config: Config) -> None:
    """Refuses what this mode takes for a text alone."""
    for name in sorted(READ_BY_MODE[MODE.value] - {"checkpoint"}):
        if flags.FLAGS[name].present:
            raise UserError(
                f"--{name} means nothing to a run of data.task={config.data.task}, which is no "
                "text: leave it out"
            )


def main(argv: Sequence[str]) -> int:
    open_streams()
    return flush_streams(carry_out(argv))


def carry_out(argv: Sequence[str]) -> int:
    """What the flags ask for; returns the exit code."""
    if argv[1:]:
        say(f"error: unexpected argument {argv[1]!r}: flags begin with --")
        return 2
    use_hooks()
    try:
        check_flags(MODE.value, overrides())
        keep_memory()
        use_devices(CPU_DEVICES.value)
        check_usable(workdir(), "workdir")
        for folder in ENSEMBLE.value:
            check_usable(named(folder), "ensemble")
        set_compile_cache()
        modes = {
            "train": run_experiment,
            "evaluate": evaluate_run,
            "sample": sample_run,
            "compare": compare_runs,
        }
        with drawn_as(*FIGURES.value):
            return modes[MODE.value]()
    except UserError as error:
        say(f"error: {error}")
        return 2
    except Interrupted as stop:
        say(f"saved at step {stop.step}; the same command goes on from there")
        return 128 + stop.signal_number
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        return READER_LEFT
    except OSError as error:
        say(f"error: {error}")
        return 2
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(
            f"error: there is not enough memory ({error}): take a smaller model, or less at once "
            "(train.batch_size, train.sequence_length, evaluate.lanes, --num_samples)"
        )
        return 2
    except KeyboardInterrupt:
        return 130


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's parser, with an error in one line, and quiet unless --verbosity says otherwise.

    Quiet: orbax also raises what it logs as an error, with a traceback, and one line of it will do.
    """
    try:
        rest = flags.FLAGS(argv)
        if flags.FLAGS["verbosity"].using_default_value:
            flags.FLAGS.verbosity = logging.FATAL
        return rest
    except (flags.Error, ValueError) as error:  # ValueError: a flagfile that is not UTF-8
        say(f"error: {error} (--help lists the flags)")
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
