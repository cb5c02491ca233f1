"""A small run, what it leaves behind, and how two of them are compared."""

import jax
import numpy as np

from lstm_jax.config import Config
from lstm_jax.data.vocabulary import Text, Vocabulary
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.loop import Run
from lstm_jax.run.metrics import read_metrics
from lstm_jax.tasks.text import TextTask

CONFIG = Config().replace(
    {
        "model.hidden_size": 8,
        "model.num_layers": 2,
        "model.dropout": 0.2,
        "train.batch_size": 3,
        "train.sequence_length": 4,
        "train.steps": 20,
        "train.steps_per_dispatch": 3,
        "train.validate_every": 6,
        "train.sample_length": 10,
        "evaluate.window_length": 8,
        "evaluate.lanes": 4,
        "evaluate.warmup": 16,
    }
)
TEXT = Text(
    "text",
    np.random.default_rng(0).integers(4, size=500).astype(np.uint8),
    Vocabulary("\nabc"),
    "hash",
)


def run_in(workdir, config=CONFIG, text=TEXT, **options):
    """A run on a text."""
    return Run(config, TextTask(config, text), workdir, "title", **options)


def without_times(workdir):
    timed = ("seconds", "compile_seconds", "targets_per_second")
    return [{k: v for k, v in line.items() if k not in timed} for line in read_metrics(workdir)]


def assert_same_run(workdir, finished):
    (state, _), (wanted, _) = (load_model(folder, "latest") for folder in (workdir, finished))
    jax.tree.map(np.testing.assert_array_equal, state, wanted)
    assert without_times(workdir) == without_times(finished)
    assert (workdir / "samples.txt").read_text() == (finished / "samples.txt").read_text()
