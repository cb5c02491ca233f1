"""The notebook's variables: a matrix for each gate, whose columns are those of [h; x].

W_f W_i W_C W_o Hx(H+D)   b_f b_i b_C b_o Hx1   W_v VxH   b_v Vx1
"""

from typing import Any

import numpy as np

from lstm_jax.cells.lstm_gates import LSTMParams
from lstm_jax.errors import UserError
from lstm_jax.interchange.names import Arrays, Names, Readout
from lstm_jax.interchange.net import lstm
from lstm_jax.interchange.tensors import Tensors

GATES = ("i", "f", "C", "o")  # in the order i f g o


def write_layer(layer: Any, n: int, layers: int) -> Arrays:
    if layers > 1 or not isinstance(layer, LSTMParams):
        raise UserError("the notebook has one layer, an LSTM: choose another --format")
    weights = np.split(np.concatenate([layer.U, layer.W]).T, 4)
    tensors = {f"W_{gate}": W for gate, W in zip(GATES, weights, strict=True)}
    biases = zip(GATES, np.split(layer.b[:, None], 4), strict=True)
    return tensors | {f"b_{gate}": b for gate, b in biases}


def read_layer(tensors: Tensors, n: int, D: int | None) -> LSTMParams:
    H, columns = tensors.shape("W_f", 2)
    weights = [tensors.take(f"W_{gate}", H, columns).T for gate in GATES]
    U, W = np.split(np.concatenate(weights, axis=-1), [H])
    return lstm(W, U, np.concatenate([tensors.take(f"b_{gate}", H, 1) for gate in GATES])[:, 0])


NOTEBOOK = Names(
    write=write_layer,
    has=lambda tensors, n: n == 0,
    read=read_layer,
    embedding=None,
    readout=Readout("W_v", "b_v", transposed=True, column=True),
    marker=r"W_f",
)
