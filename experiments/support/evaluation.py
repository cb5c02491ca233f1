"""What `--mode=evaluate` does with a checkpoint: its losses, printed."""

from pathlib import Path
from typing import NamedTuple

from experiments.support.scoring import (
    in_units,
    load_members,
    score_alone,
    score_draws,
    score_dynamically,
    score_ensemble,
    score_in_units,
    split_to_score,
    text_of,
)
from lstm_jax.config import Config
from lstm_jax.errors import UserError
from lstm_jax.masks import evaluation_masks
from lstm_jax.run.description import Description
from lstm_jax.run.trained import task_of
from lstm_jax.run.validation import validate
from lstm_jax.scoring.dynamic import DynamicConfig
from lstm_jax.scoring.monte_carlo import check_drops
from lstm_jax.tasks.text import TextTask
from lstm_jax.terminal import show
from lstm_jax.train import TrainState


class Wanted(NamedTuple):
    """What is to be scored of a text's model, besides itself.

    workdir, checkpoint: where the model is from; the other runs' are the same.
    split: `validation` or `training_end`.
    ensemble: folders of other runs.
    draws: of Monte Carlo dropout; 0: none.
    dynamic: how the model goes on learning; None: it does not.
    """

    workdir: Path
    checkpoint: str
    split: str
    ensemble: list[str]
    draws: int
    dynamic: DynamicConfig | None


def evaluate_task(state: TrainState, description: Description, config: Config) -> int:
    """Prints what a task measures of its model."""
    task = task_of(description, config)
    scores = validate(task, state, evaluation_masks(config.model))
    if not scores:
        raise UserError("this run's task keeps nothing to validate on")
    show(f"step {int(state.step)}, {task.describe()}")
    width = max(17, *map(len, scores))
    for name, value in scores.items():
        show(f"{name:{width}} {score_in_units(name, value, task.unit)}")
    return 0


def evaluate_text(
    state: TrainState, description: Description, config: Config, wanted: Wanted
) -> int:
    """Prints the losses of a text's model, alone and in what is wanted besides."""
    text = text_of(description, config)
    before, scored = split_to_score(text, config, wanted.split)
    params, masks = state.eval_params, evaluation_masks(config.model)
    # What can be refused is refused before anything is scored.
    others = load_members(state, description, wanted.workdir, wanted.ensemble, wanted.checkpoint)
    if wanted.draws:
        check_drops(config.model)
    learning_on = (
        [score_dynamically(params, masks, before, scored, wanted.dynamic)] if wanted.dynamic else []
    )
    losses = score_alone(state, config, scored)
    if others:
        losses += score_ensemble([(params, masks), *others], config, scored)
    if wanted.draws:
        losses += score_draws(params, config, scored, wanted.draws)
    losses += learning_on
    validated = wanted.split == "validation"
    split, of = ("val", "") if validated else ("train", ", the end of the training split")
    show(f"step {int(state.step)}, {len(scored):,} characters of {text.name}{of}")
    by_name = {f"{split}_loss_{loss.name}": loss for loss in losses}
    width = max(17, *map(len, by_name))
    for name, loss in by_name.items():
        show(f"{name:{width}} {in_units(loss.nats, TextTask.unit)}  ({loss.how})")
    return 0
