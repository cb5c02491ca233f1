"""Trains, scores and samples sequence models.

    python -m experiments.run --experiment=shakespeare
    python -m experiments.run --config.model.hidden_size=64 --workdir=runs/small
    python -m experiments.run --sweep.optimizer.learning_rate=1e-3,3e-3 --sweep.train.seed=0,1,2
    python -m experiments.run --mode=evaluate --workdir=runs/shakespeare
    python -m experiments.run --mode=sample --workdir=runs/shakespeare --prompt=ROMEO:
    python -m experiments.run --mode=compare --workdirs=runs/shakespeare,runs/small
    python -m experiments.run --mode=inspect --workdir=runs/shakespeare
    python -m experiments.run --mode=export --workdir=runs/small --format=torch --to=a.safetensors
    python -m experiments.run --mode=import --from=a.safetensors --workdir=runs/imported

The same command run again in its folder resumes there. Results go to stdout, the rest to stderr.
Every --config.SECTION.KEY has a --sweep.SECTION.KEY: values with commas between them, a run each.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from absl import app, flags, logging

from experiments.recipes import (
    adding,
    continual_reber,
    copy_memory,
    digits,
    digits_permuted,
    embedded_reber,
    long_lags,
    multiplication,
    notebook,
    shakespeare,
    temporal_order,
    tiny_shakespeare_hour,
    tiny_shakespeare_small,
    two_sequences,
    very_long_lags,
)
from experiments.studies import (
    benchmark,
    benchmark_sampling,
    device_check,
    figures,
    gradient_flow,
    learning_to_forget,
    long_sequences,
    notebook_audit,
    odyssey,
    speedrun,
    table_1997,
    tiny_shakespeare,
    tiny_shakespeare_ablation,
    verify_gradients,
    verify_recipes,
)
from experiments.support.comparison import compare, find_runs
from experiments.support.config_file import Changes, changes_of
from experiments.support.evaluation import Wanted, evaluate_task, evaluate_text
from experiments.support.experiment_file import (
    config_of,
    is_file,
    known_experiment,
    load_experiment,
)
from experiments.support.folders import check_no_other, check_own_text, check_usable, described_in
from experiments.support.help import Flag, help_text, option_help, unknown_flag, wrong_value
from experiments.support.inspecting import Written, inspect_text
from experiments.support.interchange import export_weights, import_weights
from experiments.support.machine import keep_memory, use_devices
from experiments.support.naming import NAMING, run_name
from experiments.support.output import READER_LEFT, flush_streams, open_streams, use_hooks
from experiments.support.programs import keep_no_programs, keep_programs, keep_programs_unasked
from experiments.support.samples import sample_task, sample_text
from experiments.support.sweep import train_sweep
from experiments.support.training import train
from lstm_jax.config import SECTIONS, Config, check_read, fields_of
from lstm_jax.data.fetch import cache_folder
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import named
from lstm_jax.interchange.formats import FORMATS as WEIGHTS
from lstm_jax.model import Interface
from lstm_jax.options import value_type
from lstm_jax.run import peers
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.folder import CONFIG
from lstm_jax.run.memory import check_state_fits
from lstm_jax.run.signals import Interrupted
from lstm_jax.run.style import FORMATS, drawn_as
from lstm_jax.sample import SamplingConfig
from lstm_jax.scoring.dynamic import DynamicConfig
from lstm_jax.tasks import TASKS
from lstm_jax.terminal import say, show

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
    "embedded_reber": embedded_reber,
    "continual_reber": continual_reber,
    "copy_memory": copy_memory,
    "digits": digits,
    "digits_permuted": digits_permuted,
    "multiplication": multiplication,
    "temporal_order": temporal_order,
    "two_sequences": two_sequences,
    "long_lags": long_lags,
    "very_long_lags": very_long_lags,
    "notebook_audit": notebook_audit,
    "verify_gradients": verify_gradients,
    "verify_recipes": verify_recipes,
    "device_check": device_check,
    "benchmark": benchmark,
    "benchmark_sampling": benchmark_sampling,
    "long_sequences": long_sequences,
    "gradient_flow": gradient_flow,
    "learning_to_forget": learning_to_forget,
    "odyssey": odyssey,
    "speedrun": speedrun,
    "table_1997": table_1997,
    "figures": figures,
}

EXPERIMENT = flags.DEFINE_string(
    "experiment",
    "shakespeare",
    "one of those that --help lists, or a FILE.py of your own that has a get_config(), and a "
    "main(config, workdir) where it does something else than train",
)
CONFIG_FILE = flags.DEFINE_string(
    "config_file",
    None,
    "config values in a file, .toml or .json (a run's config.json, too): they change the "
    "experiment's, and flags change them",
)
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "train: begin with the best parameters of the run in that folder, in a new one; without "
    "--experiment its config is the one to change",
)
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "sample", "compare", "inspect", "export", "import"],
    "run the experiment, score it, let it write, compare several runs, look at its units, write "
    "its weights for another library, make a run of weights from one",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "the run's folder (default: runs/EXPERIMENT, and -TEXT where that is not the experiment's own; "
    "one that is there goes on with its own config, without --experiment); compare: where the "
    "picture goes (default: runs/compare)",
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
    "checkpoint",
    "best",
    ["best", "latest"],
    "evaluate, sample, inspect, export: the checkpoint, by validation",
)
WEIGHTS_FORMAT = flags.DEFINE_enum(
    "format", None, [*WEIGHTS], "whose weights they are; import: of itself what the file tells"
)
WEIGHTS_TO = flags.DEFINE_string("to", None, "export: the file to write")
WEIGHTS_FROM = flags.DEFINE_string("from", None, "import: the file to read")
PROMPT = flags.DEFINE_string(
    "prompt", None, "sample, inspect: what the model reads first (sample: a new line)"
)
LENGTH = flags.DEFINE_integer("length", 500, "sample, inspect: characters to write", 1, 2**31 - 1)
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
DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    None,
    ["auto"],
    "train in several processes, each of which is given the same command: by what SLURM, Open MPI, "
    "Kubernetes or a Cloud TPU says of them",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "train in several processes, without a cluster: HOST:PORT of the first, the same for all, with "
    "--num_processes and --process_id",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "beside --coordinator: how many there are", 1, 2**16
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id",
    None,
    "beside --coordinator: which of them this is, from 0; the first alone writes",
    0,
    2**16 - 1,
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
    "text",
    None,
    "evaluate, inspect: a file to score all of, or to look at, in place of a split, by the run's "
    "alphabet",
)
FIGURES = flags.DEFINE_list(
    "figures", ["png"], f"the formats of pictures, with commas: {', '.join(FORMATS)}"
)
flags.register_validator(
    "figures",
    lambda names: names and {*names} <= {*FORMATS},
    f"it takes some of {', '.join(FORMATS)}, with commas between them",
)
SAMPLE_SEED = flags.DEFINE_integer(
    "sample_seed", 0, "sample, inspect: the same seed, the same text", 0, 2**32 - 1
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


# What a parser's values are called; any text will do for the others.
KINDS: dict[type, str] = {
    flags.IntegerParser: "an integer",
    flags.FloatParser: "a number",
    flags.BooleanParser: "true or false",
    flags.ListParser: "names with commas between them",
    Integers: "integers with commas between them",
}
OPTIONS: dict[str, dataclasses.Field] = {}  # the flags that are of an option


def define_flag(name: str, field: dataclasses.Field, default: Any) -> flags.FlagHolder:
    """A flag of the field's own type."""
    OPTIONS[name], text = field, option_help(name.removeprefix("config."), field)
    if field.metadata["choices"] is not None:
        flag = flags.DEFINE_enum(name, default, [*field.metadata["choices"]], text)
        parser = flags.FLAGS[name].parser
        assert isinstance(parser, flags.EnumParser)
        # The dict itself: a file of the user's may add to it.
        parser.enum_values = field.metadata["choices"]
        return flag
    if value_type(field) is tuple:
        return flags.DEFINE(Integers(), name, default, text)
    define: dict[type, Callable[..., flags.FlagHolder]] = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    return define[value_type(field)](name, default, text)


