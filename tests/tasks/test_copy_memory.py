"""Copy memory, held against its papers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.model import init_model
from lstm_jax.model_config import ModelConfig
from lstm_jax.tasks.copy_memory import CopyMemoryTask


def test_every_sequence_says_again_what_it_read():
    batch = CopyMemoryTask(30, 10, 300, 0).batch_at(2)
    assert batch.inputs.shape == batch.targets.shape == (50, 300)
    assert batch.mask.all() and batch.live.all()
    assert batch.resets[0].all() and not batch.resets[1:].any()
    for read, said in zip(batch.inputs.T.tolist(), batch.targets.T.tolist(), strict=True):
        assert read[10:] == [8] * 29 + [9] + [8] * 10
        assert said == [8] * 40 + read[:10]
    counts = np.bincount(batch.inputs[:10].ravel(), minlength=10)
    assert not counts[8:].any() and (np.abs(counts[:8] - 375) < 5 * math.sqrt(375)).all()


def test_its_reference_is_the_published_one():
    """0.0204 at T = 1000; and the score of predictions that remember nothing."""
    task = CopyMemoryTask(1000, 10, 4, 0)
    (found,) = task.references().values()
    assert round(found, 4) == 0.0204 and task.stopping.error_below == found / 10
    batch = task.batch_at(0)
    predictions = np.full((1020, 4, 10), 1e-30, np.float32)
    predictions[:1010, :, 8], predictions[1010:, :, :8] = 1, 1 / 8
    assert task.score(jnp.asarray(predictions), batch).error == pytest.approx(found, rel=1e-5)


def test_a_score_is_what_a_loop_over_steps_says(rng):
    task = CopyMemoryTask(1, 10, 20, 0)
    batch = task.batch_at(0)
    predictions = rng.dirichlet(np.ones(10), (21, 20)).astype(np.float32)
    last = predictions[-10:] + 2 * np.eye(10, dtype=np.float32)[batch.targets[-10:]]
    predictions[-10:] = last / 3
    for lane in range(0, 20, 3):
        predictions[-1 - lane // 3, lane] = np.roll(predictions[-1 - lane // 3, lane], 1)
    found = task.score(jnp.asarray(predictions), batch)
    for lane in range(20):
        said = [predictions[t, lane].tolist() for t in range(21)]
        wanted = batch.targets[:, lane].tolist()
        loss = -sum(math.log(p[n]) for p, n in zip(said, wanted, strict=True)) / 21
        assert found.error[lane] == pytest.approx(loss, rel=1e-5)
        wrong = any(p.index(max(p)) != n for p, n in zip(said[-10:], wanted[-10:], strict=True))
        assert bool(found.wrong[lane]) == wrong == (lane % 3 == 0)


def test_it_is_scored_on_its_held_out_sequences(monkeypatch):
    """By a model of zeros and a readout's bias, whose loss is known."""
    monkeypatch.setattr(CopyMemoryTask, "side_by_side", 16)
    task = CopyMemoryTask(5, 20, 3, 0)
    params = jax.tree.map(
        jnp.zeros_like, init_model(jax.random.key(0), ModelConfig(hidden_size=2), task.interface)
    )
    p = np.array([0.1] + [0.02] * 7 + [0.7, 0.06])
    params = params._replace(
        readout=params.readout._replace(b=jnp.log(jnp.asarray(p, jnp.float32)))
    )
    targets = np.concatenate(
        [task.held_out_part(0).targets, task.held_out_part(1).targets[:, :4]], 1
    )
    found = task.evaluate(params, None)
    assert found["loss"] == pytest.approx(-np.log(p[targets]).mean(), rel=1e-6)
    assert found["wrong"] == 1.0
    first = "".join(map(str, targets[-10:, 0]))
    assert task.sample(params, None).startswith(f"target {first}  answer 8888888888\n")
