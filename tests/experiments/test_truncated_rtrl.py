"""Derivatives carried forward in time: with weights that stand still they are the truncated
gradient by hand and by autodiff, and with weights that move the paper's algorithm in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.support.truncated_rtrl import (
    BLOCK_SIZE,
    BLOCKS,
    CELLS,
    Weights,
    advance,
    carry,
    gradient,
    init_memory,
    init_partials,
    init_weights,
    read_out,
)
from lstm_jax.cells.cell import Marks
from lstm_jax.cells.forgetting_blocks import FORGETTING_BLOCKS, ForgettingBlockParams
from lstm_jax.cells.passes import scan_cell
from tests.oracle import sigmoid

T, L, D, K = 9, 3, 7, 5


@pytest.fixture
def problem(x64, rng):
    """Weights, inputs and targets of three networks that have nothing to do with each other."""
    shapes = jax.eval_shape(lambda: init_weights(jax.random.split(jax.random.key(0), L), D, K))
    weights = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
    x_TxDxL, target_TxKxL = rng.normal(size=(T, D, L)), rng.integers(2, size=(T, K, L))
    return weights, jnp.asarray(x_TxDxL), jnp.asarray(target_TxKxL, float)


def learn(problem, held, rate):
    """The weights after a stream, the sum of its gradients, and its outputs."""
    weights, *stream = problem
    memory, partials = jax.tree.map(
        lambda leaf: leaf.astype(float), (init_memory(L), init_partials(D, L))
    )
    total, outputs = jax.tree.map(jnp.zeros_like, weights), []
    for x, target in zip(*stream, strict=True):
        after, units = advance(weights, memory, x, held)
        partials = carry(memory, partials, units, held)
        outputs.append(read_out(weights, after.h, x))
        found = gradient(weights, partials, units, after.h, x, outputs[-1], target)
        memory, total = after, jax.tree.map(jnp.add, total, found)
        weights = jax.tree.map(lambda w, dw: w - rate * dw, weights, found)
    return weights, total, jnp.stack(outputs)


def layer_of(weights, lane):
    """One lane's weights as the cell has them."""
    one = jax.tree.map(lambda leaf: leaf[..., lane], weights)
    W = jnp.concatenate([one.i, one.f, one.o, jnp.pad(one.g, ((0, 1), (0, 0)))], axis=1)
    return ForgettingBlockParams(W[:D], W[D : D + CELLS], W[-1]), one.V


def weights_of(layer, V):
    W = np.concatenate([layer.W, layer.U, layer.b[None]])
    i, f, o, g = np.split(W, [BLOCKS, 2 * BLOCKS, 3 * BLOCKS], axis=1)
    return Weights(i, f, o, g[:-1], V)


def truncated_by_autodiff(layer, V, x_TxD, target_TxK):
    def loss(layer, V):
        state, x_Tx1xD = FORGETTING_BLOCKS.init_state(layer, 1), x_TxD[:, None]
        _, h_Tx1xC = scan_cell(
            FORGETTING_BLOCKS, layer, state, x_Tx1xD, None, Marks(), truncated=True
        )
        read = jnp.concatenate([h_Tx1xC[:, 0], x_TxD, jnp.ones((T, 1))], axis=1)
        return jnp.sum((jax.nn.sigmoid(read @ V) - target_TxK) ** 2) / 2

    return jax.grad(loss, (0, 1))(layer, V)


def truncated_by_hand(layer, V, x_TxD, target_TxK):
    passes, state = FORGETTING_BLOCKS.by_hand["rows"], FORGETTING_BLOCKS.init_state(layer, 1)
    _, h_Tx1xC, residuals = passes.forward(layer, state, x_TxD[:, None], None, Marks())
    read = jnp.concatenate([h_Tx1xC[:, 0], x_TxD, jnp.ones((T, 1))], axis=1)
    y = jax.nn.sigmoid(read @ V)
    dy_TxK = (y - target_TxK) * y * (1 - y)
    e_Tx1xC = (dy_TxK @ V[:CELLS].T)[:, None]
    dfinal = jax.tree.map(jnp.zeros_like, state)
    dlayer, _, _ = passes.backward(layer, residuals, None, Marks(), e_Tx1xC, dfinal, truncated=True)
    return dlayer, read.T @ dy_TxK


