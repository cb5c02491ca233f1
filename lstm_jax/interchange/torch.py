"""PyTorch's `nn.LSTM` and `nn.GRU`: a state_dict of them, of an embedding and of a linear readout.

The layers may be in a module of any name, or of none; the embedding is the module that has a
weight alone, and the readout the one that has a bias as well.

    weight_ih_l0 GxD   weight_hh_l0 GxH   bias_ih_l0 G   bias_hh_l0 G      gates i f g o, or r z n

PyTorch adds its two biases. They are added here when they are read, and the second is written as
zeros, but for the GRU's candidate: there it is b_n, inside the reset. The zeros are negative ones,
to which any number, +0 and -0 as well, can be added and stays every bit what it was.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_jax.cells.gru import GRUParams
from lstm_jax.errors import UserError
from lstm_jax.interchange.names import Arrays, Metadata, Names, Readout
from lstm_jax.interchange.net import gru, lstm, name_of
from lstm_jax.interchange.tensors import Tensors

OF_LAYERS = re.compile(r"(|.*\.)(weight|bias)_(ih|hh|hr)_l\d+(_reverse)?")
REFUSED = {
    "_reverse": "reads its sequence backwards, and a model here reads it forwards alone",
    "weight_hr_": "is of a proj_size, which no model here has",
}


def write_layer(layer: Any, n: int, _: int) -> Arrays:
    H, module = layer.U.shape[0], name_of(layer)
    bias_hh = -np.zeros_like(layer.b)
    if isinstance(layer, GRUParams):
        bias_hh[2 * H :] = layer.b_n
    return {
        f"{module}.weight_ih_l{n}": layer.W.T,
        f"{module}.weight_hh_l{n}": layer.U.T,
        f"{module}.bias_ih_l{n}": layer.b,
        f"{module}.bias_hh_l{n}": bias_hh,
    }


def read_layer(tensors: Tensors, n: int, D: int | None) -> Any:
    G, H = tensors.shape(f"weight_hh_l{n}", 2)
    if G not in (3 * H, 4 * H):
        raise UserError(
            f"{tensors.called(f'weight_hh_l{n}')} is {G}x{H} and is to be {4 * H}x{H} (an LSTM's) "
            f"or {3 * H}x{H} (a GRU's)"
        )
    W, U = tensors.take(f"weight_ih_l{n}", G, D).T, tensors.take(f"weight_hh_l{n}", G, H).T
    bias_ih, bias_hh = (tensors.take(f"bias_{of}_l{n}", G) for of in ("ih", "hh"))
    if G == 4 * H:
        return lstm(W, U, bias_ih + bias_hh)
    b_n = bias_hh[2 * H :]
    return gru(W, U, bias_ih + np.concatenate([bias_hh[: 2 * H], -np.zeros_like(b_n)]), b_n)


def called(tensors: Mapping[str, Any], _: Metadata) -> dict[str, str]:
    """What the tensors are called in a state_dict whose modules have other names."""
    layers = [name for name in sorted(tensors) if OF_LAYERS.fullmatch(name)]
    for name in layers:
        for part, why in REFUSED.items():
            if part in name:
                raise UserError(f"{name} {why}")
    modules = {OF_LAYERS.sub(r"\1", name) for name in layers}
    if len(modules) > 1:
        raise UserError(
            f"there are layers in several modules ({', '.join(sorted(modules))}), and a model here "
            "has one stack of them"
        )
    names = {
        f"{kind}_l{n}": f"{module}{kind}_l{n}"
        for module in modules
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        for n in range(len(layers))
    }
    others = {name.rpartition(".")[0] for name in {*tensors} - {*layers}}
    for kind, ends in (("embedding", ["weight"]), ("readout", ["weight", "bias"])):
        own = {"weight", "bias"} & {*ends}
        found = [
            m for m in others if {e for e in ("weight", "bias") if f"{m}.{e}" in tensors} == own
        ]
        if len(found) == 1:
            names |= {f"{kind}.{end}": f"{found[0]}.{end}" for end in ends}
    return names


TORCH = Names(
    write=write_layer,
    has=lambda tensors, n: f"weight_hh_l{n}" in tensors or f"weight_ih_l{n}" in tensors,
    read=read_layer,
    embedding="embedding.weight",
    readout=Readout("readout.weight", "readout.bias", transposed=True),
    marker=r"(.*\.)?weight_[ih]h_l0",
    called=called,
)
