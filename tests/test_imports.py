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


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def modules():
    paths = (p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in paths}


def test_every_module_has_its_place():
    assert sorted(modules()) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name):
    for module in imported(modules()[name]):
        assert not module.startswith(("absl", "experiments", "tests")), module
        if module.startswith("lstm_jax."):
            assert ORDER.index(module.removeprefix("lstm_jax.")) < ORDER.index(name), module


@pytest.mark.parametrize("name", ORDER)
def test_only_corpora_and_figures_read_the_environment(name):
    """The figures, to hide from matplotlib what it cannot use."""
    reads = "environ" in modules()[name].read_text() or "getenv" in modules()[name].read_text()
    assert reads == (name in ("data.corpora", "figures"))
