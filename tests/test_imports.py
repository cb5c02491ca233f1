"""Imports point one way; nothing in the package reads flags or the environment."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lstm_jax"

ORDER = [
    "terminal",
    "container",
    "config",
    "files",
    "lock",
    "checksums",
    "data.fetch",
    "data.plays",
    "data.vocabulary",
    "data.corpora",
    "data.batches",
    "meshes",
    "precision",
    "cell",
    "projection",
    "coupled",
    "layer_norm",
    "mogrifier",
    "zoneout",
    "layer",
    "model",
    "loss",
    "rows",
    "columns",
    "bptt",
    "gradient",
    "blocks",
    "weight_drop",
    "averaging",
    "optimizer",
    "parallel",
    "train",
    "memory",
    "evaluate",
    "monte_carlo",
    "dynamic",
    "sample",
    "metrics",
    "checkpoint",
    "nonfinite",
    "reference",
    "cases",
    "verify",
    "audit",
    "figures",
    "progress",
    "signals",
    "loop",
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
        "import lstm_jax.loop",
        "import numpy, lstm_jax.loop as other",
        "from lstm_jax import loop",
        "from lstm_jax import (\n    config,\n    loop as other,\n)",
        "from lstm_jax.loop import Run",
        "from . import loop",
        "from .loop import Run",
        "def late():\n    from lstm_jax import loop",
        "loop = __import__('lstm_jax.loop')",
        "importlib.import_module('lstm_jax.loop')",
        "import_module('lstm_jax.loop')",
    ],
)
def test_every_form_of_import_is_seen(line):
    assert "lstm_jax.loop" in imported(line)
    relative = line.replace("from .", "from ..")
    assert "lstm_jax.loop" in imported(relative, package="lstm_jax.data")
    assert "lstm_jax.loop" not in imported(line.replace("loop", "loss"))


def modules():
    paths = (p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in paths}


def test_every_module_has_its_place():
    assert sorted(modules()) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name):
    path = modules()[name]
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    for module in imported(path.read_text(), package):
        assert module.split(".")[0] not in ("absl", "experiments", "tests"), module
        assert module != "lstm_jax.*", "a star may be any module"
        if (other := module.removeprefix("lstm_jax.")) in ORDER and other != module:
            assert ORDER.index(other) < ORDER.index(name), module


@pytest.mark.parametrize("name", ORDER)
def test_only_corpora_and_figures_read_the_environment(name):
    """The figures, to hide from matplotlib what it cannot use."""
    reads = "environ" in modules()[name].read_text() or "getenv" in modules()[name].read_text()
    assert reads == (name in ("data.corpora", "figures"))
