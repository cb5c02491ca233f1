"""Derivatives carried forward in time: with weights that stand still they are the truncated
gradient by hand and by autodiff, and with weights that move the paper's algorithm in loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.support.truncated_rtrl import (
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
from tests.experiments.blocks_in_loops import Network

T, L, D, K = 9, 3, 7, 5


@pytest.fixture
def problem(x64, rng):
    """Weights, inputs and targets of three networks that have nothing to do with each other."""
    shapes = jax.eval_shape(lambda: init_weights(jax.random.split(jax.random.key(0), L), D, K))
    weights = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
    x_TxDxL, target_TxKxL = rng.normal(size=(T, D, L)), rng.integers(2, size=(T, K, L))
    return weights, jnp.asarray(x_TxDxL), jnp.asarray(target_TxKxL, float)


@partial(jax.jit, static_argnames="held")
def learn(problem, held, rate):
    """The weights after a stream, the sum of its gradients, and its outputs."""

    def step(carried, now):
        (weights, memory, partials, total), (x, target) = carried, now
        after, units = advance(weights, memory, x, held)
        partials = carry(memory, partials, units, held)
        y = read_out(weights, after.h, x)
        found = gradient(weights, partials, units, after.h, x, y, target)
        weights = jax.tree.map(lambda w, dw: w - rate * dw, weights, found)
        return (weights, after, partials, jax.tree.map(jnp.add, total, found)), y

    weights, *stream = problem
    zero = jax.tree.map(jnp.zeros_like, weights)
    start = weights, init_memory(L), init_partials(D, L), zero
    (weights, _, _, total), y_TxKxL = jax.lax.scan(step, start, tuple(stream))
    return weights, total, y_TxKxL


def layer_of(one):
    """One lane's weights as the cell has them."""
    W = jnp.concatenate([one.i, one.f, one.o, jnp.pad(one.g, ((0, 1), (0, 0)))], axis=1)
    return ForgettingBlockParams(W[:D], W[D : D + CELLS], W[-1]), one.V


def weights_of(layer, V):
    W = jnp.concatenate([layer.W, layer.U, layer.b[None]])
    i, f, o, g = jnp.split(W, np.array([1, 2, 3]) * BLOCKS, axis=1)
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

    def of_lane(weights, x_TxD, target_TxK):
        return weights_of(*oracle(*layer_of(weights), x_TxD, target_TxK))

    wanted = jax.jit(jax.vmap(of_lane, -1, -1))(weights, x_TxDxL, target_TxKxL)
    for got, want in zip(found, wanted, strict=True):
        assert np.abs(want).max() > 1e-3
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("held", [None, 1.0, 0.9])
def test_each_update_is_of_the_weights_that_the_last_one_left(held, problem):
    weights, *stream = problem
    after, _, outputs = learn(problem, held, 0.5)
    for lane in range(L):
        network = Network((leaf[..., lane] for leaf in weights), held)
        for t, (x, target) in enumerate(zip(*stream, strict=True)):
            y = network.read(x[:, lane])
            network.learn(y, target[:, lane], 0.5)
            np.testing.assert_allclose(outputs[t, :, lane], y, rtol=1e-9)
        for got, want in zip(after, network.weights, strict=True):
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
