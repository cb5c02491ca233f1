"""What `--help` says, and what a mistyped flag is told: plain text, made of a description."""

import dataclasses
import difflib
import math
import shutil
import textwrap
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

from lstm_jax.cells import CELLS
from lstm_jax.config import SECTIONS, read_by
from lstm_jax.errors import shorten
from lstm_jax.model_config import cell_options
from lstm_jax.optimizer import OPTIMIZERS
from lstm_jax.options import value_type
from lstm_jax.tasks import TASKS

COMMAND = "python -m experiments.run"
INTRODUCTION = f"""\
Trains, scores and samples sequence models, and verifies their gradients.

Usage: {COMMAND} [--FLAG=VALUE ...]

  # train; the same command resumes a run that was stopped
  {COMMAND} --experiment=shakespeare
  # a text of your own
  {COMMAND} --config.data.path=my.txt --workdir=runs/mine
  # another cell, fewer steps: any value of the config is a flag
  {COMMAND} --config.model.cell=gru --config.train.steps=500 --workdir=runs/gru
  # every combination of some values
  {COMMAND} --sweep.optimizer.learning_rate=3e-3,1e-2 --sweep.train.seed=0,1
  # what a trained model writes, and its losses
  {COMMAND} --mode=sample --workdir=runs/shakespeare --prompt=ROMEO:
  {COMMAND} --mode=evaluate --workdir=runs/shakespeare
  # a page that shows what the units of a model do
  {COMMAND} --mode=inspect --workdir=runs/shakespeare
  # what differs between runs, and a picture of their losses
  {COMMAND} --mode=compare --workdirs=runs/shakespeare,runs/gru
  # weights for another library, and from one
  {COMMAND} --mode=export --workdir=runs/shakespeare --format=torch --to=model.safetensors
  {COMMAND} --mode=import --from=model.safetensors --workdir=runs/imported
  # compare every gradient with the one derived by hand
  {COMMAND} --experiment=verify_gradients

Results go to stdout, the rest to stderr."""
END = """\
--sweep.SECTION.KEY=VALUE,VALUE trains with each of the values that --config.SECTION.KEY could have.

--helpfull also lists the flags of absl itself (logging, debugging)."""
INDENT, WIDEST_NAME, GAP = 2, 38, 2
MACHINE, WITH = ["cpu_devices", "compile_cache"], "With --mode="
SEVERAL = ["distributed", "coordinator", "num_processes", "process_id"]
# What stands for a value, by the name of a flag or else by its kind.
PLACES = {
    **{"workdir": "DIR", "compile_cache": "DIR", "text": "FILE"},
    "coordinator": "HOST:PORT",
    **{"ensemble": "DIR,DIR", "workdirs": "DIR,DIR", "init_from": "DIR"},
    **{"to": "FILE", "from": "FILE"},
    **{"an integer": "N", "a number": "X", "integers with commas between them": "N,N"},
    "names with commas between them": "NAME,NAME",
}
BEYOND_REACH = 2**20  # a bound that nobody has to know
SUGGESTIONS = 3  # names at most


