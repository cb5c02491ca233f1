"""The model of a trained run, as `load_model` gives it: scored, and asked for text."""

from typing import Any

import jax
import numpy as np

from lstm_jax.config import Config
from lstm_jax.errors import UserError
from lstm_jax.masks import evaluation_masks
from lstm_jax.run.description import Description
from lstm_jax.run.memory import check_samples_fit
from lstm_jax.sample import SamplingConfig, generate
from lstm_jax.tasks import TASKS, Task
from lstm_jax.tasks.text import vocabulary_of
from lstm_jax.train import TrainState


def task_of(description: Description, config: Config, task: Task | None = None) -> Task:
    """The task that a run was of, with its data; UserError where that has changed.

    `task`: the one that it should be; None: the one that the config names."""
    task = task or TASKS[config.data.task].of(config)
    if differ := Description.of(config, task).differences(description.to_json()):
        raise UserError(f"the task is no longer what was trained on: {'; '.join(differ)}")
    return task


def evaluate(
    state: TrainState, description: Description, task: Task | None = None
) -> dict[str, float]:
    """What a run's task measures of its model, by name: the first was minimised, and losses are in
    the task's `unit`.

    Args:
      state, description: what `load_model` gives.
      task: the run's, where that is of a class of your own; None: the one that its config names.

    Empty where nothing is kept to validate on. UserError where the data cannot be had, or is no
    longer what was trained on.
    """
    config = description.config
    task = task_of(description, config, task)
    return task.evaluate(state.eval_params, evaluation_masks(config.model))


def sample_text(
    state: TrainState,
    description: Description,
    prompt: str,
    length: int = 500,
    seed: int = 0,
    **options: Any,
) -> str:
    """A prompt, and how the model goes on after it. The same seed gives the same text.

    Args:
      state, description: what `load_model` gives of a run on a text, which itself is not needed.
      length: how many characters are added.
      options: `temperature`, `top_k` and `top_p` (`sample.SamplingConfig`).

    UserError where the run is of no text, the prompt is empty or has a symbol that the model does
    not know, or an option is out of its range.
    """
    vocabulary = vocabulary_of(description.identity, description.interface)
    config, ids = SamplingConfig(**options), vocabulary.encode(prompt)
    check_samples_fit(state.params, 1)
    masks = evaluation_masks(description.config.model)
    key = jax.random.key(seed)
    written, _ = generate(state.eval_params, key, ids, length, config, masks=masks)
    return vocabulary.decode(np.concatenate([ids, written[0]]))
