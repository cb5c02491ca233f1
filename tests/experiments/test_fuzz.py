"""Any flags at all: a run of one step, or one clear line; no traceback, and nothing left behind."""

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from experiments.command.catalogue import EXPERIMENTS
from lstm_jax.config import SECTIONS, fields_of
from lstm_jax.data.vocabulary import SURROGATE
from lstm_jax.options import value_type
from lstm_jax.sample import SamplingConfig
from lstm_jax.scoring.dynamic import DynamicConfig
from tests.cli import TEXT, TRAIN, Outcome, call, is_one_line, line_of, process_in

ROOT = Path(__file__).parent.parent.parent
TEXTS = {
    "text": TEXT,
    "empty": b"",
    "one": b"a",
    "two": b"ab",
    "latin": "Ærøskøbing".encode("latin-1") * 100,
    "x.toml": b"model.hidden_size = 3\n[train]\nbatch_size = 3\n" + b"# to be or not to be\n" * 20,
    "y.json": b'{"model.dropout": 0.5, "data": {"path": "x.toml"}}',
    "planes": "❤𝔘\r\n\0\ufeff日本語\U0010ffff".encode() * 100,
}
FIELDS = {f"config.{s}.{k}": f for s in SECTIONS for k, f in fields_of(s).items()}
# At the upper end of their range they would keep the test busy for longer than it has time.
SMALL_ONLY = (
    "train.steps",
    "train.sample_length",
    "model.num_layers",
    "data.length",
    "data.held_out",
)


def one_of(*values):
    return st.sampled_from([str(value) for value in values])


texts = st.text(st.characters(exclude_categories=[]), max_size=20)
no_values = texts | one_of(
    *(
        "",
        " ",
        "x",
        "nan",
        "-nan",
        "None",
        "True",
        "[]",
        "1,5",
        "1 2",
        "٣x",
        "inf",
        "-inf",
        "1e400",
    ),
    *("-1", "-1e400", "-1e-300", "9" * 30, "9" * 5000, "0x" + "f" * 5000),
)
odd_numbers = one_of("-0", "1.5", "1e3", "0x10", "٣", "1_0", " 2 ", "+2", "1e-400", "5e-324")
odd_names = one_of(
    "a\nb", "a\0b", "ä", "\udcff", "n" * 300, "n/" * 3000, "~/x", "/proc/nowhere/run"
)
paths = odd_names | one_of(
    *TEXTS, "text/below", "nowhere", ".", "..", "/", "/dev/null", "/dev/zero", "/proc/self/mem"
)
workdirs = odd_names | one_of("run", "new/run", ".", "text", "text/below", "/dev/null")


def values(name, field):
    """Texts for a config value: in its range, at the edges, beyond, and what is none at all."""
    meta, kind = field.metadata, value_type(field)
    if meta["choices"] is not None:
        return one_of(*meta["choices"]) | no_values
    if kind is str:
        return paths | texts
    low, high = meta["low"], meta["high"]
    within = [low, low + 1, low + 2] if kind is int else [low, high, (low + high) / 2]
    if kind is int and not name.endswith(SMALL_ONLY):
        within.append(high)
    return one_of(*within) | one_of(low - 1, high + 1, -high, 10 * high) | odd_numbers | no_values


