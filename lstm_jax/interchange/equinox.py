"""Equinox's `LSTMCell` and `GRUCell`: PyTorch's shapes, and one bias.

    layers.0.weight_ih GxD   layers.0.weight_hh GxH   layers.0.bias G     gates i f g o, or r z n
    layers.0.bias_n H, the GRU's inside the reset

The state is (h, c).
"""

from typing import Any

from lstm_jax.cells.gru import GRUParams
from lstm_jax.interchange.names import Arrays, Names, Readout
from lstm_jax.interchange.net import gru, lstm
from lstm_jax.interchange.tensors import Tensors


def write_layer(layer: Any, n: int, _: int) -> Arrays:
    tensors = {"weight_ih": layer.W.T, "weight_hh": layer.U.T, "bias": layer.b}
    if isinstance(layer, GRUParams):
        tensors["bias_n"] = layer.b_n
    return {f"layers.{n}.{name}": tensor for name, tensor in tensors.items()}


def read_layer(tensors: Tensors, n: int, D: int | None) -> Any:
    where = f"layers.{n}."
    _, H = tensors.shape(f"{where}weight_hh", 2)
    is_gru = f"{where}bias_n" in tensors
    G = (3 if is_gru else 4) * H
    W, U = tensors.take(f"{where}weight_ih", G, D).T, tensors.take(f"{where}weight_hh", G, H).T
    b = tensors.take(f"{where}bias", G)
    return gru(W, U, b, tensors.take(f"{where}bias_n", H)) if is_gru else lstm(W, U, b)


EQUINOX = Names(
    write=write_layer,
    has=lambda tensors, n: f"layers.{n}.weight_hh" in tensors,
    read=read_layer,
    embedding="embedding.weight",
    readout=Readout("readout.weight", "readout.bias", transposed=True),
    marker=r"layers\.0\.weight_hh",
)