@pytest.mark.parametrize("oracle", [truncated_by_hand, truncated_by_autodiff])
def test_with_weights_that_stand_still_it_is_the_truncated_gradient(oracle, problem):
    weights, x_TxDxL, target_TxKxL = problem
    _, found, _ = learn(problem, None, 0.0)
    for lane in range(L):
        wanted = oracle(*layer_of(weights, lane), x_TxDxL[..., lane], target_TxKxL[..., lane])
        for got, want in zip(found, weights_of(*wanted), strict=True):
            assert np.abs(want).max() > 1e-3
            np.testing.assert_allclose(got[..., lane], want, rtol=1e-9, atol=1e-12)


def in_loops(weights, x_TxD, target_TxK, held, rate):
    """The paper's algorithm, unit by unit, in NumPy: what is stored of the past is ds/dw."""
    W_i, W_f, W_o, W_g, V = (np.array(leaf) for leaf in weights)
    s, h = np.zeros(CELLS), np.zeros(CELLS)
    P_i, P_f = np.zeros((2, CELLS, D + CELLS + 1))
    P_g = np.zeros((CELLS, D + CELLS))
    outputs = []
    for x, target in zip(x_TxD, target_TxK, strict=True):
        u, new_h, f_of, q_of, o_of = np.concatenate([x, h, [1.0]]), np.zeros(CELLS), {}, {}, {}
        for block in range(BLOCKS):
            i, f, o = (sigmoid(float(u @ W[:, block])) for W in (W_i, W_f, W_o))
            f = f if held is None else held
            for c in range(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE):
                p = sigmoid(float(u[:-1] @ W_g[:, c]))
                g = 4 * p - 2
                P_i[c] = f * P_i[c] + g * i * (1 - i) * u
                P_f[c] = f * P_f[c] + (0 if held is not None else s[c] * f * (1 - f)) * u
                P_g[c] = f * P_g[c] + i * 4 * p * (1 - p) * u[:-1]
                s[c] = f * s[c] + i * g
                f_of[c], o_of[c], q_of[c] = f, o, 2 * sigmoid(s[c]) - 1
                new_h[c] = o * q_of[c]
        v = np.concatenate([new_h, x, [1.0]])
        y = np.array([sigmoid(z) for z in v @ V])
        outputs.append(y)
        error = (target - y) * y * (1 - y)
        arrives = V[:CELLS] @ error
        V += rate * np.outer(v, error)
        for c in range(CELLS):
            block, o, q = c // BLOCK_SIZE, o_of[c], q_of[c]
            e_s = arrives[c] * o * 2 * sigmoid(s[c]) * (1 - sigmoid(s[c]))
            W_o[:, block] += rate * arrives[c] * q * o * (1 - o) * u
            W_i[:, block] += rate * e_s * P_i[c]
            W_f[:, block] += rate * e_s * P_f[c]
            W_g[:, c] += rate * e_s * P_g[c]
        h = new_h
    return Weights(W_i, W_f, W_o, W_g, V), np.array(outputs)


@pytest.mark.parametrize("held", [None, 1.0, 0.9])
def test_each_update_is_of_the_weights_that_the_last_one_left(held, problem):
    weights, *stream = problem
    after, _, outputs = learn(problem, held, 0.5)
    for lane in range(L):
        one = jax.tree.map(lambda leaf, lane=lane: leaf[..., lane], weights)
        wanted, y_TxK = in_loops(one, *(np.array(a[..., lane]) for a in stream), held, 0.5)
        np.testing.assert_allclose(outputs[..., lane], y_TxK, rtol=1e-9)
        for got, want in zip(after, wanted, strict=True):
            np.testing.assert_allclose(got[..., lane], want, rtol=1e-8, atol=1e-12)
    assert bool((after.f != weights.f).any()) == (held is None)


def test_the_network_is_the_papers():
    """Its 424 weights, and where they start."""
    weights = init_weights(jax.random.split(jax.random.key(0), 200), 7, 7)
    assert sum(leaf[..., 0].size for leaf in weights) == 424
    bias_N = np.array([0.5, 1, 1.5, 2])
    for gates, sign in ((weights.i, -1), (weights.f, 1), (weights.o, -1)):
        np.testing.assert_array_equal(gates[-1], np.tile(sign * bias_N[:, None], 200))
    drawn = np.concatenate(
        [np.ravel(leaf[:-1]) for leaf in weights[:3]] + [np.ravel(leaf) for leaf in weights[3:]]
    )
    assert 0.199 < drawn.max() <= 0.2 and -0.2 <= drawn.min() < -0.199
    assert abs(drawn.mean()) < 0.002 and abs(drawn.std() - 0.2 / 3**0.5) < 0.002
    assert (weights.V[..., 0] != weights.V[..., 1]).all()