SAMPLING = {
    field.name: define_flag(field.name, field, field.default)
    for field in dataclasses.fields(SamplingConfig)
}
TEMPERATURE, TOP_K, TOP_P = (SAMPLING[name] for name in ("temperature", "top_k", "top_p"))
DYNAMIC_OPTIONS = {
    f"dynamic_{field.name}": define_flag(f"dynamic_{field.name}", field, field.default)
    for field in dataclasses.fields(DynamicConfig)
}


class Listed(flags.ArgumentParser):
    """Values of an option with commas between them; where one has commas itself, semicolons."""

    def __init__(self, of_one: flags.ArgumentParser) -> None:
        self.of_one = of_one
        self.separator = ";" if isinstance(of_one, Integers) else ","
        self.syntactic_help = f"values with `{self.separator}` between them"

    def parse(self, argument: Any) -> list[Any]:
        values = argument.split(self.separator) if isinstance(argument, str) else argument
        return [self.of_one.parse(value) for value in values]

    def wrong(self, argument: str) -> str:
        """The first value that is none."""
        for value in argument.split(self.separator):
            try:
                self.of_one.parse(value)
            except (TypeError, ValueError):
                return value
        return argument


def define_config_flags() -> None:
    """A flag for each config value that has none yet; not given it leaves the experiment's own."""
    for section in SECTIONS:
        for key, field in fields_of(section).items():
            if (name := f"config.{section}.{key}") not in flags.FLAGS:
                define_flag(name, field, None)
                define_sweep_flag(name)


