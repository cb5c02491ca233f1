"""An LSTM language model in float64 NumPy loops: an oracle that shares no code with the package.

Written from the equations of the papers, one sequence, one unit and one gate at a time, slow and
plain on purpose.
"""

import math

import numpy as np


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cell(W, U, b, h, c, x):
    """One step of one sequence: lists of floats in, lists of floats out."""
    H = len(h)

    def gate(number, unit):
        column = number * H + unit
        total = b[column]
        for d in range(len(x)):
            total += x[d] * W[d][column]
        for j in range(H):
            total += h[j] * U[j][column]
        return total

    new_h, new_c = [], []
    for unit in range(H):
        i, f = sigmoid(gate(0, unit)), sigmoid(gate(1, unit))
        g, o = math.tanh(gate(2, unit)), sigmoid(gate(3, unit))
        new_c.append(f * c[unit] + i * g)
        new_h.append(o * math.tanh(new_c[unit]))
    return new_h, new_c


def language_model(params, carry, inputs, masks=None, resets=None):
    """Logits [T][B][V] and the final [(h, c) per layer] of `params`, an ModelParams of arrays."""
    T, B = np.shape(inputs)
    V, L = len(params.readout.b), len(params.layers)
    logits = np.zeros((T, B, V))
    final = [(np.array(s.h, float), np.array(s.c, float)) for s in carry]
    for lane in range(B):
        state = [(list(h[lane]), list(c[lane])) for h, c in final]
        for t in range(T):
            if resets is not None and resets[t][lane]:
                state = [([0.0] * len(h), [0.0] * len(c)) for h, c in state]
            if params.embedding is None:
                x = np.zeros(V)
                x[inputs[t][lane]] = 1.0
            else:
                x = np.array(params.embedding, float)[inputs[t][lane]]
            for number, layer in enumerate(params.layers):
                if masks is not None and masks.layers[number] is not None:
                    x = x * np.array(masks.layers[number], float)[lane]
                W, U, b = (np.array(leaf, float) for leaf in layer)
                state[number] = cell(W, U, b, *state[number], x)
                x = np.array(state[number][0])
            if masks is not None and masks.readout is not None:
                x = x * np.array(masks.readout, float)[lane]
            logits[t, lane] = x @ np.array(params.readout.W, float) + np.array(params.readout.b)
        for number in range(L):
            final[number][0][lane], final[number][1][lane] = state[number]
    return logits, final


def cross_entropy(logits, targets, mask=None):
    """Mean nats over the counted targets, from the definition -log softmax."""
    total, count = 0.0, 0
    for t in range(len(targets)):
        for lane in range(len(targets[t])):
            if mask is not None and not mask[t][lane]:
                continue
            row = [float(x) for x in logits[t][lane]]
            top = max(row)
            total += math.log(sum(math.exp(x - top) for x in row)) + top - row[targets[t][lane]]
            count += 1
    return total / max(count, 1), count
