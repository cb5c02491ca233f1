"""Many trials of one experiment at once: networks that differ in their seed alone, by one `vmap`.

Each trial has its own initial weights and its own sequences, and is stopped when it is solved. A
step learns from `batch_size` sequences; at 1 it is the online learning of the papers of 1997.
"""

import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from experiments.support import saved
from experiments.support.online import learn_online
from lstm_jax.cells import cell_of
from lstm_jax.cells.cell import Marks
from lstm_jax.cells.projection import outer_sum
from lstm_jax.data.batches import Batch, as_array
from lstm_jax.heads import Head
from lstm_jax.model import ModelParams, Readout, read_out
from lstm_jax.tasks.drawn import DrawnTask, Score, Stopping


class Recipe(NamedTuple):
    """How a trial learns.

    init: (key) -> parameters of one layer and a readout.
    learns: a tree like them: 1 where a weight learns, 0 where it stays what it was.
    head: what the outputs are scored by.
    rule: what makes an update of the gradient, which is summed over the targets of a sequence and
      averaged over the batch.
    truncated: whether the error goes back in time by the cell's truncated rule.
    batch_size: sequences of a step.
    online: whether there is an update after each target of a sequence (`online`), and not one after
      all; by the truncated rule, of one sequence at a time.
    """

    init: Callable[[Array], ModelParams]
    learns: ModelParams
    head: Head
    rule: optax.GradientTransformation
    truncated: bool
    batch_size: int = 1
    online: bool = False


class Recent(NamedTuple):
    """The scores of the most recent sequences, in no order."""

    errors: Array  # window
    wrong: Array  # window, bool
    seen: Array  # how many sequences there were, all told


class Trial(NamedTuple):
    """Where one trial is; of many, with an axis of trials before all others."""

    params: ModelParams
    rule: optax.OptState
    recent: Recent
    solved: Array  # bool
    sequences: Array  # how many it has learnt from


def init_recent(window: int) -> Recent:
    """As if no sequence had been right so far."""
    return Recent(jnp.full(window, jnp.inf), jnp.ones(window, bool), jnp.asarray(0))


def observe(recent: Recent, score: Score) -> Recent:
    """With the scores of a batch, B, in place of the oldest."""
    B, window = score.error.shape[0], recent.errors.shape[0]
    places_B = (recent.seen + jnp.arange(B)) % window
    return Recent(
        recent.errors.at[places_B].set(score.error),
        recent.wrong.at[places_B].set(score.wrong),
        recent.seen + B,
    )


def is_met(stopping: Stopping, error: Array, wrong: Array) -> Array:
    """Whether a rule is met by the scores of the sequences that it is about."""
    return (jnp.sum(wrong) < stopping.wrong_below) & (jnp.mean(error) < stopping.error_below)


def init_trial(recipe: Recipe, window: int, key: Array) -> Trial:
    params = recipe.init(key)
    rule, recent = recipe.rule.init(params), init_recent(window)
    return Trial(params, rule, recent, solved=jnp.asarray(False), sequences=jnp.asarray(0))


def gradient_and_outputs(
    recipe: Recipe, params: ModelParams, batch: Batch
) -> tuple[ModelParams, Array]:
    """The gradient by hand, summed over targets and averaged over sequences; and the outputs.

    A shorter form of `gradients.bptt` for one layer and nothing dropped, which does not give the
    outputs. They say what was right before the step.
    """
    (layer,) = params.layers
    cell, B = cell_of(layer), batch.targets.shape[1]
    passes, marks = cell.by_hand["rows"], Marks(live=as_array(batch.live))
    zero = cell.init_state(layer, B)
    _, h_TxBxH, residuals = passes.forward(layer, zero, jnp.asarray(batch.inputs), None, marks)
    outputs_TxBxN = read_out(params, h_TxBxH)
    assert recipe.head.by_hand is not None and params.readout.W is not None
    _, dy_TxBxN = recipe.head.by_hand(outputs_TxBxN, jnp.asarray(batch.targets))
    dy_TxBxN = jnp.where(jnp.asarray(batch.mask)[..., None], dy_TxBxN, 0) / B
    e_TxBxH = dy_TxBxN @ params.readout.W.T
    dfinal = jax.tree.map(jnp.zeros_like, zero)
    dlayer, _, _ = passes.backward(
        layer, residuals, None, marks, e_TxBxH, dfinal, truncated=recipe.truncated
    )
    dreadout = Readout(outer_sum(h_TxBxH, dy_TxBxN), jnp.sum(dy_TxBxN, (0, 1)))
    return ModelParams(None, (dlayer,), dreadout), outputs_TxBxN


def learn_at_once(
    recipe: Recipe, params: ModelParams, rule: optax.OptState, batch: Batch
) -> tuple[ModelParams, optax.OptState, Array]:
    """One update from a batch, and its outputs of before."""
    gradient, outputs_TxBxN = gradient_and_outputs(recipe, params, batch)
    gradient = jax.tree.map(jnp.multiply, gradient, recipe.learns)
    updates, rule = recipe.rule.update(gradient, rule, params)
    return optax.apply_updates(params, updates), rule, outputs_TxBxN


