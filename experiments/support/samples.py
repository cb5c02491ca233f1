"""What `--mode=sample` does with a checkpoint: what its model makes of something, written."""

from collections.abc import Iterator

import jax
import numpy as np

from experiments.support.stopping import until, until_all_stop
from lstm_jax.errors import UserError
from lstm_jax.masks import evaluation_masks
from lstm_jax.run.description import Description
from lstm_jax.run.memory import check_samples_fit
from lstm_jax.run.trained import task_of
from lstm_jax.sample import SamplingConfig, generate_pieces
from lstm_jax.tasks.text import vocabulary_of
from lstm_jax.terminal import write
from lstm_jax.train import TrainState


def sample_task(state: TrainState, description: Description) -> int:
    """Writes what a task has to show of its model."""
    config = description.config
    sample = task_of(description, config).sample(state.eval_params, evaluation_masks(config.model))
    if sample is None:
        raise UserError(f"data.task={config.data.task} has nothing to show of a model")
    write(f"{sample}\n")
    return 0


def sample_text(
    state: TrainState,
    description: Description,
    config: SamplingConfig,
    prompt: str | None,
    length: int,
    num_samples: int,
    seed: int,
    stop: str | None = None,
) -> int:
    """Writes as the model would go on after the prompt (None: a new line), a piece at a time.

    Each sample ends before the stop, where it comes to write that."""
    vocabulary = vocabulary_of(description.identity, description.interface)
    if prompt is None:
        prompt = "\n" if "\n" in vocabulary.chars else vocabulary.chars[0]
    prompt_ids = vocabulary.encode(prompt)
    check_samples_fit(state.params, num_samples)
    pieces = generate_pieces(
        state.eval_params,
        jax.random.key(seed),
        prompt_ids,
        length,
        config,
        num_samples,
        evaluation_masks(description.config.model),
    )
    if stop is not None:
        pieces = until_all_stop(stop, pieces, vocabulary.decode)
    others: list[np.ndarray] = []

    def first_sample() -> Iterator[str]:
        for piece in pieces:
            others.append(piece[1:])
            yield vocabulary.decode(piece[0])

    write(prompt)
    for text in first_sample() if stop is None else until(stop, first_sample()):
        write(text)
    write("\n")
    others += [piece[1:] for piece in pieces]  # where the first one has stopped
    for number, ids in enumerate(np.concatenate(others, axis=1), start=2):
        text = vocabulary.decode(ids)
        if stop is not None:
            text = text.partition(stop)[0]
        write(f"{'=' * 12} sample {number} {'=' * 12}\n{prompt}{text}\n")
    return 0
