"""Haiku's `hk.LSTM`: one matrix for [x; h], gates in the order i g f o.

    lstm/linear/w (D+H)xG   lstm/linear/b G        and lstm_1/linear/…, as hk.DeepRNN has them

Haiku adds 1 to the forget gate whatever the bias, so 1 is taken from it when it is written and
added when it is read. In floating point that gives back every bit of a bias between 0.5 and 2, and
of a zero; others are rounded as 1 + b is, to 6e-8 in float32. Haiku's own forward rounds them so,
too. Its GRU resets h before the product with U, and the one here after it.
"""

from typing import Any

import numpy as np

from lstm_jax.cells.lstm_gates import LSTMParams
from lstm_jax.errors import UserError
from lstm_jax.interchange.names import Arrays, Names, Readout
from lstm_jax.interchange.net import lstm, reorder
from lstm_jax.interchange.tensors import Tensors


def module(n: int) -> str:
    return f"lstm_{n}/linear" if n else "lstm/linear"


def write_layer(layer: Any, n: int, _: int) -> Arrays:
    if not isinstance(layer, LSTMParams):
        raise UserError(
            "Haiku's GRU resets h before the product with U, and this model's after it: no weights "
            "make the two the same"
        )
    w = reorder(np.concatenate([layer.W, layer.U]), "ifgo", "igfo")
    return {
        f"{module(n)}/w": w,
        f"{module(n)}/b": reorder(shifted(np.asarray(layer.b), -1), "ifgo", "igfo"),
    }


def read_layer(tensors: Tensors, n: int, D: int | None) -> LSTMParams:
    rows, G = tensors.shape(f"{module(n)}/w", 2)
    H = G // 4
    D = rows - H if D is None else D
    w = reorder(tensors.take(f"{module(n)}/w", D + H, 4 * H), "igfo", "ifgo")
    b = reorder(tensors.take(f"{module(n)}/b", 4 * H), "igfo", "ifgo")
    return lstm(w[:D], w[D:], shifted(b, 1))


def shifted(b_G: np.ndarray, by: int) -> np.ndarray:
    """The bias, with a number added to the forget gate's."""
    i, f, g, o = np.split(b_G, 4)
    return np.concatenate([i, f + f.dtype.type(by), g, o])


HAIKU = Names(
    write=write_layer,
    has=lambda tensors, n: f"{module(n)}/w" in tensors,
    read=read_layer,
    embedding="embed/embeddings",
    readout=Readout("linear/w", "linear/b"),
    marker=r"lstm/linear/w",
)