def define_sweep_flag(name: str) -> None:
    """The flag for several values of an option, not among the module's own, which --help lists:
    each means what its --config flag does."""
    flags.DEFINE(
        Listed(flags.FLAGS[name].parser),
        name.replace("config.", "sweep.", 1),
        None,
        f"the values of --{name} in the runs of a sweep",
        module_name="experiments.support.sweep",
    )


define_config_flags()

PATHS = ("config.data.path", "config.data.validation_path", "config.data.test_path")

JOINING = ("distributed", "coordinator", "num_processes", "process_id")
HELP = {"--help", "-help", "--helpshort", "-h", "-?", "--?"}
# What each mode reads besides the config, the experiment and the folder.
READ_BY_MODE = {
    "train": {"figures", "init_from", "log"},
    "evaluate": {"checkpoint", "split", "text", "ensemble", "draws", "dynamic", *DYNAMIC_OPTIONS},
    "sample": {"checkpoint", "prompt", "length", "stop", "num_samples", "sample_seed", *SAMPLING},
    "compare": {"workdirs", "figures"},
    "inspect": {"checkpoint", "text", "prompt", "length", "sample_seed", *SAMPLING},
    "export": {"checkpoint", "format", "to"},
    "import": {"format", "from"},
}


def find_experiment(name: str) -> ModuleType:
    """The experiment of a name, or in a file; UserError where there is none."""
    return load_experiment(name) if is_file(name) else known_experiment(name, EXPERIMENTS)


def is_study(experiment: ModuleType) -> bool:
    """Whether an experiment does something of its own in place of training a config."""
    return hasattr(experiment, "main")


def ignored_by(experiment: str) -> tuple[str, ...]:
    """The flags that mean nothing to an experiment."""
    return getattr(find_experiment(experiment), "IGNORES", ())


def check_flags(mode: str, changes: Changes) -> None:
    """Refuses flags that this mode, this experiment, or another flag, would make meaningless, and
    those that lack a value, or another flag."""
    check_given(mode)
    for names, meaningless, reader in meanings(mode):
        given = [name for name in sorted(names) if flags.FLAGS[name].present]
        if meaningless and given:
            raise UserError(f"--{given[0]} means nothing {reader}: leave it out")
    check_joining()
    greedy = TEMPERATURE.value == 0 or TOP_K.value == 1 or TOP_P.value == 0
    if greedy and NUM_SAMPLES.value > 1:
        raise UserError(
            f"--num_samples={NUM_SAMPLES.value} would be one text many times, because only the "
            "likeliest character is ever chosen: leave it out"
        )
    check_changes(mode, changes)


def check_given(mode: str) -> None:
    """Refuses flags that are empty, and the lack of those that a mode needs."""
    for name, what in (
        ("workdir", "folder"),
        ("compile_cache", "folder"),
        ("init_from", "folder"),
        ("text", "file"),
    ):
        if flags.FLAGS[name].value == "":
            raise UserError(f"--{name} is empty: name a {what}, or leave the flag out")
    for name in ("ensemble", "workdirs"):
        if flags.FLAGS[name].present and not all(flags.FLAGS[name].value or [""]):
            raise UserError(f"--{name} has an empty name: give folders, with commas between them")
    if mode == "compare" and not WORKDIRS.value:
        raise UserError("--mode=compare needs --workdirs=DIR,DIR,…: the folders of the runs")
    for of, flag, what in (
        ("export", "format", f"NAME, one of {', '.join(WEIGHTS)}"),
        ("export", "to", "FILE, the one to write"),
        ("import", "from", "FILE, the one to read"),
        ("import", "workdir", "DIR, the new run's folder"),
    ):
        if mode == of and not flags.FLAGS[flag].value:
            raise UserError(f"--mode={mode} needs --{flag}={what}")
    if STOP.value == "":
        raise UserError("--stop is empty: name a text, or leave it out")
    if LOG.value is not None and "png" not in FIGURES.value:
        raise UserError("--log=tensorboard shows curves as png: add it to --figures")


