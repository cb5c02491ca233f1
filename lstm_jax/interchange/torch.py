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
    "_reverse": "reads its sequence backwards, and a model here reads it forwards alone: take "
    "`layer_of` for such a layer",
    "weight_hr_": "is of a proj_size, which no model here has",
}


def layer_of(state_dict: Mapping[str, Any], n: int = 0, *, reverse: bool = False) -> Any:
    """Layer n of an `nn.LSTM` or `nn.GRU`, for `unroll` or `bptt_layer`.

    Args:
      state_dict: the module's own, whose names begin with nothing; what NumPy makes arrays of.
      reverse: the direction that reads from the end: what `unroll_both` takes as `backward`.

    UserError, in one line, names a tensor that is missing or misshapen, with both shapes.
    """
    if projected := [name for name in state_dict if name.startswith("weight_hr_")]:
        raise UserError(f"{projected[0]} {REFUSED['weight_hr_']}")
    return read_layer(Tensors(state_dict), n, None, ending(reverse))


def dict_of(layer: Any, n: int = 0, *, reverse: bool = False) -> Arrays:
    """A layer as part of an `nn.LSTM`'s or `nn.GRU`'s own state_dict: the other way round."""
    H, end = layer.U.shape[0], ending(reverse)
    bias_hh = -np.zeros_like(layer.b)
    if isinstance(layer, GRUParams):
        bias_hh[2 * H :] = layer.b_n
    return {
        f"weight_ih_l{n}{end}": layer.W.T,
        f"weight_hh_l{n}{end}": layer.U.T,
        f"bias_ih_l{n}{end}": layer.b,
        f"bias_hh_l{n}{end}": bias_hh,
    }


def ending(reverse: bool) -> str:
    """What a direction's tensors have behind their names."""
    return "_reverse" if reverse else ""


def write_layer(layer: Any, n: int, _: int) -> Arrays:
    return {f"{name_of(layer)}.{name}": tensor for name, tensor in dict_of(layer, n).items()}


def read_layer(tensors: Tensors, n: int, D: int | None, end: str = "") -> Any:
    name = f"weight_hh_l{n}{end}"
    G, H = tensors.shape(name, 2)
    if G not in (3 * H, 4 * H):
        raise UserError(
            f"{tensors.called(name)} is {G}x{H} and is to be {4 * H}x{H} (an LSTM's) or "
            f"{3 * H}x{H} (a GRU's)"
        )
    W, U = tensors.take(f"weight_ih_l{n}{end}", G, D).T, tensors.take(name, G, H).T
    bias_ih, bias_hh = (tensors.take(f"bias_{of}_l{n}{end}", G) for of in ("ih", "hh"))
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
