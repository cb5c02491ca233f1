"""Loops over lanes, steps and units, which the layers of every kind of cell are compared with."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells.coupled import CoupledParams
from lstm_jax.cells.elman import ElmanParams
from lstm_jax.cells.gru import GRUParams
from lstm_jax.cells.lstm import LSTMState
from lstm_jax.cells.vanilla import VANILLA
from tests import oracle

T, B, D, H = 5, 2, 4, 3


def random(rng, *shape):
    return jnp.asarray(rng.normal(size=shape))


def make_inputs(rng, ids, kind=LSTMState, widths=None):
    """An initial state, what the layer reads, what multiplies it, and where lanes start afresh.
    `widths`: of the state's fields; None: H each."""
    state = kind(*(random(rng, B, n) for n in widths or [H] * len(kind._fields)))
    x = jnp.asarray(rng.integers(D, size=(T, B))) if ids else random(rng, T, B, D)
    resets_TxB = np.zeros((T, B), bool)
    resets_TxB[2, 1] = resets_TxB[3, 0] = True
    return state, x, jnp.asarray(rng.uniform(0.5, 1.5, size=(B, D))), jnp.asarray(resets_TxB)


def loop(step, state, x, mask_BxD, resets_TxB, lengths_B=None, reverse=False):
    """Every field of the final state, and the outputs. `step` is (*fields, x, t, lane) -> fields,
    of one lane; each lane is read by itself, and no further than its length."""
    final, x, mask_BxD = [np.array(s) for s in state], np.array(x), np.array(mask_BxD)
    outputs = np.zeros((T, *final[0].shape))
    for lane in range(B):
        fields = [leaf[lane] for leaf in final]
        length = T if lengths_B is None else int(lengths_B[lane])
        for t in reversed(range(length)) if reverse else range(length):
            # A mark stands between two steps, before the later one, whichever is read first.
            between = t + 1 if reverse else t
            if between < length and resets_TxB[between, lane]:
                fields = [np.zeros(len(field)) for field in fields]
            seen = x[t, lane]
            if x.ndim == 2:
                seen = np.array([float(d == seen) for d in range(D)])
            seen = [m * value for m, value in zip(mask_BxD[lane], seen, strict=True)]
            fields = step(*fields, seen, t, lane)
            outputs[t, lane] = fields[0]
        for leaf, field in zip(final, fields, strict=True):
            leaf[lane] = field
    return *final, outputs


def compare(layer, params, step, inputs, **options):
    """Fails where `layer` is not the loop of `step`."""
    state, x, mask_BxD, resets_TxB = inputs
    final, outputs = layer(params, state, x, mask_BxD=mask_BxD, resets_TxB=resets_TxB, **options)
    wanted = loop(step, *inputs)
    for found, want in zip((*final, outputs), wanted, strict=True):
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


def make_gru(rng):
    return GRUParams(*(random(rng, *s) for s in ((D, 3 * H), (H, 3 * H), (3 * H,), (H,))))


def gru(params):
    """PyTorch's documented GRU: reset, update, new; the new gate's recurrent share is reset after
    the product. `b` is all of the input's biases and those of the recurrent r and z."""
    W, U, b, b_n = (np.array(leaf) for leaf in params)

    def step(h, x, *_):
        a, s, new = affine(x, W), affine(h, U), []
        for n in range(H):
            r = oracle.sigmoid(a[n] + s[n] + b[n])
            z = oracle.sigmoid(a[H + n] + s[H + n] + b[H + n])
            candidate = math.tanh(a[2 * H + n] + b[2 * H + n] + r * (s[2 * H + n] + b_n[n]))
            new.append((1 - z) * candidate + z * h[n])
        return (new,)

    return step


def make_vanilla(rng, name):
    """Random parameters of a variant of the vanilla LSTM, in the shapes that it begins with."""
    params = jax.eval_shape(lambda: VANILLA[name].init(jax.random.key(0), D, H))
    return jax.tree.map(lambda leaf: random(rng, *leaf.shape), params)


# What a variant of Greff et al. 2017 has for a gate, or for tanh.
FIXED = {"no_input_gate": "i", "no_forget_gate": "f", "no_output_gate": "o"}
LINEAR = {"no_input_activation": "g", "no_output_activation": "h"}


def vanilla(name, params):
    """Greff et al. 2017, section 2 and appendix A.3: i and f see the cell before, o the new one."""
    leaves = {key: np.array(leaf) for key, leaf in params._asdict().items()}
    missing = {"coupled_peephole": "i", **FIXED}.get(name, "")
    blocks = [block for block in "ifgo" if block != missing]

    def squash(what, value):
        return value if LINEAR.get(name) == what else math.tanh(value)

    def step(h, c, *others):
        *gates, x, _, _ = others
        z = np.array(affine(x, leaves["W"])) + affine(h, leaves["U"]) + leaves["b"]
        z = {block: z[k * H : (k + 1) * H] for k, block in enumerate(blocks)}
        if gates:
            shares = affine(np.concatenate(gates), leaves["R"])
            for k, gate in enumerate("ifo"):
                z[gate] = z[gate] + shares[k * H : (k + 1) * H]

        def gate(of, n, cell):
            if of == missing:
                return 1.0
            peephole = leaves[f"p_{of}"][n] if f"p_{of}" in leaves else 0
            return oracle.sigmoid(z[of][n] + peephole * cell)

        new = {key: [] for key in "hcifo"}
        for n in range(H):
            f = gate("f", n, c[n])
            i = 1 - f if name == "coupled_peephole" else gate("i", n, c[n])
            new["c"].append(f * c[n] + i * squash("g", z["g"][n]))
            o = gate("o", n, new["c"][n])
            new["h"].append(o * squash("h", new["c"][n]))
            for key, value in zip("ifo", (i, f, o), strict=True):
                new[key].append(value)
        return tuple(new[key] for key in ("hcifo" if gates else "hc"))

    return step


def make_elman(rng):
    return ElmanParams(random(rng, D, H), random(rng, H, H), random(rng, H))


def elman(params):
    """Elman 1990: each unit sees the input and all units one step before."""
    W, U, b = (np.array(leaf) for leaf in params)

    def step(h, x, *_):
        a, s = affine(x, W), affine(h, U)
        return ([math.tanh(a[n] + s[n] + float(b[n])) for n in range(H)],)

    return step


def make_peephole(rng):
    return make_vanilla(rng, "peephole")


def peephole(params):
    return vanilla("peephole", params)
