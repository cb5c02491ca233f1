"""Flax nnx: `OptimizedLSTMCell`, `LSTMCell` and `GRUCell`, by the paths of `nnx.to_flat_state`.

    layers.0.dense_i.kernel DxG   layers.0.dense_h.kernel HxG   layers.0.dense_h.bias G  (LSTM)
    layers.0.dense_i.bias G, in place of dense_h's, and no b_n                           (GRU)
    layers.0.ii.kernel DxH … layers.0.ho.kernel HxH   layers.0.hi.bias H …    (the plain LSTMCell)

The carry is (c, h). Its GRU has no bias inside the reset: one that is not zero is refused.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from lstm_jax.cells.lstm_gates import LSTMParams
from lstm_jax.errors import UserError
from lstm_jax.interchange.names import Arrays, Names, Readout
from lstm_jax.interchange.net import gru, lstm
from lstm_jax.interchange.tensors import Tensors

EACH = {"i": ("ii", "hi"), "f": ("if_", "hf"), "g": ("ig", "hg"), "o": ("io", "ho")}


def write_optimized(layer: Any, n: int, _: int) -> Arrays:
    where = f"layers.{n}.dense"
    tensors = {f"{where}_i.kernel": layer.W, f"{where}_h.kernel": layer.U}
    if isinstance(layer, LSTMParams):
        return tensors | {f"{where}_h.bias": layer.b}
    if np.any(layer.b_n):
        raise UserError(
            f"layers[{n}].b_n is not zero, and Flax's GRUCell has no bias inside the reset: choose "
            "another --format"
        )
    return tensors | {f"{where}_i.bias": layer.b}


def read_optimized(tensors: Tensors, n: int, D: int | None) -> Any:
    where = f"layers.{n}.dense"
    H, _ = tensors.shape(f"{where}_h.kernel", 2)
    is_gru = f"{where}_i.bias" in tensors
    G = (3 if is_gru else 4) * H
    W, U = tensors.take(f"{where}_i.kernel", D, G), tensors.take(f"{where}_h.kernel", H, G)
    if is_gru:
        return gru(W, U, tensors.take(f"{where}_i.bias", G), np.zeros(H, U.dtype))
    return lstm(W, U, tensors.take(f"{where}_h.bias", G))


def write_plain(layer: Any, n: int, _: int) -> Arrays:
    if not isinstance(layer, LSTMParams):
        raise UserError("this format is of LSTMs: choose --format=flax_nnx for a GRU")
    blocks = zip(EACH.values(), *(np.split(a, 4, -1) for a in layer), strict=True)
    tensors: Arrays = {}
    for (of_x, of_h), W, U, b in blocks:
        where = f"layers.{n}"
        tensors |= {f"{where}.{of_x}.kernel": W, f"{where}.{of_h}.kernel": U}
        tensors |= {f"{where}.{of_h}.bias": b}
    return tensors


def read_plain(tensors: Tensors, n: int, D: int | None) -> LSTMParams:
    H, _ = tensors.shape(f"layers.{n}.hi.kernel", 2)
    each = [
        (
            tensors.take(f"layers.{n}.{of_x}.kernel", D, H),
            tensors.take(f"layers.{n}.{of_h}.kernel", H, H),
            tensors.take(f"layers.{n}.{of_h}.bias", H),
        )
        for of_x, of_h in EACH.values()
    ]
    return lstm(*(np.concatenate(blocks, -1) for blocks in zip(*each, strict=True)))


def has(leaf: str) -> Callable[[Tensors, int], bool]:
    return lambda tensors, n: any(name.startswith(f"layers.{n}.{leaf}") for name in tensors)


READOUT = Readout("readout.kernel", "readout.bias")
FLAX_NNX = Names(
    write=write_optimized,
    has=has("dense_"),
    read=read_optimized,
    embedding="embedding.embedding",
    readout=READOUT,
    marker=r"layers\.0\.dense_h\.kernel",
)
FLAX_NNX_PLAIN = FLAX_NNX._replace(
    write=write_plain, has=has("h"), read=read_plain, marker=r"layers\.0\.hi\.kernel"
)
