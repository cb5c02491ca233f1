"""A stack of LSTM layers over one text in NumPy: what every unit does, step by step."""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_step(layer, h, c, x):
    """The fields of one step of a layer, by name."""
    W, U, b = (np.asarray(leaf, np.float64) for leaf in layer)
    z = x @ W + h @ U + b
    H = len(h)
    i, f, o = sigmoid(z[:H]), sigmoid(z[H : 2 * H]), sigmoid(z[3 * H :])
    g = np.tanh(z[2 * H : 3 * H])
    c = f * c + i * g
    return {"c": c, "h": o * np.tanh(c), "i": i, "f": f, "g": g, "o": o}


def stack_step(params, states, symbol):
    """All layers at one symbol, from a list of (h, c): their fields, and the logits."""
    x = np.eye(params.layers[0].W.shape[0])[symbol]
    layers = []
    for layer, (h, c) in zip(params.layers, states, strict=True):
        layers.append(lstm_step(layer, h, c, x))
        x = layers[-1]["h"]
    readout = params.readout
    return layers, x @ np.asarray(readout.W, np.float64) + np.asarray(readout.b, np.float64)


def read(params, ids):
    """The fields of every layer, TxN each, and the logits TxV."""
    states = [(np.zeros(len(layer.U)), np.zeros(len(layer.U))) for layer in params.layers]
    steps, logits = [], []
    for symbol in ids:
        layers, y = stack_step(params, states, symbol)
        states = [(each["h"], each["c"]) for each in layers]
        steps.append(layers)
        logits.append(y)
    fields = [
        {name: np.stack([step[n][name] for step in steps]) for name in steps[0][n]}
        for n in range(len(params.layers))
    ]
    return fields, np.stack(logits)


def loss_after(params, states, ids, target):
    """-log of the probability of a target after some symbols, from given states."""
    for symbol in ids:
        layers, y = stack_step(params, states, symbol)
        states = [(each["h"], each["c"]) for each in layers]
    return np.log(np.sum(np.exp(y - y.max()))) + y.max() - y[target]
