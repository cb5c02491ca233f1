"""What `--help` says, and what a mistyped flag is told."""

import dataclasses
import re

import pytest

from experiments.support.help import INTRODUCTION, closest, option_help, readers_of
from lstm_jax.config import SECTIONS, fields_of
from lstm_jax.optimizer import OPTIMIZERS, OptimizerConfig, Rule
from tests.cli import call, process_in


@pytest.fixture(scope="module")
def helped():
    """What `--help` prints."""
    code, stdout, stderr = call("--mode=sample", "--help")
    assert code == 0 and stderr == ""
    return stdout


def test_help_opens_with_examples_that_are_no_mistakes(helped, tmp_path):
    assert helped.startswith(INTRODUCTION)
    lines = re.findall(r"python -m experiments.run (--\w.*)", INTRODUCTION)
    assert len(lines) > 5
    with process_in(tmp_path):
        for line in lines:  # an argument that is none comes last, so nothing is run
            assert "unexpected argument 'stop'" in call(*line.split(), "stop").stderr


def test_every_flag_has_a_place(helped):
    blocks = helped.split("\n\n")
    titles = {block.partition(":\n")[0]: block for block in blocks}
    for section in SECTIONS:
        found = re.findall(r"^  --config\.(\S+?)=", titles[f"The config, {section}"], re.M)
        assert sorted(found) == sorted(f"{section}.{key}" for key in fields_of(section))
    named = {
        title: {*re.findall(r"^  --(\w+)", titles[title], re.M)}
        for title in (
            *("What to run", "With --mode=evaluate", "With --mode=sample"),
            *("With --mode=inspect", "With --mode=export", "With --mode=import"),
            *("The machine", "Several processes, or machines"),
        )
    }
    assert {"experiment", "mode", "workdir"} <= named["What to run"]
    assert {"checkpoint", "dynamic", "dynamic_rate"} <= named["With --mode=evaluate"]
    assert {"checkpoint", "prompt", "top_k"} <= named["With --mode=sample"]
    assert {"checkpoint", "prompt", "text"} <= named["With --mode=inspect"]
    assert named["With --mode=export"] == {"checkpoint", "format", "to"}
    assert named["With --mode=import"] == {"format", "from"}
    assert named["The machine"] == {"cpu_devices", "compile_cache"}
    assert "coordinator" in named["Several processes, or machines"]
    assert len(blocks) - len(named) - len(SECTIONS) < 11 and "verbosity" not in helped


def test_no_line_is_wider_than_a_terminal(helped):
    assert max(map(len, helped.splitlines())) < 110 and "<" not in helped.replace("<unk>", "")


@pytest.mark.parametrize(
    "name, readers",
    [
        ("optimizer.b1", "adam, adamw"),
        ("optimizer.decay", "rmsprop"),
        ("optimizer.learning_rate", ""),
        ("model.mogrifier_rank", "mogrifier"),
        ("model.forget_bias", "all but no_forget_gate, gru, elman, memory_blocks, carousel"),
        ("model.hidden_size", ""),
        ("data.length", "adding, multiplication, two_sequences"),
        ("data.corpus", "text"),
        ("train.sample_length", "text"),
        ("train.steps", ""),
    ],
)
def test_who_reads_an_option(name, readers):
    assert readers_of(name) == readers


def test_an_optimizer_that_is_added_is_named(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "nadam", Rule(None, ("b1",)))
    fields = {field.name: field for field in dataclasses.fields(OptimizerConfig)}
    assert option_help("optimizer.b1", fields["b1"]).startswith("adam, adamw, nadam: decay of")
    assert option_help("optimizer.b2", fields["b2"]).startswith("adam, adamw: decay of")


@pytest.mark.parametrize(
    "mistyped, meant",
    [
        ("learning_rate", ["config.optimizer.learning_rate"]),
        ("lr", ["config.optimizer.learning_rate"]),
        ("config.modle.cell", ["config.model.cell"]),
        ("moed", ["mode"]),
        ("size", ["config.model.hidden_size", "size_of_a", "size_of_b"]),
        ("zzz", []),
    ],
)
def test_what_a_mistyped_flag_may_mean(mistyped, meant):
    names = [
        *("config.optimizer.learning_rate", "config.model.cell", "mode", "size_of_c"),
        *("size_of_b", "size_of_a", "config.model.hidden_size"),
    ]
    assert closest(mistyped, names) == meant
