"""Imports point one way; nothing in the package reads flags or the environment."""

import ast
import re
from pathlib import Path

import pytest

import lstm_jax

PACKAGE = Path(__file__).parent.parent / "lstm_jax"

BUILT_ON = ("lstm_gates", "lstm_columns", "lstm", "memory_blocks")  # by other cells


def others(room, *names):
    """The modules of a room but those: none of them knows of another, so they have one place."""
    stems = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__", *names}
    return sorted(f"{room}.{stem}" for stem in stems)


CELLS = others("cells", "cell", "passes", "projection", *BUILT_ON)
PARTS_OF_INTERCHANGE = ("libraries", "net", "tensors", "names", "about", "safetensors", "own")
LIBRARIES = others("interchange", *PARTS_OF_INTERCHANGE, "formats", "runs")
TASKS = others("tasks", "task", "drawn", "marked_pairs", "grammar")
ORDER = [
    "errors",
    "terminal",
    "container",
    "options",
    "files",
    "data.fetch",
    "data.plays",
    "data.tokens",
    "data.vocabulary",
    "data.mapped",
    "data.octets",
    "data.words",
    "data.made_ids",
    "data.corpora",
    "data.batches",
    "data.frequencies",
    "data.texts",
    "meshes",
    "precision",
    "pieces",
    "cells.cell",
    "cells.passes",
    "cells.projection",
    "cells.lstm_gates",
    "cells.lstm_columns",
    "cells.lstm",
    "cells.memory_blocks",
    *CELLS,
    "cells",
    "layer",
    "heads",
    "model_config",
    "model",
    "masks",
    "transfer",
    "loss",
    "gradients.known",
    "gradients.bptt",
    "gradients.bptt_layer",
    "gradients",
    "gradients.remat",
    "gradients.weight_drop",
    "gradients.lanes",
    "gradients.accumulation",
    "optimizer",
    "stalling",
    "averaging",
    "sample",
    "scoring.protocols",
    "scoring.ensemble",
    "scoring.monte_carlo",
    "scoring.dynamic",
    "tasks.task",
    "tasks.drawn",
    "tasks.marked_pairs",
    "tasks.grammar",
    *TASKS,
    "tasks",
    "config",
    "hyperparameters",
    "train",
    "verification.reference",
    "verification.cases",
    "verification.notebook",
    "verification.compare",
    "verification.audit",
    "verification.own_layer",
    "verification",
    "inspection.traces",
    "inspection.surprise",
    "inspection.saturation",
    "inspection.reach",
    "inspection.features",
    "inspection.ranking",
    "inspection.choice",
    "inspection.report",
    "inspection.archive",
    "inspection.packing",
    "inspection.page",
    "run.lock",
    "run.checksums",
    "run.signals",
    "run.peers",
    "run.processes",
    "run.memory",
    "run.metrics",
    "run.description",
    "run.storage",
    "run.checkpoint",
    "run.trained",
    "run.beginning",
    "run.nonfinite",
    "run.folder",
    "run.journal",
    "run.validation",
    "run.style",
    "run.figures",
    "run.progress",
    "run.compiling",
    "run.loop",
    "run.many",
    *(f"interchange.{name}" for name in PARTS_OF_INTERCHANGE),
    *LIBRARIES,
    "interchange.formats",
    "interchange.runs",
]


def imported(source, package="lstm_jax"):
    """What a module of the package may get hold of by each of its imports, by full names.

    Of `from a import b` that is `a`, and `a.b`, which may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            parts = [*(above if node.level else []), *([node.module] if node.module else [])]
            yield ".".join(parts)
            yield from (".".join([*parts, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and is_import(node.func):
            yield ast.literal_eval(node.args[0])


def is_import(function):
    return ast.unparse(function).split(".")[-1] in ("__import__", "import_module")


@pytest.mark.parametrize(
    "line",
    [
        "import lstm_jax.train",
        "import numpy, lstm_jax.train as other",
        "from lstm_jax import train",
        "from lstm_jax import (\n    config,\n    train as other,\n)",
        "from lstm_jax.train import Run",
        "from . import train",
        "from .train import Run",
        "def late():\n    from lstm_jax import train",
        "train = __import__('lstm_jax.train')",
        "importlib.import_module('lstm_jax.train')",
        "import_module('lstm_jax.train')",
    ],
)
def test_every_form_of_import_is_seen(line):
    assert "lstm_jax.train" in imported(line)
    relative = line.replace("from .", "from ..")
    assert "lstm_jax.train" in imported(relative, package="lstm_jax.data")
    assert "lstm_jax.train" not in imported(line.replace("train", "loss"))


def modules():
    """Every module's path by its name; of a room's `__init__.py`, where it has one, the room's."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] != "__init__":
            found[".".join(parts)] = path
        elif parts[:-1] and len(ast.parse(path.read_text()).body) > 1:  # more than a docstring
            found[".".join(parts[:-1])] = path
    return found


def test_every_module_has_its_place():
    assert sorted(modules()) == sorted(ORDER)


def test_the_map_has_the_rooms_in_their_order():
    """And each module that stands in no room."""
    rooms = list(dict.fromkeys(name.partition(".")[0] for name in ORDER))
    lines = [line for line in lstm_jax.__doc__.splitlines() if re.match(r" {4}\S", line)]
    names = [re.split(r" {2,}", line.strip())[0] for line in lines]
    assert " ".join(names).replace("/", "").split() == rooms


def test_the_map_names_every_module():
    """But for cells and tasks of one's own, which are to need no line there."""
    names = {name.rpartition(".")[2] for name in ORDER if name not in (*CELLS, *TASKS, *LIBRARIES)}
    assert names <= {*re.findall(r"\w+", lstm_jax.__doc__)}


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name):
    path = modules()[name]
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    for module in imported(path.read_text(), package):
        assert module.split(".")[0] not in ("absl", "experiments", "tests"), module
        assert module != "lstm_jax.*", "a star may be any module"
        other = module.removeprefix("lstm_jax.")
        if other in ORDER and other not in (module, name):
            assert not {other, name} <= {*TASKS}, module
            assert ORDER.index(other) < ORDER.index(name), module


@pytest.mark.parametrize("name", ORDER)
def test_only_corpora_and_style_read_the_environment(name):
    """The style, to hide from matplotlib what it cannot use."""
    reads = "environ" in modules()[name].read_text() or "getenv" in modules()[name].read_text()
    assert reads == (name in ("data.corpora", "run.style"))


EXPERIMENTS = PACKAGE.parent / "experiments"
COMMAND = EXPERIMENTS / "command"


def imported_by(path):
    """The modules that a file of the experiments names in its imports."""
    return {*re.findall(r"^ *(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE)}


def test_flags_are_known_to_the_command_alone():
    for path in EXPERIMENTS.rglob("*.py"):
        if path.parent != COMMAND and path != EXPERIMENTS / "run.py":
            for module in imported_by(path):
                assert module.split(".")[0] != "absl", path
                assert not module.startswith("experiments.command"), path


def test_the_imports_of_the_command_point_one_way():
    names = re.findall(r"^ {4}(\w+)", (COMMAND / "__init__.py").read_text(), re.MULTILINE)
    assert sorted(names) == sorted({path.stem for path in COMMAND.glob("*.py")} - {"__init__"})
    for place, name in enumerate(names):
        later = {f"experiments.command.{other}" for other in names[place:]}
        later |= {"experiments.run", "experiments.command"}
        assert not later & imported_by(COMMAND / f"{name}.py"), name
