"""Every flag: its name, its type, its default, what it means, and which modes read it.

Flags of the config are made of its fields, a `--config` and a `--sweep` each.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags

from experiments.command.parsers import Integers, Listed
from experiments.support.help import option_help
from lstm_jax.config import SECTIONS, fields_of
from lstm_jax.interchange.formats import FORMATS as WEIGHTS
from lstm_jax.options import value_type
from lstm_jax.run.style import FORMATS
from lstm_jax.sample import SamplingConfig
from lstm_jax.scoring.dynamic import DynamicConfig

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
