"""What is refused before anything is done: flags that lack something, or that would be ignored."""

from collections.abc import Collection

from absl import flags

from experiments.command.catalogue import find_experiment, ignored_by, is_study
from experiments.command.flags import (
    CONFIG_FILE,
    COORDINATOR,
    DISTRIBUTED,
    DYNAMIC,
    DYNAMIC_OPTIONS,
    EXPERIMENT,
    FIGURES,
    JOINING,
    LOG,
    MODE,
    NUM_PROCESSES,
    NUM_SAMPLES,
    PATHS,
    PROCESS_ID,
    PROMPT,
    READ_BY_MODE,
    SAMPLING,
    SPLIT,
    STOP,
    TEMPERATURE,
    TEXT,
    TOP_K,
    TOP_P,
    WORKDIR,
    WORKDIRS,
)
from experiments.command.request import grid, read_by_experiment
from experiments.support.config_file import Changes
from experiments.support.experiment_file import is_file
from experiments.support.naming import NAMING
from lstm_jax.config import SECTIONS, Config
from lstm_jax.errors import UserError, shorten
from lstm_jax.interchange.formats import FORMATS as WEIGHTS
from lstm_jax.tasks import TASKS


def check_flags(mode: str, changes: Changes) -> None:
    """Refuses flags that this mode, this experiment, or another flag, would make meaningless, and
    those that lack a value, or another flag."""
    check_given(mode)
    for names, meaningless, reader in meanings(mode):
        given = [name for name in sorted(names) if flags.FLAGS[name].present]
        if meaningless and given:
            raise UserError(f"--{given[0]} means nothing {reader}: leave it out")
    check_joining()
    check_samples()
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


def meanings(mode: str) -> list[Meaning]:
    """Which flags mean nothing in this mode, to this experiment, and beside others; the first of
    them that is given is the one to name."""
    return [*of_experiment(mode), *of_text(mode), *of_choice(), *of_processes(mode)]


def of_experiment(mode: str) -> list[Meaning]:
    """What a mode reads, and what an experiment does."""
    train, in_a_folder = mode == "train", bool(flags.FLAGS["workdir"].present)
    experiment = f"to --experiment={EXPERIMENT.value}"
    return [
        (set().union(*READ_BY_MODE.values()) - READ_BY_MODE[mode], True, f"to --mode={mode}"),
        (ignored_by(EXPERIMENT.value), train, experiment),
        (
            ("experiment",),
            # A file may be where a run's cell or task is from.
            (in_a_folder or mode == "compare") and not train and not is_file(EXPERIMENT.value),
            f"to --mode={mode}" + (" beside --workdir" if in_a_folder else ""),
        ),
        (("compile_cache", "cpu_devices", "config_file"), mode == "compare", "to --mode=compare"),
        (("init_from", "log"), is_study(find_experiment(EXPERIMENT.value)), experiment),
    ]


def of_text(mode: str) -> list[Meaning]:
    """What is scored or looked at."""
    alone = mode == "inspect" and PROMPT.value is None
    return [
        (DYNAMIC_OPTIONS, not DYNAMIC.value, "without --dynamic"),
        (("split", "prompt"), TEXT.value is not None, "beside --text"),
        (("length", "sample_seed", *SAMPLING), alone, "to --mode=inspect without --prompt"),
        (PATHS, TEXT.value is not None and not DYNAMIC.value, "beside --text without --dynamic"),
        (PATHS, mode == "inspect" and PROMPT.value is not None, "beside --prompt"),
    ]


def of_choice() -> list[Meaning]:
    """What is drawn, where only the likeliest character is ever chosen."""
    return [
        (("sample_seed", "top_k", "top_p"), TEMPERATURE.value == 0, "at --temperature=0"),
        (("sample_seed", "temperature", "top_p"), TOP_K.value == 1, "at --top_k=1"),
        (("sample_seed", "temperature", "top_k"), TOP_P.value == 0, "at --top_p=0"),
    ]


def of_processes(mode: str) -> list[Meaning]:
    """Who computes."""
    study = is_study(find_experiment(EXPERIMENT.value))
    return [
        (("cpu_devices",), mode in ("sample", "inspect"), f"to --mode={mode}, which uses one"),
        (JOINING, mode != "train", f"to --mode={mode}, which is one process"),
        (JOINING, study, f"to --experiment={EXPERIMENT.value}, which is one process"),
        (JOINING[1:], DISTRIBUTED.value is not None, "beside --distributed=auto"),
        (JOINING[2:], COORDINATOR.value is None, "without --coordinator"),
    ]


def check_samples() -> None:
    """Refuses several samples that would all be the same."""
    greedy = TEMPERATURE.value == 0 or TOP_K.value == 1 or TOP_P.value == 0
    if greedy and NUM_SAMPLES.value > 1:
        raise UserError(
            f"--num_samples={NUM_SAMPLES.value} would be one text many times, because only the "
            "likeliest character is ever chosen: leave it out"
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


def refuse_flags_of_texts(config: Config) -> None:
    """Refuses what this mode takes for a text alone."""
    own = {"split"} if SPLIT.value in TASKS[config.data.task].SPLITS else set()
    for name in sorted(READ_BY_MODE[MODE.value] - {"checkpoint"} - own):
        if flags.FLAGS[name].present:
            raise UserError(
                f"--{name} means nothing to a run of data.task={config.data.task}, which is no "
                "text: leave it out"
            )