CONFIG = {name: values(name, field) for name, field in FIELDS.items()}
OTHER = {
    "experiment": one_of(*EXPERIMENTS) | no_values,
    "mode": one_of("train", "evaluate", "sample", "compare", "inspect") | texts,
    "workdir": workdirs | texts.filter(lambda text: "/" not in text and text != ".."),
    "compile_cache": one_of("off") | workdirs,
    "config_file": one_of("x.toml", "y.json", "finished/config.json") | paths,
    "init_from": one_of("finished") | workdirs,
    "cpu_devices": one_of(0, 1, 1024, 1025) | no_values,
    "log": one_of("tensorboard") | no_values,
    "verbosity": one_of(-1, 0, 1) | no_values,
    "flagfile": one_of("", ".", "nowhere", "latin", "planes", "/dev/null"),
    "undefok": texts,
}
SAMPLE = {
    "checkpoint": one_of("best", "latest") | no_values,
    "prompt": one_of("to be", "", "Ж", "\0", "\udcff", "or" * 500) | texts,
    "length": one_of(1, 2, 33, 0, 2**31) | no_values,
    "stop": one_of("e", "", "Ж", "\udcff") | texts,
    "num_samples": one_of(1, 2, 3, 0, 65537) | no_values,
    "sample_seed": one_of(0, 2**32 - 1, 2**32) | no_values,
    **{field.name: values(field.name, field) for field in fields(SamplingConfig)},
}
EVALUATE = {
    "checkpoint": SAMPLE["checkpoint"],
    "config.data.path": paths,
    "split": one_of("validation", "test", "training_end") | no_values,
    "text": paths,
    "dynamic": one_of("true") | no_values,
    "draws": one_of(0, 1, 3, -1, 4097) | no_values,
    "ensemble": one_of("finished", "finished,finished", "", ",", "finished,") | workdirs | texts,
    **{f"dynamic_{field.name}": values(field.name, field) for field in fields(DynamicConfig)},
    **{name: value for name, value in CONFIG.items() if name.startswith("config.evaluate.")},
}
COMPARE = {
    "workdirs": one_of("finished,finished", "text", "*", ".", "", ",") | workdirs | texts,
    "workdir": workdirs,
}
INSPECT = {
    "text": paths,
    "config.data.path": paths,
    **{name: values for name, values in SAMPLE.items() if name not in ("stop", "num_samples")},
}
BY_MODE = {
    "train": CONFIG | OTHER,
    "evaluate": EVALUATE,
    "sample": SAMPLE,
    "compare": COMPARE,
    "inspect": INSPECT,
}
# All of them without the values that are made to be good ones.
WILD = {mode: dict.fromkeys(flags, no_values) for mode, flags in BY_MODE.items()}
WILD["train"] = WILD["train"] | {"workdir": odd_names}
junk = one_of(
    *("", "-", "--", "---", "--=", "--=1", "-mode=train", "--nomode", "--config", "--config.model"),
    *("--config.model.hidden_size", "--config.model.hiden_size=3", "--no", "extra", "ä", "\0"),
)


@st.composite
def command_lines(draw, by_mode=BY_MODE):
    """A run of one step, or a look at a finished run, with a few flags changed or given besides."""

    def some(flags, least, most):
        names = st.lists(st.sampled_from(sorted(flags)), min_size=least, max_size=most, unique=True)
        return {name: draw(flags[name]) for name in draw(names)}

    mode = draw(st.sampled_from(["train"] * 5 + ["evaluate", "sample", "compare", "inspect"]))
    named = "workdirs" if mode == "compare" else "workdir"
    flags = TRAIN if mode == "train" else {"mode": mode, named: "finished"}
    flags = flags | some(by_mode[mode], 1, min(3, len(by_mode[mode])))
    if draw(st.integers(0, 3)) == 0:
        flags |= some(CONFIG | OTHER | SAMPLE, 1, 1)
    return line_of(flags) + ([draw(junk)] if draw(st.integers(0, 5)) == 0 else [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where everything happens: texts, a finished run, a machine of 1 GB."""
    folder = tmp_path_factory.mktemp("fuzz")
    for name, content in TEXTS.items():
        (folder / name).write_bytes(content)
    with process_in(folder):
        assert call(*line_of(TRAIN | {"workdir": "finished"})).code == 0
        yield folder


def tree(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def check(line, folder, call=call):
    """A run, or a refusal in one line that leaves everything as it was."""
    before, entries = tree(folder), set(folder.iterdir())
    code, stdout, stderr = call(*line)
    event("a run" if code == 0 else "a refusal")
    if code == 0:
        assert stdout
        for path in set(folder.iterdir()) - entries:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    *warnings, error = stderr.splitlines(keepends=True)
    assert code == 2 and stdout == "" and is_one_line(error), stderr
    assert all(line.startswith("warning: ") for line in warnings), stderr
    assert tree(folder) == before and set(folder.iterdir()) == entries


def fuzzed(cases):
    """A test of so many command lines, the same ones each time."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=cases, deadline=None, derandomize=True, suppress_health_check=slow)


@given(command_lines(WILD))
@fuzzed(280)
def test_values_that_are_hardly_any(folder, line):
    check(line, folder)


@given(command_lines())
@fuzzed(20)
def test_any_values(folder, line):
    check(line, folder)


@pytest.mark.long
@given(command_lines() | command_lines(WILD))
@fuzzed(3000)
def test_very_many(folder, line):
    check(line, folder)


def call_process(*line):
    """`cli.call` as a user does it."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", *line],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.long
@given(command_lines() | command_lines(WILD))
@fuzzed(60)
def test_some_as_processes(folder, line):
    # Nobody can pass these on, and a verbose process says more.
    assume(not any("\0" in flag or flag.startswith("--verbosity") for flag in line))
    assume(not any(SURROGATE.search(flag) for flag in line))
    check(line, folder, call_process)
