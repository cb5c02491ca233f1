"""What a run takes of memory at the least: never more than it does take, refused beforehand."""

from pathlib import Path

import jax
import numpy as np
import pytest

from lstm_jax.config import Config
from lstm_jax.data.batches import Streams, stack_batches
from lstm_jax.errors import UserError
from lstm_jax.hyperparameters import Hyperparameters
from lstm_jax.model import Interface, init_model
from lstm_jax.run import memory
from lstm_jax.run.memory import (
    batch_bytes,
    batch_of_ids,
    check_run_fits,
    check_samples_fit,
    check_state_fits,
    state_bytes,
)
from lstm_jax.sample import PIECE
from lstm_jax.tasks.adding import AddingTask
from lstm_jax.train import init_train_state, make_dispatch

pytestmark = pytest.mark.usefixtures("standard_promotion")

V = 30
INTERFACE = Interface.of(V)
SHAPES = [
    {},
    {"model.num_layers": 3, "train.sequence_length": 100},
    {"train.remat_every": 8, "train.sequence_length": 512},
    {"train.gradient": "autodiff", "model.embedding_size": 16, "optimizer.name": "sgd"},
    {"model.cell": "gru", "model.hidden_sizes": (48, 32)},
]


def config_of(changes):
    small = {"model.hidden_size": 32, "train.batch_size": 8, "train.sequence_length": 64}
    return Config().replace(small | {"train.steps_per_dispatch": 2} | changes)


LARGE = 50_000  # symbols: the outputs are made in pieces
TO_PLAN = [*((changes, V) for changes in SHAPES), ({"model.hidden_size": 1}, LARGE)]


@pytest.mark.parametrize("changes, size", TO_PLAN)
def test_no_run_takes_less(changes, size):
    """Held against the arrays themselves, and against what XLA plans for the dispatch."""
    config, interface = config_of(changes), Interface.of(size)
    state = init_train_state(config, interface)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert state_bytes(config, interface) == held
    train = config.train
    ids = np.zeros(train.batch_size * train.sequence_length + 1, np.uint8)
    streams = Streams(ids, train.batch_size, train.sequence_length)
    batches = stack_batches([streams.batch_at(step) for step in range(2)])
    dispatch, hyper = make_dispatch(config), Hyperparameters.of(config)
    planned = dispatch.lower(hyper, state, batches).compile().memory_analysis()
    needed = planned.temp_size_in_bytes + sum(leaf.nbytes for leaf in jax.tree.leaves(batches))
    assert needed / 8 < batch_bytes(config, interface, streams.batch_at(0)) <= needed


def test_of_a_large_alphabet_there_is_a_piece_of_outputs_at_a_time():
    config = config_of({"train.steps_per_dispatch": 1})
    floats = 8 * (64 * 7 * 32 + 20 * LARGE)  # 8,000,000 outputs: 21 steps have more than 2**23
    ids = 8 * 64 * len(["input", "target", "reset"])
    assert batch_bytes(config, Interface.of(LARGE), batch_of_ids(config)) == 4 * floats + ids


@pytest.mark.parametrize(
    "changes, steps, dispatched",
    [
        ({}, 64, 2),
        ({"model.num_layers": 3}, 64, 2),
        ({"train.remat_every": 8}, 8, 2),
        ({"train.remat_every": 99}, 64, 2),
        ({"train.accumulate": 4}, 64 // 4, 2),  # of a quarter of the lanes
        ({"train.validate_every": 1}, 64, 1),
        ({"train.steps": 1}, 64, 1),
    ],
)
def test_a_batch_is_what_its_steps_keep_and_the_ids_of_a_dispatch(changes, steps, dispatched):
    config = config_of(changes)
    # A layer's four gates, h and c before the step, c after it; logits.
    floats = 8 * steps * (7 * 32 * config.model.num_layers + V)
    ids = 8 * 64 * dispatched * len(["input", "target", "reset"])
    assert batch_bytes(config, INTERFACE, batch_of_ids(config)) == 4 * floats + ids


def test_a_batch_of_vectors_takes_what_its_arrays_do():
    config = config_of({"data.task": "adding"})
    task = AddingTask.of(config)
    floats = 8 * 110 * (7 * 32 + 1)
    arrays = 8 * 110 * (2 * 4 + 4 + 3)  # two inputs, a target; mask, resets, live
    assert batch_bytes(config, task.interface, task.batch_at(0)) == 4 * floats + 2 * arrays


def test_what_just_fits_is_let_through(monkeypatch):
    config = config_of({})
    params = init_model(jax.random.key(0), config.model, V)
    whole = state_bytes(config, INTERFACE) + batch_bytes(config, INTERFACE, batch_of_ids(config))
    samples = 4 * (PIECE * V + 7 * (2 * 32 + V))  # a piece's logits; each sample's h, c, logits
    for need, check in (
        (whole, lambda: check_run_fits(config, INTERFACE, batch_of_ids(config))),
        (state_bytes(config, INTERFACE), lambda: check_state_fits(config, INTERFACE)),
        (samples, lambda: check_samples_fit(params, 7)),
    ):
        monkeypatch.setattr(memory, "memory_bytes", lambda need=need: need)
        check()
        monkeypatch.setattr(memory, "memory_bytes", lambda need=need: need - 1)
        with pytest.raises(UserError):
            check()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.hidden_size": 65536, "model.num_layers": 64}, r"takes 2\d\.\d TB .* has 1.0 GB"),
        ({"model.embedding_size": 65536, "model.hidden_size": 1024}, "smaller model.hidden_size"),
        ({"train.batch_size": 2**14, "train.sequence_length": 2**12}, "smaller train.batch_size"),
        (
            {"train.sequence_length": 2**17, "train.steps_per_dispatch": 1000},
            "or train.steps_per_dispatch|keep less",
        ),
    ],
)
def test_what_cannot_fit_is_refused(changes, message, monkeypatch):
    monkeypatch.setattr(memory, "memory_bytes", lambda: 10**9)
    check_run_fits(config_of({}), INTERFACE, batch_of_ids(config_of({})))
    config = config_of(changes)
    with pytest.raises(UserError, match=message):
        check_run_fits(config, INTERFACE, batch_of_ids(config))


def test_samples_that_cannot_fit_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "memory_bytes", lambda: 10**6)
    params = init_model(jax.random.key(0), config_of({}).model, V)
    check_samples_fit(params, 100)
    with pytest.raises(UserError, match="smaller --num_samples"):
        check_samples_fit(params, 10_000)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux alone has this table")
def test_a_cpus_memory_is_the_machines(monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: None)
    name, kilobytes, _ = Path("/proc/meminfo").read_text().splitlines()[0].split()
    assert name == "MemTotal:" and memory.memory_bytes() == 1024 * int(kilobytes)
