"""What `--mode=evaluate` does with a checkpoint: its losses, printed."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.support.scoring import (
    in_units,
    load_members,
    meaning_of,
    other_text,
    plainly,
    score_alone,
    score_draws,
    score_dynamically,
    score_ensemble,
    score_in_units,
    show_lines,
    split_to_score,
    text_of,
)
from lstm_jax.config import Config
from lstm_jax.data.batches import Ids
from lstm_jax.data.texts import kind_of, published_paths, split_text, unknown_share
from lstm_jax.errors import UserError
from lstm_jax.masks import evaluation_masks
from lstm_jax.run.description import Description
from lstm_jax.run.trained import task_of
from lstm_jax.run.validation import validate
from lstm_jax.scoring.dynamic import DynamicConfig
from lstm_jax.scoring.monte_carlo import check_drops
from lstm_jax.tasks.text import vocabulary_of
from lstm_jax.terminal import say
from lstm_jax.train import TrainState

NAMES = {"training_end": "training"}  # of a split, in those of its losses, where they differ
OF_SPLIT = {
    "validation": "kept for validation",
    "test": "kept for the test",
    "training_end": "at the end of the training split",
}


class Wanted(NamedTuple):
    """What is to be scored of a text's model, besides itself.

    workdir, checkpoint: where the model is from; the other runs' are the same.
    split: `validation`, `test` or `training_end`.
    text: the file of another text, in place of a split; None: none.
    ensemble: folders of other runs.
    draws: of Monte Carlo dropout; 0: none.
    dynamic: how the model goes on learning; None: it does not.
    """

    workdir: Path
    checkpoint: str
    split: str
    text: str | None
    ensemble: list[str]
    draws: int
    dynamic: DynamicConfig | None


def evaluate_task(state: TrainState, description: Description, config: Config, split: str) -> int:
    """Prints what a task measures of its model on a split."""
    task = task_of(description, config)
    if split != "validation":
        task = task.scored_on(split)
    scores = validate(task, state, evaluation_masks(config.model))
    if not scores:
        raise UserError("this run's task keeps nothing to validate on")
    say(f"checkpoint of step {int(state.step):,}, {task.describe()}")
    lines = {}
    for name, value in scores.items():
        meaning = meaning_of(name, task)
        ending = f"  ({meaning})" if meaning else ""
        lines[plainly(name, split)] = score_in_units(name, value, task.unit) + ending
    show_lines(lines)
    return 0


def to_score(
    description: Description, config: Config, wanted: Wanted
) -> tuple[Ids | None, Ids, str]:
    """The training text before what is scored, where anything needs it; what is scored; and that in
    words."""
    plural = kind_of(config.data).plural
    if wanted.text is not None:
        scored, before = other_text(wanted.text, description, config), None
        if wanted.dynamic is not None:
            before = split_text(text_of(description, config), config.data).train
        what = f"the {len(scored):,} {plural} of {wanted.text}"
        return before, scored, what + with_unknown(scored, description)
    text = text_of(description, config)
    training, scored = split_to_score(text, config, wanted.split)
    name = published_paths(config.data).get(wanted.split, text.name)
    what = f"the {len(scored):,} {plural} of {name} {OF_SPLIT[wanted.split]}"
    return training, scored, what + with_unknown(scored, description)


def with_unknown(scored: Ids, description: Description) -> str:
    """How much of what is scored none of the model's symbols stands for, as it is said behind."""
    vocabulary = vocabulary_of(description.identity, description.interface)
    if vocabulary.unknown is None:
        return ""
    word = vocabulary.decode(np.array([vocabulary.unknown]))
    return f", {unknown_share(scored, vocabulary)} of which is {word}"


def evaluate_text(
    state: TrainState, description: Description, config: Config, wanted: Wanted
) -> int:
    """Prints the losses of a text's model, alone and in what is wanted besides."""
    before, scored, what = to_score(description, config, wanted)
    params, masks = state.eval_params, evaluation_masks(config.model)
    # What can be refused is refused before anything is scored.
    others = load_members(state, description, wanted.workdir, wanted.ensemble, wanted.checkpoint)
    if wanted.draws:
        check_drops(config.model)
    learning_on = (
        [score_dynamically(params, masks, before, scored, wanted.dynamic)]
        if wanted.dynamic and before is not None
        else []
    )
    losses = score_alone(state, config, scored)
    if others:
        losses += score_ensemble([(params, masks), *others], config, scored)
    if wanted.draws:
        losses += score_draws(params, config, scored, wanted.draws)
    losses += learning_on
    split = "text" if wanted.text else NAMES.get(wanted.split, wanted.split)
    say(f"checkpoint of step {int(state.step):,}, on {what}")
    show_lines(
        {
            f"{split}_loss_{loss.name}": f"{in_units(loss.nats, description.unit)}  ({loss.how})"
            for loss in losses
        }
    )
    return 0
