"""What `--mode=evaluate` prints: a model's losses on a split, alone, in an ensemble and while it
goes on learning, each with how it was come by."""

import hashlib
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.averaging import is_waiting
from lstm_jax.config import Config
from lstm_jax.data.batches import Ids
from lstm_jax.data.texts import (
    in_documents,
    kind_of,
    published_paths,
    read_part,
    read_text,
    split_text,
)
from lstm_jax.data.vocabulary import Text
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import named
from lstm_jax.loss import bits
from lstm_jax.masks import evaluation_masks
from lstm_jax.model import Masks, ModelParams, named_leaves
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.checksums import sha256_of
from lstm_jax.run.description import Description
from lstm_jax.run.metrics import AVERAGE, counted, in_digits
from lstm_jax.scoring.dynamic import DynamicConfig, evaluate_dynamic
from lstm_jax.scoring.ensemble import evaluate_ensemble
from lstm_jax.scoring.monte_carlo import evaluate_monte_carlo
from lstm_jax.scoring.protocols import (
    Evaluation,
    check_lanes,
    evaluate,
    in_words,
)
from lstm_jax.tasks import Task
from lstm_jax.tasks.text import vocabulary_of
from lstm_jax.terminal import Bar, show
from lstm_jax.train import TrainState

PERPLEXITY = ("word", "token")  # of these a loss is compared as a perplexity, of others in bits


class Loss(NamedTuple):
    """A loss in nats per target under the name of its protocol, and how it was come by."""

    name: str
    nats: float
    how: str


def text_of(description: Description, config: Config) -> Text:
    """The text that a model was trained on, with what was published beside it; UserError where
    another one is found."""
    vocabulary = vocabulary_of(description.identity, description.interface)
    own = description.config.data
    paths = {"": config.data.path} | published_paths(config.data)
    own_paths = {"": own.path} | published_paths(own)
    wanted = {
        name: description.identity.get(f"{name}_sha256" if name else "sha256", "") for name in paths
    }
    for name, path in paths.items():
        if path == own_paths.get(name) != "":
            check_text_of_run(named(path), wanted[name], option_of(name))
    text = read_text(config.data)
    check_sha256(text.name, text.sha256, wanted[""], option_of(""))
    for name, part in text.published.items():
        check_sha256(paths[name], part.sha256, wanted[name], option_of(name))
    if vocabulary != text.vocabulary:
        raise UserError(f"the alphabet of this model is not that of {text.name}")
    return text


def option_of(name: str) -> str:
    """What names the file of a split that was published; of the text itself where it has none."""
    return f"data.{name}_path" if name else "data.path"


def check_text_of_run(path: Path, wanted: str, option: str) -> None:
    """Refuses what a run's own data.path, or such, leads to, where nobody should wait for it.

    The folder may be somebody else's: a pipe would be read for ever, and a text of many gigabytes
    be turned into ids before it is known to be another.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # the system's own have no size
            raise UserError(
                f"the run's {option}={shorten(str(path))} is no plain file with a text in it: put "
                f"the text into one and name that with --config.{option}"
            )
        check_sha256(str(path), sha256_of(path), wanted, option)
    except UserError:
        raise
    except (OSError, ValueError):
        pass  # `load_text` says it better


def check_sha256(name: str, found: str, wanted: str, option: str) -> None:
    if found != wanted:
        raise UserError(
            f"{name} is not the text that this model was trained on: its sha256 is {found}, not "
            f"{wanted}; name that one with --config.{option}"
        )


def split_to_score(text: Text, config: Config, split: str) -> tuple[Ids, Ids]:
    """The training split before what is scored, and the split: `validation`, `test`, or
    `training_end`, a piece as long as the first at the end of the training split."""
    training, validation, test = split_text(text, config.data)
    scored = test if split == "test" else validation
    if scored is None:
        what = "test" if split == "test" else "validation"
        raise UserError(
            f"this run keeps no {what} split to score (data.{what}_fraction is 0): train with one, "
            "in another --workdir"
        )
    check_lanes(len(scored), config.evaluate)
    if split != "training_end":
        return training, scored
    if len(training) < 2 * len(scored):
        raise UserError(
            f"--split=training_end needs a training split of twice the {len(scored):,} "
            f"{text.vocabulary.plural} that are kept for validation; it has {len(training):,}"
        )
    return training[: -len(scored)], training[-len(scored) :]


def other_text(path: str, description: Description, config: Config) -> Ids:
    """All of another text in the symbols of a model; UserError where it has others."""
    vocabulary = vocabulary_of(description.identity, description.interface)
    ids = in_documents(read_part(vocabulary, path, "--text").ids, vocabulary, config.data)
    check_lanes(len(ids), config.evaluate)
    return ids


def score_alone(state: TrainState, config: Config, scored: Ids) -> list[Loss]:
    """The losses of the parameters, and of their average where there is one."""
    masks = evaluation_masks(config.model)
    evaluation = evaluate(state.params, scored, config.evaluate, masks)
    losses = by_protocol(evaluation, "", config)
    if (average := state.average) is not None:
        if not is_waiting(average):
            evaluation = evaluate(average.params, scored, config.evaluate, masks)
        losses += by_protocol(evaluation, AVERAGE, config)
    return losses


def score_ensemble(
    members: list[tuple[ModelParams, Masks | None]], config: Config, scored: Ids
) -> list[Loss]:
    """The losses of the models' predictions, averaged."""
    evaluation = evaluate_ensemble(members, scored, config.evaluate)
    return by_protocol(evaluation, "_ensemble", config, f"{len(members)} models, averaged; ")


