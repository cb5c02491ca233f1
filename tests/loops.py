"""Loops over lanes, steps and units, which the layers of every kind of cell are compared with."""

import math

import jax.numpy as jnp
import numpy as np

from lstm_jax.cells.coupled import CoupledParams
from lstm_jax.cells.lstm import LSTMState
from tests import oracle

T, B, D, H = 5, 2, 4, 3


def random(rng, *shape):
    return jnp.asarray(rng.normal(size=shape))


def make_inputs(rng, ids):
    """An initial state, what the layer reads, what multiplies it, and where lanes start afresh."""
    state = LSTMState(random(rng, B, H), random(rng, B, H))
    x = jnp.asarray(rng.integers(D, size=(T, B))) if ids else random(rng, T, B, D)
    resets_TxB = np.zeros((T, B), bool)
    resets_TxB[2, 1] = resets_TxB[3, 0] = True
    return state, x, jnp.asarray(rng.uniform(0.5, 1.5, size=(B, D))), jnp.asarray(resets_TxB)


def loop(step, state, x, mask_BxD, resets_TxB):
    """The final h and c and the outputs, where `step` is (h, c, x, t, lane) -> (h, c) of a lane."""
    (final_h, final_c), x, mask_BxD = (np.array(s) for s in state), np.array(x), np.array(mask_BxD)
    outputs = np.zeros((T, B, H))
    for lane in range(B):
        h, c = final_h[lane], final_c[lane]
        for t in range(T):
            if resets_TxB[t, lane]:
                h, c = np.zeros(H), np.zeros(H)
            seen = x[t, lane]
            if x.ndim == 2:
                seen = np.array([float(d == seen) for d in range(D)])
            h, c = step(
                h, c, [m * value for m, value in zip(mask_BxD[lane], seen, strict=True)], t, lane
            )
            outputs[t, lane] = h
        final_h[lane], final_c[lane] = h, c
    return final_h, final_c, outputs


def compare(layer, params, step, inputs, **options):
    """Fails where `layer` is not the loop of `step`."""
    state, x, mask_BxD, resets_TxB = inputs
    final, outputs = layer(params, state, x, mask_BxD=mask_BxD, resets_TxB=resets_TxB, **options)
    wanted = loop(step, *inputs)
    for found, want in zip((final.h, final.c, outputs), wanted, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)


def affine(v, M):
    """v M, entry by entry."""
    return [sum(v[d] * float(M[d, n]) for d in range(len(v))) for n in range(M.shape[1])]


def make_coupled(rng):
    return CoupledParams(random(rng, D, 3 * H), random(rng, H, 3 * H), random(rng, 3 * H))


def coupled(params):
    W, U, b = (np.array(leaf) for leaf in params)

    def step(h, c, x, *_):
        z = [p + q + float(r) for p, q, r in zip(affine(x, W), affine(h, U), b, strict=True)]
        new_h, new_c = [], []
        for n in range(H):
            f, g, o = oracle.sigmoid(z[n]), math.tanh(z[H + n]), oracle.sigmoid(z[2 * H + n])
            new_c.append(f * c[n] + (1 - f) * g)
            new_h.append(o * math.tanh(new_c[n]))
        return new_h, new_c

    return step
