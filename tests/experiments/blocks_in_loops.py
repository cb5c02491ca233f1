"""The network of Gers, Schmidhuber and Cummins 2000 and its rule, unit by unit, in NumPy."""

import numpy as np

from experiments.support.truncated_rtrl import BLOCK_SIZE, BLOCKS, CELLS, Weights
from tests.oracle import sigmoid


class Network:
    """One network. `held`: its forget gates, where they do not learn."""

    def __init__(self, weights, held):
        self.weights = Weights(*(np.array(leaf) for leaf in weights))
        self.held = held
        self.begin()

    def begin(self):
        """The zero state. What is stored of the past is the state and ds/dw."""
        R = len(self.weights.i)
        self.s, self.h = np.zeros(CELLS), np.zeros(CELLS)
        self.P_i, self.P_f, self.P_g = (np.zeros((CELLS, rows)) for rows in (R, R, R - 1))

    def read(self, x):
        """One step; the outputs."""
        W_i, W_f, W_o, W_g, V = self.weights
        self.u = u = np.concatenate([x, self.h, [1.0]])
        self.o, self.q, h = np.zeros(CELLS), np.zeros(CELLS), np.zeros(CELLS)
        for block in range(BLOCKS):
            i, f, o = (sigmoid(float(u @ W[:, block])) for W in (W_i, W_f, W_o))
            slope_f = f * (1 - f) if self.held is None else 0.0
            f = f if self.held is None else self.held
            for c in range(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE):
                p = sigmoid(float(u[:-1] @ W_g[:, c]))
                g = 4 * p - 2
                self.P_i[c] = f * self.P_i[c] + g * i * (1 - i) * u
                self.P_f[c] = f * self.P_f[c] + self.s[c] * slope_f * u
                self.P_g[c] = f * self.P_g[c] + i * 4 * p * (1 - p) * u[:-1]
                self.s[c] = f * self.s[c] + i * g
                self.o[c], self.q[c] = o, 2 * sigmoid(self.s[c]) - 1
                h[c] = o * self.q[c]
        self.h = h
        self.v = np.concatenate([h, x, [1.0]])
        return np.array([sigmoid(z) for z in self.v @ V])

    def learn(self, y, target, rate):
        """An update after a step."""
        W_i, W_f, W_o, W_g, V = self.weights
        error = (target - y) * y * (1 - y)
        arrives = V[:CELLS] @ error
        V += rate * np.outer(self.v, error)
        for c in range(CELLS):
            block, o, q = c // BLOCK_SIZE, self.o[c], self.q[c]
            e_s = arrives[c] * o * 2 * sigmoid(self.s[c]) * (1 - sigmoid(self.s[c]))
            W_o[:, block] += rate * arrives[c] * q * o * (1 - o) * self.u
            W_i[:, block] += rate * e_s * self.P_i[c]
            W_f[:, block] += rate * e_s * self.P_f[c]
            W_g[:, c] += rate * e_s * self.P_g[c]
