"""What `--mode=inspect` does with a checkpoint: a page that shows what its units do."""

import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.support.scoring import text_of
from lstm_jax.config import Config
from lstm_jax.data.batches import Ids
from lstm_jax.data.texts import in_documents, read_part, split_text
from lstm_jax.errors import UserError
from lstm_jax.files import write_atomically
from lstm_jax.inspection.archive import archive
from lstm_jax.inspection.page import page
from lstm_jax.inspection.ranking import Found
from lstm_jax.inspection.report import RANKED, SHOWN, look_into, symbols_of
from lstm_jax.masks import evaluation_masks
from lstm_jax.model import ModelParams, hidden_sizes, output_size
from lstm_jax.run.description import Description
from lstm_jax.run.memory import check_samples_fit
from lstm_jax.sample import SamplingConfig, generate
from lstm_jax.tasks.text import vocabulary_of
from lstm_jax.terminal import say, show
from lstm_jax.train import TrainState

MOST_VALUES, FIELDS = 10**8, 6  # of a text's trace in memory: 400 MB
LONGEST_TITLE = 80  # characters of a folder's name
PAGE, ARCHIVE = "inspection.html", "inspection.npz"


class Written(NamedTuple):
    """A text that the model writes itself, after a prompt; None: it reads another."""

    prompt: str | None
    length: int
    sampling: SamplingConfig
    seed: int


def text_to_read(
    state: TrainState, description: Description, config: Config, path: str | None, written: Written
) -> tuple[Ids, str]:
    """The ids to look at, and what they are in words."""
    vocabulary = vocabulary_of(description.identity, description.interface)
    if path is not None:
        ids = in_documents(read_part(vocabulary, path, "--text").ids, vocabulary, config.data)
        return ids, Path(path).name
    if written.prompt is not None:
        prompt = vocabulary.encode(written.prompt)
        check_samples_fit(state.params, 1)
        masks = evaluation_masks(description.config.model)
        key, length = jax.random.key(written.seed), min(written.length, RANKED)  # no more is read
        added, _ = generate(state.eval_params, key, prompt, length, written.sampling, masks=masks)
        what = f"a prompt of {len(prompt):,} {vocabulary.plural}, and what the model wrote after it"
        both = np.concatenate([prompt, added[0].astype(prompt.dtype)])
        return in_documents(both, vocabulary, config.data), what
    text = text_of(description, config)
    split = split_text(text, config.data)
    if split.validation is None:
        return split.train, f"{text.name}, the part that was trained on"
    return split.validation, f"{text.name}, the part kept for validation"


def most_steps(params: ModelParams) -> int:
    """How much of a text is read: less where its trace would fill the memory."""
    width = FIELDS * sum(hidden_sizes(params)) + output_size(params)
    return max(SHOWN, min(RANKED, MOST_VALUES // width))


def inspect_text(
    state: TrainState,
    description: Description,
    config: Config,
    folder: Path,
    path: str | None,
    written: Written,
) -> int:
    """Writes page and archive into the run's folder, and prints the units that stand out."""
    begun = time.perf_counter()
    ids, what = text_to_read(state, description, config, path, written)
    if len(ids) < 2:
        raise UserError("a text to look at has two symbols or more: take a longer one")
    vocabulary = vocabulary_of(description.identity, description.interface)
    read = ids[: most_steps(state.params)]
    say(f"reading {len(read):,} {vocabulary.plural} of {what}")
    masks = evaluation_masks(description.config.model)
    report = look_into(state.eval_params, read, symbols_of(vocabulary), masks)
    facts = facts_of(state, description, what, len(ids), len(read))
    name = folder.absolute().name[:LONGEST_TITLE]
    for file, content in (
        (PAGE, page(report, name, facts).encode()),
        (ARCHIVE, archive(report)),
    ):
        write_atomically(folder / file, content)
        say(f"{folder / file}: {len(content) / 1e6:.2f} MB")
    say(f"it took {time.perf_counter() - begun:.0f} s")
    show(table(report.found))
    return 0


def facts_of(
    state: TrainState, description: Description, what: str, length: int, read: int
) -> dict[str, str]:
    """What a page says of its model and its text, by what it is called."""
    plural = vocabulary_of(description.identity, description.interface).plural
    model, shown = description.config.model, min(length, SHOWN)
    sizes = model.layer_sizes
    layers = f"{len(sizes)} layer{'s' * (len(sizes) > 1)}"
    units = ", ".join(map(str, dict.fromkeys(sizes)))
    return {
        "Model": f"{model.cell}, {layers} of {units} units, step {int(state.step):,}",
        "Text": what,
        "Shown": f"{shown:,} {plural}" + f", the first of {length:,}" * (length > shown),
        "Units ranked on": f"{read:,} {plural}",
    }


def table(found: dict[str, list[Found]]) -> str:
    """The best unit of each feature, on lines of their own."""
    lines = [f"{'feature':26}  {'layer':>5}  {'unit':>5}  {'field':5}  score on the other half"]
    for feature, units in found.items():
        if not units:
            lines.append(f"{feature:26}  too rare, or always the same")
            continue
        best = units[0]
        score = f"correlation {best.sign * best.scored:.3f}"
        if best.accuracy is not None:
            way = "low" if best.sign < 0 else "high"
            score = f"AUC {best.scored:.3f}, balanced accuracy {best.accuracy:.3f}; {way} inside"
        lines.append(f"{feature:26}  {best.layer:5}  {best.unit:5}  {best.field:5}  {score}")
    return "\n".join(lines)
