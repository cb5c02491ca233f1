"""An experiment in a file of the user's own: `--experiment=path/to/mine.py`.

It is loaded before the flags are parsed, because they choose from what it puts into CELLS, TASKS
or OPTIMIZERS. It is executed, so the user alone names it, and no run's folder does.
"""

import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from lstm_jax.config import Config
from lstm_jax.errors import UserError, did_you_mean, shorten
from lstm_jax.files import named

PLEASE = "it needs a get_config() that returns a Config"


def is_file(name: str) -> bool:
    """Whether an experiment is named by its file."""
    return name.endswith(".py")


def known_experiment(name: str, known: Mapping[str, ModuleType]) -> ModuleType:
    """The experiment of a name; UserError where there is none, with what may be meant."""
    if name in known:
        return known[name]
    files = [path.name for path in Path().glob("*.py")]
    meant = did_you_mean(name[:100], [*known, *files])
    choices = f", which should be one of {', '.join(known)}, or a FILE.py"
    raise UserError(f"there is no --experiment={shorten(name)}{meant or choices}")


def load_experiment(name: str) -> ModuleType:
    """The module in a file; UserError where it cannot be loaded, or is no experiment."""
    try:
        path = named(name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:  # of a NUL, or of links in a circle
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--experiment={name} cannot be read: {reason}") from error
    if not path.is_file():
        raise UserError(f"--experiment={name} is no file")
    with blamed(name, path):
        module = execute(path)
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"--experiment={name} has no get_config: {PLEASE}")
    if not callable(getattr(module, "main", len)):
        raise UserError(f"--experiment={name}: its main is no function of a config and a folder")
    for names in ("READS", "IGNORES"):
        if isinstance(getattr(module, names, ()), str):  # "" in "abc" is True
            raise UserError(f"--experiment={name}: {names} is a text: it lists names, as in ('a',)")
    return module


@functools.cache  # as any module it is executed once, however often it is asked for
def execute(path: Path) -> ModuleType:
    """The module in a file, with what lies beside it there to be imported, as for a script."""
    module_name = f"experiments.own.{path.stem}"  # shadows no module, whatever the file is called
    loader = SourceFileLoader(module_name, str(path))
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader)
    module = ModuleType(module_name) if spec is None else importlib.util.module_from_spec(spec)
    if (folder := str(path.parent)) not in sys.path:
        sys.path.append(folder)
    sys.modules[module_name] = module  # where a dataclass looks up what its annotations name
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def config_of(module: ModuleType, name: str) -> Config:
    """What an experiment's get_config() gives; UserError where a file's gives no config."""
    if not is_file(name):
        return module.get_config()
    with blamed(name, Path(inspect.getfile(module))):
        config = module.get_config()
    if not isinstance(config, Config):
        raise UserError(f"get_config() of --experiment={name} returns {shorten(config)}: {PLEASE}")
    return config


@contextmanager
def blamed(name: str, path: Path) -> Iterator[None]:
    """Around what a file of the user's does: its failure is a line with the place."""
    try:
        yield
    except (Exception, SystemExit) as error:
        what = f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"--experiment={name}{place_in(path, error)}: {what}") from error


def place_in(path: Path, error: BaseException) -> str:
    """The line of a file in which something failed, as `, line 3`."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    return f", line {lines[-1]}" if lines else ""
