"""Keras 3: a `Sequential` of `LSTM` or `GRU` layers, by the paths of its variables.

    sequential/lstm/lstm_cell/kernel DxG   …/recurrent_kernel HxG   …/bias G     gates i f c o
    sequential/gru/gru_cell/kernel Dx3H    …/recurrent_kernel Hx3H  …/bias 2x3H  gates z r h

What the layers compute is in the model's config, not in its weights. So a file says it as well,
under `keras`: `model.to_json()`. What is not an LSTM or a GRU as it is here is refused by its name.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lstm_jax.cells.gru import GRUParams
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import parse_json
from lstm_jax.interchange.names import Arrays, Metadata, Names, Readout
from lstm_jax.interchange.net import Net, gru, lstm, name_of, reorder
from lstm_jax.interchange.tensors import Tensors

WANTED = {
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "use_bias": True,
    "go_backwards": False,
    "return_sequences": True,
}
# The layers that are read, each with the values that it is to have.
READ: dict[str, dict[str, Any]] = {
    "LSTM": WANTED,
    "GRU": WANTED | {"reset_after": True},
    "Embedding": {},
    "Dense": {"use_bias": True},
}
WITHOUT_WEIGHTS = ("InputLayer", "Dropout", "Softmax")
EMBEDDING = "sequential/embedding/embeddings"
READOUT = Readout("sequential/dense/kernel", "sequential/dense/bias")
LEAVES = {"LSTM": ("kernel", "recurrent_kernel", "bias"), "Embedding": ("embeddings",)}
LEAVES |= {"GRU": LEAVES["LSTM"], "Dense": ("kernel", "bias")}


def layer_name(kind: str, n: int) -> str:
    return f"{kind}_{n}" if n else kind


def path(kind: str, n: int, leaf: str) -> str:
    return f"sequential/{layer_name(kind, n)}/{kind}_cell/{leaf}"


def write_layer(layer: Any, n: int, _: int) -> Arrays:
    kind, (W, U, b, *more) = name_of(layer), layer
    if isinstance(layer, GRUParams):
        inside = np.concatenate([-np.zeros(2 * len(more[0]), b.dtype), more[0]])
        W, U, b = (reorder(a, "rzn", "zrn") for a in (W, U, np.stack([b, inside])))
    leaves = {"kernel": W, "recurrent_kernel": U, "bias": b}
    return {path(kind, n, leaf): tensor for leaf, tensor in leaves.items()}


def read_layer(tensors: Tensors, n: int, D: int | None) -> Any:
    kind = "gru" if path("gru", n, "recurrent_kernel") in tensors else "lstm"
    H, _ = tensors.shape(path(kind, n, "recurrent_kernel"), 2)
    G = (3 if kind == "gru" else 4) * H
    W = tensors.take(path(kind, n, "kernel"), D, G)
    U = tensors.take(path(kind, n, "recurrent_kernel"), H, G)
    if kind == "lstm":
        return lstm(W, U, tensors.take(path(kind, n, "bias"), G))
    b = tensors.take(path(kind, n, "bias"), 2, G)
    W, U, b = (reorder(a, "zrn", "rzn") for a in (W, U, b))
    outside, b_n = b[1, : 2 * H], b[1, 2 * H :]
    return gru(W, U, b[0] + np.concatenate([outside, -np.zeros_like(b_n)]), b_n)


def called(tensors: Mapping[str, Any], said: Metadata) -> dict[str, str]:
    """What the variables are called in a model whose layers have other names."""
    names: dict[str, str] = {}
    n = 0
    for kind, own in layers_of(said):
        if kind in ("LSTM", "GRU"):
            ours = {leaf: path(kind.lower(), n, leaf) for leaf in LEAVES[kind]}
            n += 1
        elif kind == "Embedding":
            ours = {"embeddings": EMBEDDING}
        else:
            ours = {"kernel": READOUT.W, "bias": READOUT.b}
        for leaf, name in ours.items():
            pattern = rf"(.*/)?{re.escape(own)}/(\w+_cell/)?{leaf}"
            found = [theirs for theirs in tensors if re.fullmatch(pattern, theirs)]
            if len(found) == 1:
                names[name] = found[0]
    return names


def layers_of(said: Metadata) -> Iterator[tuple[str, str]]:
    """The class and the name of each layer with weights, in order; UserError for another model."""
    if "keras" not in said:
        raise UserError(
            "it says nothing of what its layers compute: save it with metadata={'keras': "
            "model.to_json()}"
        )
    try:
        model = parse_json(said["keras"])
        if model["class_name"] != "Sequential":
            raise UserError(f"it is of a {shorten(model['class_name'])}, not of a Sequential")
        for layer in model["config"]["layers"]:
            kind, config = layer["class_name"], layer["config"]
            if kind in READ:
                check(config, READ[kind])
                yield kind, config["name"]
            elif kind not in WITHOUT_WEIGHTS:
                raise UserError(f"its layer {shorten(kind)} is none of {', '.join(READ)}")
    except (KeyError, TypeError) as error:
        raise UserError(f"what it says under `keras` is no config of a model ({error})") from error


def check(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses a layer that computes something else."""
    for option, value in wanted.items():
        if config[option] != value:
            raise UserError(
                f"its layer {config['name']} has {option}={shorten(config[option])}, and only "
                f"{value!r} is known here"
            )


def metadata(net: Net) -> dict[str, str]:
    """The config of the Sequential that a net is: `keras.models.model_from_json` makes it."""
    D = net.layers[0].W.shape[0]
    first = [None, None] if net.embedding is not None else [None, None, D]
    layers: list[tuple[str, dict[str, Any]]] = [
        ("InputLayer", {"name": "input_layer", "batch_shape": first})
    ]
    if net.embedding is not None:
        V, E = net.embedding.shape
        layers.append(("Embedding", {"name": "embedding", "input_dim": V, "output_dim": E}))
    for n, layer in enumerate(net.layers):
        kind = name_of(layer)
        name = {"name": layer_name(kind, n), "units": layer.U.shape[0]}
        layers.append((kind.upper(), name | READ[kind.upper()]))
    if net.W is not None:
        dense = {"name": "dense", "units": net.W.shape[1], "activation": "linear"}
        layers.append(("Dense", dense | READ["Dense"]))
    listed = [
        {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}
        for kind, config in layers
    ]
    whole = {"name": "sequential", "trainable": True, "layers": listed}
    model = {"module": "keras", "class_name": "Sequential", "config": whole}
    return {"keras": json.dumps(model | {"registered_name": None})}


KERAS = Names(
    write=write_layer,
    has=lambda tensors, n: any(
        path(kind, n, "recurrent_kernel") in tensors for kind in ("lstm", "gru")
    ),
    read=read_layer,
    embedding=EMBEDDING,
    readout=READOUT,
    marker=r".*/recurrent_kernel",
    called=called,
    metadata=metadata,
)
