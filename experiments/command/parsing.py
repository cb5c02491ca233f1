"""A command line into flags; what is wrong with it, in one line; and `--help`."""

import itertools
import sys
from collections.abc import Sequence
from contextlib import suppress

from absl import flags, logging

from experiments.command.catalogue import EXPERIMENTS
from experiments.command.flags import OPTIONS, READ_BY_MODE, define_config_flags
from experiments.command.parsers import Integers, Listed
from experiments.support.experiment_file import is_file, load_experiment
from experiments.support.help import Flag, help_text, unknown_flag, wrong_value
from lstm_jax.config import SECTIONS, Config
from lstm_jax.errors import UserError
from lstm_jax.terminal import say, show

# What a parser's values are called; any text will do for the others.
KINDS: dict[type, str] = {
    flags.IntegerParser: "an integer",
    flags.FloatParser: "a number",
    flags.BooleanParser: "true or false",
    flags.ListParser: "names with commas between them",
    Integers: "integers with commas between them",
}

HELP = {"--help", "-help", "--helpshort", "-h", "-?", "--?"}


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
    assert module is not None  # that of them all
    by_name = {flag.name: described(flag) for flag in flags.FLAGS.flags_by_module_dict()[module]}
    show(help_text(by_name, EXPERIMENTS, READ_BY_MODE))
    return 0