# Flags, whether they mean nothing, and to what.
Meaning = tuple[Collection[str], bool, str]


def meanings(mode: str) -> tuple[Meaning, ...]:
    """Which flags mean nothing in this mode, to this experiment, and beside others."""
    train, in_a_folder = mode == "train", bool(flags.FLAGS["workdir"].present)
    return (
        (set().union(*READ_BY_MODE.values()) - READ_BY_MODE[mode], True, f"to --mode={mode}"),
        (ignored_by(EXPERIMENT.value), train, f"to --experiment={EXPERIMENT.value}"),
        (
            ("experiment",),
            # A file may be where a run's cell or task is from.
            (in_a_folder or mode == "compare") and not train and not is_file(EXPERIMENT.value),
            f"to --mode={mode}" + (" beside --workdir" if in_a_folder else ""),
        ),
        (("compile_cache", "cpu_devices", "config_file"), mode == "compare", "to --mode=compare"),
        (
            ("init_from", "log"),
            is_study(find_experiment(EXPERIMENT.value)),
            f"to --experiment={EXPERIMENT.value}",
        ),
        (DYNAMIC_OPTIONS, not DYNAMIC.value, "without --dynamic"),
        (("split", "prompt"), TEXT.value is not None, "beside --text"),
        (
            ("length", "sample_seed", *SAMPLING),
            mode == "inspect" and PROMPT.value is None,
            "to --mode=inspect without --prompt",
        ),
        (PATHS, TEXT.value is not None and not DYNAMIC.value, "beside --text without --dynamic"),
        (PATHS, mode == "inspect" and PROMPT.value is not None, "beside --prompt"),
        (("sample_seed", "top_k", "top_p"), TEMPERATURE.value == 0, "at --temperature=0"),
        (("sample_seed", "temperature", "top_p"), TOP_K.value == 1, "at --top_k=1"),
        (("sample_seed", "temperature", "top_k"), TOP_P.value == 0, "at --top_p=0"),
        (("cpu_devices",), mode in ("sample", "inspect"), f"to --mode={mode}, which uses one"),
        (JOINING, not train, f"to --mode={mode}, which is one process"),
        (
            JOINING,
            is_study(find_experiment(EXPERIMENT.value)),
            f"to --experiment={EXPERIMENT.value}, which is one process",
        ),
        (JOINING[1:], DISTRIBUTED.value is not None, "beside --distributed=auto"),
        (JOINING[2:], COORDINATOR.value is None, "without --coordinator"),
    )


def check_joining() -> None:
    """Refuses flags that do not say which of how many processes this is."""
    if COORDINATOR.value is None:
        return
    host, _, port = COORDINATOR.value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator takes HOST:PORT, such as node1:1234, not {shorten(COORDINATOR.value)}"
        )
    count, index = NUM_PROCESSES.value, PROCESS_ID.value
    for name, value in (("num_processes", count), ("process_id", index)):
        if value is None:
            raise UserError(f"--coordinator needs --{name}, too")
    if count is not None and index is not None and index >= count:
        raise UserError(
            f"--process_id={index} is none of --num_processes={count}: they count from 0"
        )


def join_others() -> None:
    """Joins the processes that train together, where the flags ask for several."""
    if DISTRIBUTED.value is not None or COORDINATOR.value is not None:
        peers.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)


def check_changes(mode: str, changes: Changes) -> None:
    """Refuses config values that this mode, this experiment, or another one, would make
    meaningless."""
    if mode == "train":
        reads = read_by_experiment()
        wrong = [name for name in changes.values if name not in reads]
        reader = f"--experiment={EXPERIMENT.value}"
    else:
        paths = [name.removeprefix("config.") for name in PATHS]
        reads = {
            "evaluate": ("evaluate.", *paths),
            "inspect": tuple(paths),
            "import": tuple(f"{name}." for name in SECTIONS),
        }
        kept = reads.get(mode, ())
        kept += NAMING if WORKDIR.value is None and mode != "compare" else ()
        wrong = [name for name in changes.values if not name.startswith(kept)]
        reader = f"--mode={mode}, which takes the run's own config"
    if wrong:
        by_flag = flags.FLAGS[f"config.{wrong[0]}"].present
        where = "" if by_flag else f", which --config_file={CONFIG_FILE.value} has,"
        raise UserError(f"--config.{wrong[0]}{where} means nothing to {reader}: leave it out")


