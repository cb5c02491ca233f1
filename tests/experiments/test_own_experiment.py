"""An experiment in a file of one's own: its cell, task and options are there for every flag."""

import pytest

from experiments.support.experiment_file import load_experiment
from lstm_jax.cells import CELLS
from lstm_jax.config import Config, DataConfig
from lstm_jax.model_config import ModelConfig
from lstm_jax.optimizer import OPTIMIZERS
from lstm_jax.options import WRITTEN
from lstm_jax.run.checkpoint import load_model
from lstm_jax.tasks import TASKS
from tests.cli import EVALUATE, SAMPLE, TEXT, TRAIN, call, is_one_line, line_of, process_in

CELL = """
from __future__ import annotations
from dataclasses import dataclass
from typing import NamedTuple
import jax, jax.numpy as jnp, optax
from jax import Array
from beside import BOUND
from lstm_jax.cells import CELLS
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.projection import multiply_input
from lstm_jax.config import Config
from lstm_jax.optimizer import OPTIMIZERS, Rule
from lstm_jax.options import Section, option

@dataclass(frozen=True)
class Options(Section):
    prefix = "model."
    steepness: float = option(1.0, "how steep it is", low=0, high=10)

class Params(NamedTuple):
    W: Array
    U: Array
    steepness: Array

class State(NamedTuple):
    h: Array

def init(key, D, H, *, input_bound, steepness):
    key_W, key_U = jax.random.split(key)
    W, U = jax.random.normal(key_W, (D, H)), BOUND * jax.random.normal(key_U, (H, H))
    return Params(W, U, jnp.full(H, steepness))

CELLS["steep"] = Cell(
    Params, State, init,
    init_state=lambda params, B: State(jnp.zeros((B, params.U.shape[0]))),
    prepare=lambda params, x, mask_BxD: multiply_input(x, params.W, mask_BxD),
    step=lambda params, state, x: State(jnp.tanh(params.steepness * (x + state.h @ params.U))),
    widths=lambda params: params.W.shape,
    options=(Options,),
)
OPTIMIZERS["lion"] = Rule(optax.lion, ("b1", "b2"))

def get_config():
    return Config().replace({"model.cell": "steep", "train.gradient": "autodiff"})
"""
TASK = """
from dataclasses import dataclass
import numpy as np
from lstm_jax import Batch, Config, Interface, TASKS, Task
from lstm_jax.options import Section, option

@dataclass(frozen=True)
class Options(Section):
    prefix = "data."
    rows: int = option(3, "how many rows", low=1, high=9)

class Rows(Task):
    Options = Options

    def __init__(self, rows):
        self.rows, self.interface = rows, Interface(rows, rows, reads_ids=False, head="bernoulli")

    @classmethod
    def of(cls, config):
        return cls(config.data.rows)

    @classmethod
    def validates(cls, config):
        return False

    @classmethod
    def steps_of(cls, config):
        return 5

    def batch_at(self, step):
        x_TxBxD = np.ones((5, 2, self.rows), np.float32)
        return Batch(x_TxBxD, x_TxBxD)

TASKS["rows"] = Rows

def get_config():
    return Config().replace(
        {"data.task": "rows", "model.hidden_size": 2, "train.batch_size": 2, "train.steps": 1}
    )
"""
STUDY = """
from lstm_jax.config import Config
from lstm_jax.terminal import show

READS, IGNORES = ("model.hidden_size",), ("cpu_devices",)

def get_config():
    return Config()

def main(config, workdir):
    show(f"{config.model.hidden_size} units, {workdir.name}")

def main_unchanged(workdir):
    show("as ever")
"""
WRONG = {
    "nowhere.py": (None, "cannot be read: No such file"),
    "syntax.py": ("x = 1\nno python", ", line 2: SyntaxError: "),
    "name.py": ("x = 1\n\nx + y\n", ", line 3: NameError: name 'y' is not defined"),
    "stops.py": ("import sys\nsys.exit(3)", ", line 2: SystemExit: 3"),
    "binary.py": ("\0", "SyntaxError: "),
    "nothing.py": ("", "has no get_config: it needs a get_config() that returns a Config"),
    "value.py": ("get_config = 3", "has no get_config"),
    "number.py": ("def get_config(): return 3", "returns 3: it needs"),
    "fails.py": ("def get_config():\n  return 1 / 0", ", line 2: ZeroDivisionError: division"),
    "range.py": (
        "from lstm_jax import Config\n"
        "def get_config(): return Config().replace({'model.hidden_size': 0})",
        ", line 2: model.hidden_size lies between 1 and 65536; not 0",
    ),
    "text.py": ("READS = 'train.steps'\ndef get_config(): pass", "READS is a text"),
    "main.py": ("main = 3\ndef get_config(): pass", "its main is no function"),
    "clash.py": (
        TASK.replace('rows: int = option(3, "how many rows"', 'length: int = option(3, "rows"'),
        "Options has an option data.length, and there is another of that name",
    ),
}


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a file adds is there for the rest of its process, and here for the rest of its test."""
    dicts, sections = (CELLS, TASKS, OPTIMIZERS), (ModelConfig, DataConfig)
    before = [dict(known) for known in dicts]
    for section in sections:
        for name in WRITTEN:
            monkeypatch.setattr(section, name, vars(section)[name])
    yield
    for known, kept in zip(dicts, before, strict=True):
        known.clear()
        known.update(kept)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text").write_bytes(TEXT)
    with process_in(tmp_path):
        yield tmp_path


def put(folder, **contents):
    for name, content in contents.items():
        (folder / f"{name}.py").write_text(content)


def refused(*line):
    code, stdout, stderr = call(*line)
    assert code == 2 and stdout == "" and is_one_line(stderr), stderr
    return stderr


def test_a_cell_of_ones_own_is_trained_scored_and_sampled(folder):
    """With an option, an optimizer, and what lies beside the file."""
    (folder / "below").mkdir()
    put(folder / "below", mine=CELL, beside="BOUND = 0.1")
    own = {
        "config.model.steepness": "0.5",
        "config.optimizer.name": "lion",
        "experiment": "below/mine.py",
    }
    done = call(*line_of(TRAIN | own))
    assert done.code == 0, done.stderr
    params, description = load_model("run")[0].params, load_model("run")[1]
    assert type(params.layers[0]).__name__ == "Params"
    assert abs(float(params.layers[0].steepness[0]) - 0.5) < 0.01
    assert description.config.model.steepness == 0.5
    for look in (EVALUATE, SAMPLE):
        found = call(*line_of(look | {"experiment": "below/mine.py"}))
        assert found.code == 0 and found.stdout, found.stderr
    assert "model.steepness lies between 0 and 10" in refused(
        "--experiment=below/mine.py", "--config.model.steepness=11", "--workdir=other"
    )
    assert "model.steepness=2.0 needs model.cell=steep" in refused(
        *("--experiment=below/mine.py", "--config.model.steepness=2", "--config.model.cell=gru"),
        "--workdir=other",
    )


def test_a_task_of_ones_own_has_flags(folder):
    put(folder, rows=TASK)
    line = ["--config.data.rows=2", "--experiment=rows.py", "--workdir=run"]
    done = call(*line)
    assert done.code == 0 and "2 in, 2 out" in done.stderr
    assert load_model("run")[1].config.data.rows == 2
    assert "--config.data.rows=" in call(*line, "--help").stdout
    assert "data.rows lies between 1 and 9" in refused(*line, "--config.data.rows=10")
    assert "means nothing to data.task=rows" in refused(*line, "--config.data.train_chars=9")
    assert Config().data.rows == 3


def test_a_study_of_ones_own_says_what_it_reads(folder):
    put(folder, study=STUDY)
    found = call("--experiment=study.py", "--config.model.hidden_size=7", "--workdir=run")
    assert (found.code, found.stdout) == (None, "7 units, run\n")
    assert call("--experiment", "study.py").stdout == "as ever\n"
    for flag in ("--config.train.steps=3", "--cpu_devices=1"):
        said = refused("--experiment=study.py", flag)
        assert f"{flag.partition('=')[0]} means nothing to --experiment=study.py" in said


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_experiment_is_one_line(name, folder):
    content, message = WRONG[name]
    if content is not None:
        (folder / name).write_text(content)
    assert message in refused(f"--experiment={name}", "--workdir=run")
    assert not (folder / "run").exists()


def test_a_folder_or_a_pipe_of_such_a_name_is_none(folder):
    (folder / "folder.py").mkdir()
    assert "folder.py is no file" in refused("--experiment=folder.py")


def test_it_is_executed_once(folder, capsys):
    put(folder, counts="print('executed')\n" + STUDY)
    assert load_experiment("counts.py") is load_experiment(str(folder / "counts.py"))
    assert capsys.readouterr().out == "executed\n"


@pytest.mark.parametrize(
    "name, message",
    [
        ("shakespear", "did you mean shakespeare or"),
        ("min", "did you mean mine.py?"),
        ("nothing", "should be one of shakespeare, tiny_shakespeare, "),
    ],
)
def test_a_name_that_is_none(name, message, folder):
    put(folder, mine=STUDY)
    assert message in refused(f"--experiment={name}")
