"""The command line inside this process: the same parser and the same main, many times over."""

import contextlib
import gc
import io
import itertools
import sys
import warnings
from typing import NamedTuple

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import run
from experiments.command import process
from experiments.studies import speedrun, tiny_shakespeare_ablation
from experiments.support import seeds
from lstm_jax.run import memory

# One step of a small model on the file `text`; then a look at what came of it.
TRAIN = {
    "config.data.path": "text",
    "config.model.hidden_size": "4",
    "config.train.batch_size": "2",
    "config.train.sequence_length": "4",
    "config.train.steps": "1",
    "config.train.sample_length": "4",
    "config.evaluate.window_length": "8",
    "config.evaluate.lanes": "4",
    "config.evaluate.warmup": "2",
    "workdir": "run",
}
EVALUATE = {"mode": "evaluate", "workdir": "run"}
SAMPLE = {"mode": "sample", "workdir": "run", "length": "4"}
KEEPING = ("keep_programs", "keep_programs_unasked", "keep_no_programs")
TEXT = b"to be or not to be, that is the question\n" * 10


class Outcome(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Stdout(io.TextIOWrapper):
    """What main needs of stdout: that its errors can be reconfigured."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)


def line_of(flags):
    return [f"--{name}={value}" for name, value in flags.items()]


@contextlib.contextmanager
def process_in(folder):
    """The folder as the current one, on a machine of 1 GB; what `main` would change of the whole
    process stays as it is, a speedrun's ten processes are not started, and of an ablation's runs
    there are two."""
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.chdir(folder)
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        patch.setattr(memory, "memory_bytes", lambda: 10**9)
        raced = {"reached_s": 1.0, "end_s": 1.0, "val_loss_windows": 1.0}
        patch.setattr(speedrun, "race", lambda *args: raced)
        patch.setattr(seeds, "SEEDS", range(1))
        two = dict(itertools.islice(tiny_shakespeare_ablation.VARIANTS.items(), 2))
        patch.setattr(tiny_shakespeare_ablation, "VARIANTS", two)
        for module, names in ((run, ("keep_memory", "use_devices")), (process, KEEPING)):
            for name in names:
                patch.setattr(module, name, lambda *args: None)
        yield
        gc.collect()  # while main's hook still stands, which knows what orbax leaves behind


def call(*line):
    """What `python -m experiments.run` with these arguments would do and say.

    An exception that `main` lets through, which would be a traceback there, comes through here.
    """
    stdout, stderr = Stdout(), io.StringIO()
    with (
        flagsaver.flagsaver(),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        flags.FLAGS.unparse_flags()
        try:
            code = run.main(run.parse_flags([run.__file__, *line]))
        except SystemExit as stop:
            code = stop.code
    return Outcome(code, stdout.buffer.getvalue().decode(), stderr.getvalue())


def is_one_line(stderr):
    """Whether it is one error in one line that can be printed and read."""
    line = stderr.removesuffix("\n")
    return line.startswith("error: ") and line.isprintable() and len(line) < 1000
