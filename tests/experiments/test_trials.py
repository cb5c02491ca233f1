"""Trials at once: each as if it had been alone, by the gradient that is verified elsewhere."""

import itertools
from collections import deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.support.trials import (
    Recipe,
    Trials,
    gradient_and_outputs,
    init_recent,
    is_met,
    observe,
)
from lstm_jax.data.batches import Batch
from lstm_jax.gradients import GRADIENTS
from lstm_jax.heads import HEADS
from lstm_jax.model import Interface, apply, init_carry, init_model
from lstm_jax.model_config import ModelConfig
from lstm_jax.tasks.drawn import DrawnTask, Score, Stopping

HEAD = HEADS["sigmoid_squared"]
STEPS = 5


class First(DrawnTask):
    """Whether the first of a few numbers was positive."""

    interface = Interface(1, 1, reads_ids=False, head="sigmoid_squared")

    def __init__(self, stopping, seed=0):
        super().__init__(held_out=4, batch_size=1, seed=seed)
        self.stopping = stopping

    def draw(self, rng, count):
        inputs = rng.normal(size=(STEPS, count, 1)).astype(np.float32)
        lengths = rng.integers(2, STEPS + 1, count)
        t = np.arange(STEPS)[:, None]
        targets = (inputs[:1] > 0) * np.ones((STEPS, 1, 1), np.float32)
        return Batch(inputs, targets, t == lengths - 1, np.tile(t == 0, count), t < lengths)

    def score(self, predictions, batch):
        errors = jnp.where(batch.mask, jnp.abs(predictions - batch.targets)[..., 0], 0).max(0)
        return Score(errors, errors > 0.5)


def recipe_of(cell, **options):
    config = ModelConfig(cell=cell, hidden_size=4, **options)
    init = partial(init_model, config=config, interface=First.interface)
    learns = jax.tree.map(jnp.ones_like, init(jax.random.key(0)))
    return Recipe(init, learns, HEAD, optax.sgd(0.5), truncated=True)


BLOCKS = recipe_of("memory_blocks", block_size=2)
NEVER = Stopping(window=3, error_below=0.0)


@pytest.mark.parametrize("cell, truncated", [("lstm", False), ("memory_blocks", True)])
def test_the_gradient_is_the_sum_over_targets_and_the_mean_over_sequences(cell, truncated):
    recipe = recipe_of(cell)._replace(truncated=truncated)
    params = recipe.init(jax.random.key(1))
    batch = First(NEVER).draw(np.random.default_rng(0), 3)._replace(mask=np.ones((STEPS, 3), bool))
    batch = Batch._make(map(jnp.asarray, batch))
    gradient, outputs = gradient_and_outputs(recipe, params, batch)
    carry = init_carry(params, 3)
    name = "truncated" if truncated else "autodiff"
    (_, aux), mean = GRADIENTS[name](HEAD)(params, carry, batch, None)
    wanted = jax.tree.map(lambda leaf: leaf * (float(aux.count) / 3), mean)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-7), gradient, wanted)
    expected, _ = apply(params, carry, batch.inputs, None, batch.resets, batch.live)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_a_rule_is_about_the_most_recent_sequences():
    rng = np.random.default_rng(0)
    stopping, recent, seen = Stopping(5, 2, 0.4), init_recent(5), deque(maxlen=5)
    met = []
    for _ in range(60):
        errors, wrong = rng.uniform(0.1, 0.5, 2), rng.uniform(size=2) < 0.2
        recent = observe(recent, Score(jnp.asarray(errors), jnp.asarray(wrong)))
        seen.extend(zip(errors, wrong, strict=True))
        full = len(seen) == 5
        wanted = full and sum(w for _, w in seen) < 2 and np.mean([e for e, _ in seen]) < 0.4
        assert bool(is_met(stopping, recent.errors, recent.wrong)) == wanted
        met.append(wanted)
    assert 5 < sum(met) < 55


def trained(trials, dispatches):
    for _ in itertools.islice(trials.run(10**6), dispatches):
        pass
    return trials


def test_a_trial_is_as_if_it_had_been_alone():
    three = trained(Trials([First(NEVER, n) for n in range(3)], BLOCKS, 7, 4), 3)
    alone = trained(Trials([First(NEVER, 0)], BLOCKS, 7, 4), 3)
    one = jax.tree.map(lambda leaf: leaf[:1], three.state)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), one, alone.state)
    assert three.state.sequences.tolist() == [12] * 3 and three.learnt == 12
    weights = three.state.params.layers[0].W
    assert not np.allclose(weights[0], weights[1])


def test_trials_go_on_to_the_same_bits(tmp_path):
    whole = trained(Trials([First(NEVER)], BLOCKS, 0, 4), 4)
    first = trained(Trials([First(NEVER)], BLOCKS, 0, 4), 2)
    first.save(tmp_path / "state.npz")
    again = Trials([First(NEVER)], BLOCKS, 0, 4)
    again.load(tmp_path / "state.npz")
    trained(again, 2)
    jax.tree.map(np.testing.assert_array_equal, whole.state, again.state)
    with pytest.raises(ValueError, match="of other trials"):
        Trials([First(NEVER)] * 2, BLOCKS, 0, 4).load(tmp_path / "state.npz")


@pytest.mark.parametrize("stopping", [Stopping(window=3, wrong_below=4), Stopping(0, 5)])
def test_what_is_solved_stays_as_it_is(stopping):
    """By a rule that every trial meets: after three sequences, or at the first test."""
    trials = Trials([First(stopping, n) for n in range(2)], BLOCKS, 0, 2)
    trials.is_over = lambda most: False
    trained(trials, 2 if stopping.window else 1)
    assert trials.state.solved.all()
    solved = jax.tree.map(np.asarray, (trials.state.params, trials.state.sequences))
    assert solved[1].tolist() == ([3, 3] if stopping.window else [2, 2])
    trained(trials, 1)
    now = (trials.state.params, trials.state.sequences)
    jax.tree.map(np.testing.assert_array_equal, solved, now)