def read_by_experiment() -> Collection[str]:
    """The config values that mean something to the experiment."""
    return getattr(find_experiment(EXPERIMENT.value), "READS", Config().flatten())


def given() -> Changes:
    """The config values that are given, by the file and by flags."""
    values = {name: flags.FLAGS[f"config.{name}"].value for name in Config().flatten()}
    by_flags = {name: value for name, value in values.items() if value is not None}
    return changes_of(CONFIG_FILE.value, by_flags, read_by_experiment())


def grid() -> dict[str, list[Any]]:
    """The values to sweep over, by the option's name (`train.seed`)."""
    values = {name: flags.FLAGS[f"sweep.{name}"].value for name in Config().flatten()}
    return {name: value for name, value in values.items() if value is not None}


def check_grid(changes: Changes) -> None:
    """Refuses a sweep where there is nothing to train, or an option has a value of its own."""
    experiment = EXPERIMENT.value
    for name in grid():
        if MODE.value != "train":
            raise UserError(f"--sweep.{name} means nothing to --mode={MODE.value}: leave it out")
        if is_study(find_experiment(experiment)):
            raise UserError(
                f"--sweep.{name} means nothing to --experiment={experiment}, which is a study and "
                "no recipe: take another --experiment, or leave it out"
            )
        for other in ("init_from", "log", *JOINING):
            if flags.FLAGS[other].present:
                raise UserError(f"--{other} means nothing beside --sweep.{name}: leave it out")
        if name in changes.chosen:
            raise UserError(f"--config.{name} and --sweep.{name} are given: leave one out")


def changed(config: Config, changes: Changes) -> Config:
    """A config with changes; UserError where they do not go together."""
    try:
        config = config.replace(changes.values)
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


def set_compile_cache() -> None:
    """Compiled programs are kept, unless the user, or a cache set up for JAX, says otherwise."""
    chosen = COMPILE_CACHE.value
    if MODE.value == "train" and "compile_cache" in ignored_by(EXPERIMENT.value):
        chosen = "off"
    if chosen == "off":
        keep_no_programs()
    elif chosen:
        keep_programs(named(chosen))
    # JAX's types say nothing of the values in its config.
    elif (set_up := jax.config.jax_compilation_cache_dir) is None:  # type: ignore[attr-defined]
        keep_programs_unasked(cache_folder())
    elif set_up.startswith("~"):  # which JAX would take for a name
        jax.config.update("jax_compilation_cache_dir", str(named(set_up)))


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
        SamplingConfig(**{name: holder.value for name, holder in SAMPLING.items()}),
        PROMPT.value,
        LENGTH.value,
        NUM_SAMPLES.value,
        SAMPLE_SEED.value,
        STOP.value,
    )


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
    sampling = SamplingConfig(**{name: holder.value for name, holder in SAMPLING.items()})
    written = Written(PROMPT.value, LENGTH.value, sampling, SAMPLE_SEED.value)
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


def refuse_flags_of_texts(config: Config) -> None:
    """Refuses what this mode takes for a text alone."""
    own = {"split"} if SPLIT.value in TASKS[config.data.task].SPLITS else set()
    for name in sorted(READ_BY_MODE[MODE.value] - {"checkpoint"} - own):
        if flags.FLAGS[name].present:
            raise UserError(
                f"--{name} means nothing to a run of data.task={config.data.task}, which is no "
                "text: leave it out"
            )


def main(argv: Sequence[str]) -> int:
    open_streams()
    return peers.end(flush_streams(carry_out(argv)))


def carry_out(argv: Sequence[str]) -> int:
    """What the flags ask for; returns the exit code."""
    if argv[1:] and not HELP.issuperset(argv[1:]):
        say(f"error: unexpected argument {argv[1]!r}: flags begin with --")
        return 2
    use_hooks()
    try:
        if argv[1:]:
            return show_help()
        changes = given()
        check_flags(MODE.value, changes)
        check_grid(changes)
        keep_memory()
        join_others()
        with peers.told():
            return carry_out_mode(changes)
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


