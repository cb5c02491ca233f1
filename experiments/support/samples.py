"""What `--mode=sample` does with a checkpoint: what its model makes of something, written."""

from collections.abc import Iterable, Iterator

import jax
import numpy as np

from experiments.support.stopping import until, until_all_stop
from lstm_jax.data.texts import unescaped
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
    """Writes as the model would go on after the prompt, a piece at a time.

    None stands for a new line, or whatever else these tokens begin with. Each sample ends before
    the stop, where it comes to write that."""
    vocabulary = vocabulary_of(description.identity, description.interface)
    prompt_ids = vocabulary.encode(vocabulary.start if prompt is None else prompt)
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
        stop = unescaped(stop)
        if vocabulary.kind == "characters":
            vocabulary.encode(stop)  # what it could never write is refused
        pieces = until_all_stop(stop, pieces, vocabulary.decode)
    others: list[np.ndarray] = []

    def first_sample() -> Iterator[np.ndarray]:
        yield prompt_ids
        for piece in pieces:
            others.append(piece[1:])
            yield piece[0]

    def texts_of(prompt_and_written: Iterable[np.ndarray]) -> Iterator[str]:
        texts = iter(vocabulary.decode_pieces(prompt_and_written))
        yield next(texts)
        yield from texts if stop is None else until(stop, texts)

    for text in texts_of(first_sample()):
        write(text)
    write("\n")
    others += [piece[1:] for piece in pieces]  # where the first one has stopped
    for number, ids in enumerate(np.concatenate(others, axis=1), start=2):
        text = "".join(texts_of([prompt_ids, ids]))
        write(f"{'=' * 12} sample {number} {'=' * 12}\n{text}\n")
    return 0
