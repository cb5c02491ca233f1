"""A model in the few terms that every library has, in NumPy: what all formats go through.

Gates stand in this package's orders: i f g o of an LSTM, r z n of a GRU.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from lstm_jax.cells import CELLS, cell_of
from lstm_jax.cells.gru import GRUParams
from lstm_jax.cells.lstm_gates import LSTMParams
from lstm_jax.errors import UserError
from lstm_jax.model import ModelParams, Readout

CELLS_OF_OTHERS = {LSTMParams: "lstm", GRUParams: "gru"}  # the cells that other libraries have


class Net(NamedTuple):
    """A stack of layers, and what may be before and behind it."""

    layers: tuple[Any, ...]  # LSTMParams or GRUParams, with NumPy leaves
    embedding: np.ndarray | None = None  # VxE
    W: np.ndarray | None = None  # HxV, of the readout
    b: np.ndarray | None = None  # V


def lstm(W: Any, U: Any, b: Any) -> LSTMParams:
    """A layer of NumPy arrays."""
    return LSTMParams(W, U, b)


def gru(W: Any, U: Any, b: Any, b_n: Any) -> GRUParams:
    """A layer of NumPy arrays."""
    return GRUParams(W, U, b, b_n)


def reorder(a: np.ndarray, given: str, wanted: str, axis: int = -1) -> np.ndarray:
    """An array with a block for each gate along an axis, with these in another order."""
    blocks = dict(zip(given, np.split(a, len(given), axis), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis)


def name_of(layer: Any) -> str:
    """What a layer's cell is called: `lstm` or `gru`; UserError for one that others do not have."""
    if (name := CELLS_OF_OTHERS.get(type(layer))) is None:
        cell = next(name for name, cell in CELLS.items() if cell is cell_of(layer))
        raise UserError(
            f"model.cell={cell} is this package's own, and other libraries have lstm and gru: "
            "--format=safetensors keeps every cell, for this package to read"
        )
    return name


def net_of(params: ModelParams) -> Net:
    """A model in these terms; UserError, with its name, for what other libraries do not have.

    A readout that is tied to the embedding is written out: its matrix is the embedding transposed.
    """
    embedding, layers, readout, skips = params
    for what, there in (("model.skip", skips), ("model.readout_rank", readout.P)):
        if there is not None:
            raise UserError(
                f"{what} is this package's own: --format=safetensors keeps it, for this package to "
                "read"
            )
    for layer in layers:
        name_of(layer)
    W = readout.W if embedding is None or readout.W is not None else embedding.T
    arrays = [type(layer)(*map(np.asarray, layer)) for layer in layers]
    first = None if embedding is None else np.asarray(embedding)
    return Net(tuple(arrays), first, np.asarray(W), np.asarray(readout.b))


def model_of(net: Net) -> ModelParams:
    """A whole model; UserError where it has no readout."""
    if net.W is None or net.b is None:
        raise UserError("it has layers and no readout, and so is no whole model")
    kinds = {name_of(layer) for layer in net.layers}
    if len(kinds) > 1:
        raise UserError(f"its layers are of several cells ({', '.join(sorted(kinds))}), not of one")
    embedding, W, b = (cast(Any, leaf) for leaf in (net.embedding, net.W, net.b))
    return ModelParams(embedding, net.layers, Readout(W, b))


def tied(params: ModelParams) -> ModelParams:
    """The same model with its readout tied to the embedding; UserError where that is another."""
    embedding, W = params.embedding, params.readout.W
    if embedding is None or W is None or not np.array_equal(embedding.T, W):
        raise UserError("its readout is no longer its embedding transposed (model.readout=tied)")
    return params._replace(readout=params.readout._replace(W=None))


def config_of(params: ModelParams) -> Mapping[str, Any]:
    """The config values that say what a model's parameters say by their shapes."""
    sizes = tuple(layer.U.shape[0] for layer in params.layers)
    same = len({*sizes}) == 1
    return {
        "model.cell": name_of(params.layers[0]),
        "model.embedding_size": 0 if params.embedding is None else params.embedding.shape[1],
        **({"model.hidden_size": sizes[0], "model.num_layers": len(sizes)} if same else {}),
        **({} if same else {"model.hidden_sizes": sizes}),
    }