def carry_out_mode(changes: Changes) -> int:
    """What the mode is for; returns the exit code."""
    use_devices(CPU_DEVICES.value)
    if INIT_FROM.value is not None:
        check_usable(named(INIT_FROM.value), "init_from")
    folder = workdir(changes)
    check_usable(folder, "workdir")
    if MODE.value != "compare":
        check_no_other(folder, sweep=bool(grid()))
    for other in ENSEMBLE.value:
        check_usable(named(other), "ensemble")
    set_compile_cache()
    modes = {
        "train": run_experiment,
        "evaluate": evaluate_run,
        "sample": sample_run,
        "compare": compare_runs,
        "inspect": inspect_run,
        "export": export_run,
        "import": import_run,
    }
    with drawn_as(*FIGURES.value):
        return modes[MODE.value](changes, folder)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's parser, with an error in one line, and quiet unless --verbosity says otherwise.

    Quiet: orbax also raises what it logs as an error, with a traceback, and one line of it will do.
    """
    if HELP.intersection(itertools.takewhile(lambda flag: flag != "--", argv[1:])):
        with suppress(flags.Error, ValueError):  # what is wrong can wait
            load_own_experiment(argv)
        flags.FLAGS(argv[:1])
        return [argv[0], "--help"]
    try:
        argv = [argv[0], *flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]
        load_own_experiment(argv)
        rest = flags.FLAGS(argv)
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.FATAL)
        return rest
    except UserError as error:  # of a file of the user's
        say(f"error: {error}")
    except (flags.Error, ValueError) as error:  # ValueError: a flagfile that is not UTF-8
        say(f"error: {told(error)} (--help lists the flags)")
    sys.exit(2)


def load_own_experiment(argv: Sequence[str]) -> None:
    """Loads the file that --experiment names, where it does, and defines flags for its options."""
    early = flags.FlagValues()
    experiment = flags.DEFINE_string("experiment", "", "", flag_values=early)
    early(argv, known_only=True)
    if is_file(experiment.value):
        load_experiment(experiment.value)
    Config()  # which takes in the options of what is now in CELLS and TASKS
    define_config_flags()


def told(error: Exception) -> str:
    """What absl found wrong, in plain words where it is a flag's name or its value."""
    if isinstance(error, flags.UnrecognizedFlagError):
        section = error.flagname.removeprefix("config.")
        if section == "config" or section in SECTIONS:
            return (
                f"there is no flag --{error.flagname}: did you mean --config_file=FILE, or one of "
                "--config.SECTION.KEY=VALUE?"
            )
        swept = error.flagname.startswith("sweep.")
        names = [name for name in flags.FLAGS if name.startswith("sweep.") == swept]
        return unknown_flag(error.flagname, names)
    name, why = f"{error}".partition("=")[0].removeprefix("flag --"), error.__context__
    if name not in flags.FLAGS or why is None:  # None: a validator says all itself
        return f"{error}".removeprefix("ERROR:: ").removeprefix("flag ")
    value = f"{error}".removeprefix(f"flag --{name}=").removesuffix(f": {why}")
    if isinstance(listed := flags.FLAGS[name].parser, Listed):
        of_one = described(flags.FLAGS[name.replace("sweep.", "config.", 1)])
        return wrong_value(of_one._replace(name=name), listed.wrong(value))
    return wrong_value(described(flags.FLAGS[name]), value)


def described(flag: flags.Flag) -> Flag:
    """A flag as `support.help` knows one."""
    parser, field = flag.parser, OPTIONS.get(flag.name)
    low, high = getattr(parser, "lower_bound", None), getattr(parser, "upper_bound", None)
    if field is not None:
        low, high = field.metadata["low"], field.metadata["high"]
    choices = tuple(getattr(parser, "enum_values", ()))
    default = None if field is not None else flag.default
    return Flag(flag.name, KINDS.get(type(parser), ""), choices, low, high, default, flag.help)


def show_help() -> int:
    """`--help`, on stdout."""
    module = flags.FLAGS.find_module_defining_flag("mode")
    assert module is not None  # this one
    by_name = {flag.name: described(flag) for flag in flags.FLAGS.flags_by_module_dict()[module]}
    show(help_text(by_name, EXPERIMENTS, READ_BY_MODE))
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