def learn(
    recipe: Recipe,
    score: Callable[[Array, Batch], Score],
    stopping: Stopping,
    trial: Trial,
    batch: Batch,
) -> Trial:
    """One step of a trial; one that is solved stays as it is."""
    update = learn_online if recipe.online else learn_at_once
    *after, outputs_TxBxN = update(recipe, trial.params, trial.rule, batch)
    params, rule = jax.tree.map(
        partial(jnp.where, trial.solved), (trial.params, trial.rule), (*after,)
    )
    sequences = trial.sequences + jnp.where(trial.solved, 0, batch.targets.shape[1])
    recent, solved = trial.recent, trial.solved
    if stopping.window:
        recent = observe(recent, score(recipe.head.predict(outputs_TxBxN), batch))
        solved = solved | is_met(stopping, recent.errors, recent.wrong)
    return Trial(params, rule, recent, solved, sequences)


def predictions_of(recipe: Recipe, params: ModelParams, batch: Batch) -> Array:
    """What a network says of sequences, TxBxN, on the scale of the targets."""
    (layer,) = params.layers
    cell = cell_of(layer)
    zero = cell.init_state(layer, batch.targets.shape[1])
    inputs, marks = jnp.asarray(batch.inputs), Marks(live=as_array(batch.live))
    h_TxBxH = cell.by_hand["rows"].forward(layer, zero, inputs, None, marks)[1]
    return recipe.head.predict(read_out(params, h_TxBxH))


class Trials:
    """The trials of one experiment.

    Args:
      tasks: what each learns; of one kind and one shape.
      seed: of the trials' weights and sequences; the same trial of the same seed is the same,
        however many there are.
      test_every: steps between tests, where the stopping rule is about a test set.
    """

    def __init__(self, tasks: list[DrawnTask], recipe: Recipe, seed: int, test_every: int) -> None:
        self.tasks, self.recipe, self.seed = tasks, recipe, seed
        task = tasks[0]
        self.stopping, self.steps_at_once = task.stopping, test_every
        key = jax.random.key(seed)
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(tasks)))
        init = partial(init_trial, recipe, self.stopping.window)
        self.state = jax.jit(jax.vmap(init))(keys)
        self.dispatches, self.seconds = 0, 0.0
        step = partial(learn, recipe, task.score, self.stopping)

        def steps(trial: Trial, batches: Batch) -> Trial:
            return lax.scan(lambda trial, batch: (step(trial, batch), None), trial, batches)[0]

        self._advance = jax.jit(jax.vmap(steps), donate_argnums=0)
        self._test = jax.jit(jax.vmap(self._score_of))

    def _score_of(self, params: ModelParams, batch: Batch) -> Score:
        predictions_TxBxN = predictions_of(self.recipe, params, batch)
        return self.tasks[0].score(predictions_TxBxN, batch)

    def batches(self, dispatch: int) -> Batch:
        """What all trials learn from in a dispatch: N trials, K steps, then as a batch."""
        return stacked([self._batches_of(trial, dispatch) for trial in range(len(self.tasks))])

    def _batches_of(self, trial: int, dispatch: int) -> Batch:
        rng = np.random.default_rng([self.seed, trial, dispatch])
        K, B = self.steps_at_once, self.recipe.batch_size
        drawn = self.tasks[trial].draw(rng, K * B)

        def in_steps(values: Any) -> np.ndarray:
            T, _, *rest = values.shape
            return np.moveaxis(np.reshape(values, (T, K, B, *rest)), 1, 0)

        return Batch._make(map(in_steps, drawn))

    def run(self, most: int) -> Iterator[None]:
        """Trains until every trial is solved or has learnt from `most` sequences."""
        start, batches = time.perf_counter(), self.batches(self.dispatches)
        while not self.is_over(most):
            self.state = self._advance(self.state, batches)
            batches = self.batches(self.dispatches + 1)  # while the device is at work
            if not self.stopping.window:
                self._test_all()
            self.state.solved.block_until_ready()
            self.dispatches += 1
            self.seconds += time.perf_counter() - start
            yield
            start = time.perf_counter()

    @property
    def learnt(self) -> int:
        """Sequences that a trial which is not solved has learnt from."""
        return self.dispatches * self.steps_at_once * self.recipe.batch_size

    def is_over(self, most: int) -> bool:
        return self.learnt >= most or bool(self.state.solved.all())

    def _test_all(self) -> None:
        """Stops the trials whose test set meets the rule."""
        met = jnp.ones_like(self.state.solved)
        for batch in self._test_sets:
            score = self._test(self.state.params, batch)
            met &= jax.vmap(partial(is_met, self.stopping))(score.error, score.wrong)
        self.state = self.state._replace(solved=self.state.solved | met)

    @cached_property
    def _test_sets(self) -> list[Batch]:
        """The sets that the stopping rule is about, of all trials, in parts."""
        parts = zip(*(task.held_out_parts() for task in self.tasks), strict=True)
        return [stacked([first(count, batch) for batch, count in part]) for part in parts]

    def score(self, batch: Batch) -> Score:
        """How each trial does on the same sequences, NxB."""
        return jax.vmap(self._score_of, in_axes=(0, None))(self.state.params, batch)

    def save(self, path: Path) -> None:
        """Writes where the trials are."""
        saved.save(path, self.state, dispatches=self.dispatches, seconds=self.seconds)

    def load(self, path: Path) -> None:
        """Goes on where `save` has been; UserError where that is damaged, or of other trials."""
        self.state, beside = saved.load(path, self.state)
        self.dispatches, self.seconds = int(beside["dispatches"]), float(beside["seconds"])


def first(count: int, batch: Batch) -> Batch:
    """So many sequences of a batch."""
    return Batch._make(np.asarray(values)[:, :count] for values in batch)


def stacked(batches: Any) -> Batch:
    """The batches of all trials, one beside the other."""
    return Batch._make(np.stack(values) for values in zip(*batches, strict=True))