def score_draws(params: ModelParams, config: Config, scored: Ids, draws: int) -> list[Loss]:
    """The losses of Monte Carlo dropout, with a bar while it lasts."""
    with Bar(total=100, unit="%", desc="Monte Carlo dropout", disable=None) as bar:
        evaluation = evaluate_monte_carlo(
            params,
            scored,
            config.model,
            config.evaluate,
            draws,
            lambda part: bar.update(100 * part - bar.n),
        )
    return by_protocol(
        evaluation, "_draws", config, f"{draws} draws of what training drops, averaged; "
    )


def load_members(
    first: TrainState, like: Description, workdir: Path, folders: list[str], which: str
) -> list[tuple[ModelParams, Masks | None]]:
    """The models of an ensemble besides the first, which is that of `workdir`.

    UserError where one is of another text or split than the first, or is one of those before it,
    by another name or as a copy."""
    members: list[tuple[ModelParams, Masks | None]] = []
    contents: dict[bytes, str | Path] = {content_of(first.eval_params): workdir}
    for folder in folders:
        state, description = load_model(named(folder), which)
        if text_and_split(description) != text_and_split(like):
            raise UserError(
                f"--ensemble={folder} was trained on another text or split than {workdir}: "
                "name runs on the same"
            )
        content = content_of(state.eval_params)
        if content in contents:
            raise UserError(
                f"--ensemble={folder} holds the same model as {contents[content]}, and a mean "
                "takes each once: leave it out"
            )
        contents[content] = folder
        members.append((state.eval_params, evaluation_masks(description.config.model)))
    return members


def text_and_split(description: Description) -> tuple[Any, ...]:
    """What two runs have in common whose losses are of the same characters."""
    data = description.config.data
    splits = (data.validation_fraction, data.test_fraction, data.document_separator)
    return description.identity, description.interface, splits


def content_of(params: ModelParams) -> bytes:
    """A hash of every bit of a model's parameters."""
    digest = hashlib.sha256()
    for name, leaf in named_leaves(params).items():
        digest.update(f"{name} {leaf.dtype} {leaf.shape} ".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.digest()


def score_dynamically(
    params: ModelParams,
    masks: Masks | None,
    before: Ids,
    scored: Ids,
    config: DynamicConfig,
) -> Loss:
    """The loss of dynamic evaluation, with a bar while it lasts."""
    with Bar(total=100, unit="%", desc="dynamic evaluation", disable=None) as bar:
        loss = evaluate_dynamic(
            params, before, scored, config, lambda part: bar.update(100 * part - bar.n), masks
        )
    epsilon = f", epsilon {config.epsilon:g}" if config.epsilon else ""
    return Loss(
        "dynamic",
        loss,
        f"the state carried, learning on: {config.rule}, segments of {config.segment_length}, rate "
        f"{config.rate:g}, decay {config.decay:g}{epsilon}",
    )


def by_protocol(
    evaluation: Evaluation, suffix: str, config: Config, prefix: str = ""
) -> list[Loss]:
    """A loss for each protocol."""
    documents = bool(config.data.document_separator)
    return [
        Loss(f"{name}{suffix}", getattr(evaluation, name), prefix + how)
        for name, how in in_words(config.evaluate, kind_of(config.data).plural, documents).items()
    ]


def in_units(value: float, unit: str) -> str:
    """A loss as it is printed everywhere: what is in nats as a perplexity or in bits as well, as
    it is compared in the literature."""
    also, what = "", counted(unit)
    if unit.startswith("nats/"):
        perplexity = f"perplexity {math.exp(min(value, 700)):.6g}"
        also = perplexity if what in PERPLEXITY else f"{in_digits(bits(value))} bits/{what}"
    return f"{in_digits(value)} {unit}  {also}".rstrip()


def score_in_units(name: str, value: float, unit: str) -> str:
    """A metric as it is printed: a loss in units, anything else as a number."""
    return in_units(value, unit) if "_loss" in name else in_digits(value)


def plainly(name: str, split: str = "validation") -> str:
    """What was measured on a split, as it is printed: `validation_loss` for a file's `val_loss`."""
    return f"{split}_{name.removeprefix('val_')}"


def meaning_of(name: str, task: Task) -> str:
    """What a score such as `val_loss_stream_average` is, in a task's words; empty: it has none."""
    of = "of the average of the parameters: " if name.endswith(AVERAGE) else ""
    meaning = task.meanings.get(name.removeprefix("val_").removesuffix(AVERAGE), "")
    return f"{of}{meaning}".removesuffix(": ")


def show_lines(lines: Mapping[str, str]) -> None:
    """Results on stdout: a name, a value and its unit on each line, and more in brackets."""
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        show(f"{name:{width}}  {line}")
