"""A run's folder as a file of weights, and a file of weights as a run's folder."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.config import Config, check_read
from lstm_jax.errors import UserError
from lstm_jax.files import check_plain, write_json
from lstm_jax.interchange.about import About, from_metadata, of_alphabet
from lstm_jax.interchange.formats import load, save
from lstm_jax.interchange.net import config_of
from lstm_jax.interchange.tensors import in_words
from lstm_jax.model import Interface, ModelParams, init_model, named_leaves
from lstm_jax.run.checkpoint import Checkpoints, load_model
from lstm_jax.run.description import Description, default_dtype
from lstm_jax.run.folder import CONFIG, RUN_FILES, check_place
from lstm_jax.run.lock import only_process
from lstm_jax.run.memory import check_state_fits
from lstm_jax.tasks import TASKS
from lstm_jax.tasks.text import vocabulary_of
from lstm_jax.terminal import warn
from lstm_jax.train import init_train_state
from lstm_jax.transfer import Places, symbol_axes, transfer


class Imported(NamedTuple):
    """What was made of a file: a run that has done no step."""

    params: ModelParams
    description: Description


def export_run(workdir: Path, name: str, path: Path, which: str = "best") -> list[Path]:
    """Writes the model of a run's checkpoint into a file of a named format; says which files that
    are."""
    state, description = load_model(workdir, which)
    return save(jax.tree.map(np.asarray, state.eval_params), description, name, path)


def import_run(
    path: Path,
    workdir: Path,
    name: str | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Imported:
    """Makes a run's folder of a file of weights: at step 0, to score, to sample and to train on.

    Args:
      name: of the format; None: the file tells.
      changes: config values by name, such as `data.path`; what the file says has the others.

    Raises UserError, in one line, where the file holds no such model, or the folder holds a run.
    """
    check_empty(workdir)
    for option in changes:
        if option.startswith("model."):
            raise UserError(f"{option} is what the file says that it is: leave it out")
    loaded = load(path, name)
    try:
        imported = describe(loaded.params, from_metadata(loaded.said), changes)
    except UserError as error:
        raise UserError(f"{path} cannot be imported: {error}") from error
    begun_from = {"workdir": str(path), "step": 0}
    imported = imported._replace(description=imported.description._replace(begun_from=begun_from))
    write_run(workdir, imported)
    return imported


def check_empty(workdir: Path) -> None:
    """Refuses a folder in which there is a run already."""
    check_place(workdir)
    check_plain(workdir, RUN_FILES)
    if (workdir / CONFIG).exists() or Checkpoints(workdir).steps():
        raise UserError(f"{workdir} holds a run already: choose another --workdir")


def describe(params: ModelParams, about: About, changes: Mapping[str, Any]) -> Imported:
    """The parameters as they will lie in the run, and what run that is."""
    there = about.description
    base = there.config if there else Config().replace(dict(config_of(params)))
    config = base.replace(changes)
    check_read(config, changes)
    if any(option.startswith("data.") for option in changes):
        description = with_task(config, about)
    elif there is not None:
        description = there._replace(config=config)
    else:
        description = of_characters(config, about.alphabet)
    description = description._replace(dtype=default_dtype())
    if config.data.task == "text":
        vocabulary_of(description.identity, description.interface)  # which may refuse them
    in_order = None if there else about.alphabet
    return Imported(fitted(params, description, in_order), description)


def of_characters(config: Config, alphabet: str | None) -> Description:
    """A run of a text of which nobody has said more than its alphabet."""
    if alphabet is None:
        raise UserError(
            "it says nothing of its alphabet: name the text with --config.data.path=FILE, or "
            "another task with --config.data.task, or save it with metadata={'alphabet': …}, the "
            "characters in their order"
        )
    identity, interface = of_alphabet(alphabet)
    unit = TASKS[config.data.task].unit
    return Description(config, identity, interface, default_dtype(), unit)


def with_task(config: Config, about: About) -> Description:
    """The run of a config with its data; UserError where these have other symbols than the file."""
    task = TASKS[config.data.task].of(config)
    there: Mapping[str, Any] = {} if about.alphabet is None else of_alphabet(about.alphabet)[0]
    if about.description is not None:
        there = about.description.identity
    old, new = (task.symbols_of(identity) for identity in (there, task.identity))
    if old is not None and [*old] != [*(new or ())]:
        raise UserError(
            "its symbols are others than those of the data: import it without --config.data, and "
            "train with --init_from, which keeps the symbols that both have"
        )
    return Description.of(config, task)


def fitted(params: ModelParams, description: Description, alphabet: str | None) -> ModelParams:
    """The parameters in the shapes, the order of symbols and the dtype of a run.

    `alphabet`: the characters in the order of the file; None: in that of the run.
    """
    config, interface = description.config, description.interface
    check_state_fits(config, interface)
    check_shapes(params, config, interface)
    own = description.identity.get("alphabet")
    if alphabet is not None and isinstance(own, str) and alphabet != own:
        places = Places(np.array([alphabet.index(char) for char in own]), np.arange(len(own)))
        axes = symbol_axes(config.model, interface)
        drawn = jax.tree.map(jnp.zeros_like, params)
        params = transfer(jax.tree.map(jnp.asarray, params), drawn, axes, places)
    return jax.tree.map(lambda leaf: narrowed(np.asarray(leaf)), params)


def check_shapes(params: ModelParams, config: Config, interface: Interface) -> None:
    """Refuses parameters that are not of a config and an interface, by the first leaf."""
    like = jax.eval_shape(lambda: init_model(jax.random.key(0), config.model, interface))
    there, here = named_leaves(params), named_leaves(like)
    for name in {**here, **there}:
        shapes = [
            in_words(leaves[name].shape) if name in leaves else "not there"
            for leaves in (there, here)
        ]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{name} is {shapes[0]} in the file and {shapes[1]} in a model of this config, "
                f"with {interface.input_size} inputs and {interface.output_size} outputs"
            )


def narrowed(array: np.ndarray) -> np.ndarray:
    """An array in the dtype that this process computes in; says where that takes digits away."""
    wanted = array.astype(default_dtype())
    if not np.array_equal(wanted.astype(array.dtype), array, equal_nan=True):
        warn(f"weights in {array.dtype} are rounded to {wanted.dtype}")
    return wanted


def write_run(workdir: Path, imported: Imported) -> None:
    """Makes the folder of a run that has done no step."""
    params, description = imported
    state = init_train_state(description.config, description.interface, params=params)
    with only_process(workdir) as lock:
        checkpoints = Checkpoints(workdir, description.config.train.keep_checkpoints, lock.check)
        checkpoints.save(state, description, {})
        checkpoints.close()
        write_json(workdir / CONFIG, description.to_json() | {"title": workdir.name})
