"""What README says that can be run is run, and what it points at is there."""

import doctest
import re
from pathlib import Path

import pytest

import lstm_jax

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.usefixtures("standard_promotion")
def test_the_python_runs_in_order_and_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks, names = re.findall(r"```python\n(.*?)```", README, re.S), {}
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)
    assert (
        names["dparams"].U.shape == (32, 128) and names["loss"] < 0.9
    )  # of a mean distance of 1.1
    line = capsys.readouterr().out.splitlines()[-1]
    assert int(names["state"].step) == 20 and "'step': 20" in line
    assert all(f"'val_{name}': {loss}" in line for name, loss in names["scores"].items())
    assert names["text"].startswith("The ") and len(names["text"]) == 104


def test_every_public_name_is_shown_or_explains_itself():
    for name in lstm_jax.__all__:
        assert getattr(lstm_jax, name).__doc__, name


@pytest.mark.usefixtures("standard_promotion")
def test_the_examples_of_docstrings_run(tmp_path, monkeypatch):
    """In this order: the last reads what the one before has written."""
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner()
    for name in ("unroll", "unroll_both", "bptt_layer", "sequence_loss", "Run", "load_model"):
        (example,) = doctest.DocTestFinder(recurse=False).find(getattr(lstm_jax, name), globs={})
        assert len(example.examples) > 2, name
        runner.run(example)
    assert runner.summarize().failed == 0


def test_every_file_that_is_named_is_there():
    named = {
        *re.findall(r"\]\(([\w./]*\.[\w]+)", README),
        *re.findall(r"`((?:lstm_jax|experiments)/[\w/.]+)`", README),
    }
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_anchor_in_the_notes_is_there():
    heads = re.findall(r"^#+ (.*)$", (ROOT / "BUILD_NOTES.md").read_text(), re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}
    assert {*re.findall(r"BUILD_NOTES\.md#([\w-]+)", README)} <= anchors
