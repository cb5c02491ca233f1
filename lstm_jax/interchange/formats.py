"""The formats: what `--mode=export` writes, and what `--mode=import` reads.

A new library whose models are trees of arrays is a line in NAMES; another kind of file is a line in
FORMATS.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.errors import UserError, did_you_mean
from lstm_jax.interchange.about import from_metadata, to_metadata
from lstm_jax.interchange.equinox import EQUINOX
from lstm_jax.interchange.flax_nnx import FLAX_NNX, FLAX_NNX_PLAIN
from lstm_jax.interchange.haiku import HAIKU
from lstm_jax.interchange.keras import KERAS
from lstm_jax.interchange.names import Names, read, write
from lstm_jax.interchange.net import model_of, net_of, tied
from lstm_jax.interchange.notebook import NOTEBOOK
from lstm_jax.interchange.onnx import load_onnx, save_onnx
from lstm_jax.interchange.own import MARKER, read_own, write_own
from lstm_jax.interchange.safetensors import read_tensors, write_tensors
from lstm_jax.interchange.stablehlo import ENDINGS, save_stablehlo
from lstm_jax.interchange.torch import TORCH
from lstm_jax.model import ModelParams
from lstm_jax.run.description import Description

# The names that libraries have for tensors, in a file of safetensors.
NAMES: dict[str, Names] = {
    "torch": TORCH,
    "flax_nnx": FLAX_NNX,
    "flax_nnx_plain": FLAX_NNX_PLAIN,
    "haiku": HAIKU,
    "equinox": EQUINOX,
    "keras": KERAS,
    "notebook": NOTEBOOK,
}


def from_tensors(
    name: str, tensors: Mapping[str, Any], said: Mapping[str, str] = MappingProxyType({})
) -> ModelParams:
    """A model of tensors that are at hand, such as a state_dict, by the names of a library.

    Args:
      name: a key of NAMES.
      tensors: by name, what NumPy makes arrays of.
      said: what else there is to know, such as `keras`.

    UserError, in one line, names a tensor that is missing, extra or misshapen, with both shapes.
    """
    return jax.tree.map(jnp.asarray, model_of(read(NAMES[name], tensors, said)))


def to_tensors(name: str, params: ModelParams) -> dict[str, np.ndarray]:
    """A model's tensors by the names, in the shapes and in the order of gates of a library."""
    return write(NAMES[name], net_of(params))


class Loaded(NamedTuple):
    """The parameters of a file, in NumPy, and what it says besides."""

    params: ModelParams
    said: Mapping[str, str]


class Format(NamedTuple):
    """How a model lies in a file.

    save: (params, what run it is of, path).
    load: (path) -> what is in it; None: the format holds no weights that could be read.
    endings: what the names of its files have more than the one that the user gives.
    """

    save: Callable[[ModelParams, Description, Path], None]
    load: Callable[[Path], Loaded] | None
    endings: tuple[str, ...] = ("",)


def save_named(name: str, params: ModelParams, description: Description, path: Path) -> None:
    """Writes a model with the names of a library."""
    net, said = net_of(params), to_metadata(description, name)
    write_tensors(path, write(NAMES[name], net), said | NAMES[name].metadata(net))


def load_named(name: str | None, path: Path) -> Loaded:
    """A model with the names of a library; None: of the one that the file says, or looks like."""
    tensors, said = read_tensors(path)
    if name is None:  # others say `pt` there, or nothing
        own = said.get("format", "")
        name = own if own in (OWN, *NAMES) else looks_like(tensors)
    if name == OWN:
        return loaded_own(tensors, said)
    return as_it_was(model_of(read(NAMES[name], tensors, said)), said)


def as_it_was(params: ModelParams, said: Mapping[str, str]) -> Loaded:
    """What was read, with its readout tied again where the file says that it was."""
    described = from_metadata(said).description
    if described is not None and described.config.model.readout == "tied":
        params = tied(params)
    return Loaded(params, said)


def looks_like(tensors: Mapping[str, Any]) -> str:
    """The library whose names these are; UserError where that is none, or not clear."""
    markers = {OWN: MARKER} | {name: names.marker for name, names in NAMES.items()}
    found = [
        name
        for name, marker in markers.items()
        if any(re.fullmatch(marker, tensor) for tensor in tensors)
    ]
    if len(found) != 1:
        some = ", ".join(sorted(tensors)[:3])
        raise UserError(
            f"nothing tells whose names its tensors have ({some}, …): give --format, one of "
            f"{', '.join(markers)}"
        )
    return found[0]


def save_own(params: ModelParams, description: Description, path: Path) -> None:
    """Writes a model with this package's own names."""
    write_tensors(path, write_own(params), to_metadata(description, OWN))


def loaded_own(tensors: Mapping[str, Any], said: Mapping[str, str]) -> Loaded:
    described = from_metadata(said).description
    model, interface = (described.config.model, described.interface) if described else (None, None)
    return Loaded(read_own(tensors, model, interface), said)


OWN = "safetensors"
FORMATS: dict[str, Format] = {
    OWN: Format(save_own, partial(load_named, OWN)),
    **{name: Format(partial(save_named, name), partial(load_named, name)) for name in NAMES},
    "stablehlo": Format(save_stablehlo, None, ENDINGS),
    "onnx": Format(save_onnx, lambda path: as_it_was(*load_onnx(path))),
}


def save(params: ModelParams, description: Description, name: str, path: Path) -> list[Path]:
    """Writes a model into a file of a named format, and says which files that are; UserError for
    what the format cannot say."""
    form = format_of(name)
    form.save(params, description, path)
    return [path.with_name(f"{path.name}{ending}") for ending in form.endings]


def load(path: Path, name: str | None = None) -> Loaded:
    """The model of a file, of a named format or the one that it looks like; UserError, in one line,
    where it holds none."""
    try:
        if name is None:  # other files are safetensors, which say whose they are
            name = {".onnx": "onnx", **dict.fromkeys(ENDINGS, "stablehlo")}.get(path.suffix)
        load = partial(load_named, None) if name is None else format_of(name).load
        if load is None:
            raise UserError(f"{name} holds a program, from which no weights are read")
        return load(path)
    except UserError as error:
        raise UserError(f"{path} cannot be imported: {error}") from error


def format_of(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"there is no format {name}{did_you_mean(name, FORMATS)}")
    return FORMATS[name]