class Flag(NamedTuple):
    """A flag: its name, what its values are, and what it means.

    kind: in words, such as `an integer`; empty: any text. choices: the only values that there are.
    low, high: the range of a number; None: without bounds. default: None: `meaning` says it.
    """

    name: str
    kind: str
    choices: tuple[str, ...]
    low: float | None
    high: float | None
    default: object
    meaning: str

    @property
    def wanted(self) -> str:
        """What it takes, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        bounds = span(self.low, self.high)
        between = " from " if " to " in bounds else ", " if bounds else ""
        return f"{self.kind or 'another text'}{between}{bounds}"


def help_text(
    flags: Mapping[str, Flag],
    experiments: Mapping[str, ModuleType],
    read_by_mode: Mapping[str, Collection[str]],
    width: int | None = None,
) -> str:
    """All of `--help`; a flag that belongs nowhere else says what to run.

    Args:
      read_by_mode: the flags that each mode reads, besides the config's.
      width: in characters; None: the terminal's, within reason.
    """
    width = width or min(max(shutil.get_terminal_size().columns, 80), 110) - 1
    groups = {f"The config, {s}": in_order(s, flags) for s in SECTIONS}
    groups |= {f"{WITH}{mode}": sorted(names) for mode, names in read_by_mode.items() if names}
    groups |= {"The machine": MACHINE, "Several processes, or machines": SEVERAL}
    known = {name for names in groups.values() for name in names}
    what = [line_of(flag) for name, flag in flags.items() if name not in known]
    blocks = [block("What to run", what, width), *blocks_of(experiments, width)]
    for title, names in groups.items():
        mode = title.removeprefix(WITH)
        blocks.append(block(title, [line_of(flags[name], mode) for name in names], width))
    return "\n\n".join([INTRODUCTION, *blocks, END])


def in_order(section: str, flags: Mapping[str, Flag]) -> list[str]:
    """The flags of a section: first what everybody reads, its own before what it inherits."""
    names = [name for name in flags if name.startswith(f"config.{section}.")]
    own = {f"config.{section}.{key}" for key in SECTIONS[section].__annotations__}
    return sorted(names, key=lambda name: (bool(readers_of(name[7:])), name not in own))


def blocks_of(experiments: Mapping[str, ModuleType], width: int) -> list[str]:
    """Every experiment in a sentence of its own, by the folder that it is in."""
    folders: dict[str, list[tuple[str, str]]] = {}
    for name, module in experiments.items():
        line = name, " ".join((module.__doc__ or "").partition("\n\n")[0].split())
        folders.setdefault(module.__name__.split(".")[-2], []).append(line)
    return [
        block(f"Experiments in experiments/{folder}, which set some of the config", lines, width)
        for folder, lines in folders.items()
    ]


def line_of(flag: Flag, mode: str = "") -> tuple[str, str]:
    """A flag and what it means, in a group of the flags of a mode."""
    name, text = f"--{flag.name}", flag.meaning
    if flag.choices:
        text = text.removeprefix(f"<{'|'.join(flag.choices)}>: ")  # which absl begins it with
    text = text.removeprefix(f"{mode}: ")
    if flag.name == "experiment":  # they have groups of their own
        return f"{name}=NAME", f"{text}; default {flag.default}"
    if flag.choices:
        text = f"{' | '.join(flag.choices)}: {text}"
    if flag.default not in (None, "", []) and flag.default is not False:
        text += ending(flag.low, flag.high, flag.default)
    if flag.kind == "true or false":
        return name, text
    place = PLACES.get(flag.name) or PLACES.get(flag.kind, "TEXT")
    place = "NAME" if flag.choices else "FILE" if name.endswith(("path", "file")) else place
    return f"{name}={place}", text


def block(title: str, lines: Sequence[tuple[str, str]], width: int) -> str:
    """A group: the names in a column, what they mean in another beside it."""
    column = INDENT + GAP + max(min(len(name), WIDEST_NAME) for name, _ in lines)
    text = [f"{title}:"]
    for name, meaning in lines:
        start = f"{'':{INDENT}}{name}"
        if len(start) + GAP > column:
            text.append(start)
            start = ""
        text += textwrap.wrap(
            meaning,
            width,
            initial_indent=f"{start:{column}}",
            subsequent_indent=" " * column,
            break_on_hyphens=False,
        )
    return "\n".join(text)


def in_figures(value: object) -> str:
    """A value as people write it: 65,536, 0.99, 1e-12."""
    if not isinstance(value, int | float):
        return ",".join(map(str, value)) if isinstance(value, list) else f"{value}"
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def span(low: float | None, high: float | None) -> str:
    """A range, such as `1 to 64`; empty where it has no bounds."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{in_figures(low)} {'or more' if high >= BEYOND_REACH else f'to {in_figures(high)}'}"


def ending(low: float | None, high: float | None, default: object) -> str:
    """A range and a default, as they end a help text."""
    text = f"; {bounds}" if (bounds := span(low, high)) else ""
    return text if default in (None, "", ()) else f"{text}; default {in_figures(default)}"


def option_help(name: str, field: dataclasses.Field) -> str:
    """What an option, such as `train.steps`, means: who reads it, its range and its default."""
    meta, readers = field.metadata, readers_of(name)
    text = f"{readers}: {meta['help']}" if readers else meta["help"]
    numeric = value_type(field) in (int, float, tuple)
    low, high = (meta["low"], meta["high"]) if numeric else (None, None)
    return text + ending(low, high, field.default)


def readers_of(name: str) -> str:
    """Which cells, tasks or optimizers read an option; empty where all of them do, or none."""
    key = name.rpartition(".")[2]
    if name.startswith("model."):
        return some_of({cell: key in cell_options(CELLS[cell]) for cell in CELLS})
    if name.startswith("optimizer."):
        return some_of({rule: key in OPTIMIZERS[rule].options for rule in OPTIMIZERS})
    return some_of({task: name in read_by(task) for task in TASKS})


def some_of(reads: Mapping[str, bool]) -> str:
    """The names for which it is so; the others where those are fewer."""
    readers = [name for name, so in reads.items() if so]
    others = [name for name, so in reads.items() if not so]
    if not readers or not others:
        return ""
    few = len(others) < len(readers) - 1
    return f"all but {', '.join(others)}" if few else ", ".join(readers)


def wrong_value(flag: Flag, value: str) -> str:
    """What to say where a flag's value is none that it takes."""
    given = shorten(value) if value.strip() else "an empty value"
    return f"--{flag.name} takes {flag.wanted}, not {given}"


def unknown_flag(flag: str, flags: Collection[str]) -> str:
    """What to say of a flag that there is not, with the few that may be meant."""
    meant = closest(flag, flags)
    if not meant:
        return f"there is no flag --{flag}"
    return f"there is no flag --{flag}; did you mean {' or '.join(f'--{name}' for name in meant)}?"


def closest(name: str, names: Collection[str]) -> list[str]:
    """The few names that somebody may have meant, by the last part of theirs.

    `--learning_rate`, `--lr` and `--config.train.learning` are `--config.optimizer.learning_rate`.
    """
    last = name.rpartition(".")[2]
    parts = {each: each.rpartition(".")[2] for each in sorted(names)}
    if found := [each for each, part in parts.items() if part == last]:
        return found[:SUGGESTIONS]
    alike = difflib.get_close_matches(last, {*parts.values()}, SUGGESTIONS, 0.75)
    for fits in (
        lambda part: part in alike,
        lambda part: last in part.split("_"),
        lambda part: last == "".join(word[:1] for word in part.split("_")),
    ):
        found += [each for each, part in parts.items() if fits(part) and each not in found]
    return found[:SUGGESTIONS]
