"""Learning at every step: with a small rate it is the truncated gradient; else NumPy's loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.support.networks_1997 import Network, init_network, learns_of
from experiments.support.online import learn_online
from experiments.support.trials import Recipe, gradient_and_outputs
from lstm_jax.data.batches import Batch
from lstm_jax.heads import HEADS

STEPS = 7
BLOCKS = Network(2, 2, 3, 2, 0.5, (1.0,), "gates")
CAROUSEL = Network(1, 2, 3, 2, 0.5, (1.0,), cell="carousel")


def recipe_of(network, rate, head="sigmoid_squared"):
    return Recipe(
        init=lambda key: init_network(key, network)[0],
        learns=learns_of(network),
        head=HEADS[head],
        rule=optax.sgd(rate),
        truncated=True,
    )


def sequence(live=STEPS, seed=0):
    """Numbers, of which each step but the second has a target."""
    rng = np.random.default_rng(seed)
    t = np.arange(STEPS)[:, None]
    return Batch(
        rng.normal(size=(STEPS, 1, 3)),
        rng.uniform(size=(STEPS, 1, 2)).round(),
        mask=(t < live) & (t != 1),
        resets=t == 0,
        live=t < live,
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("network", [BLOCKS, CAROUSEL], ids=["blocks", "carousel"])
@pytest.mark.parametrize("live", [STEPS, 5])
def test_with_a_small_rate_it_is_the_truncated_gradient(network, live):
    rate, batch = 1e-7, sequence(live)
    recipe = recipe_of(network, rate)
    params = recipe.init(jax.random.key(2))
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    after, _, outputs = learn_online(recipe, params, recipe.rule.init(params), batch)
    gradient, expected = gradient_and_outputs(recipe, params, batch)
    wanted = jax.tree.map(jnp.multiply, gradient, recipe.learns)
    found = jax.tree.map(lambda old, new: (old - new) / rate, params, after)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, wanted)
    np.testing.assert_allclose(outputs[:live], expected[:live], rtol=1e-5)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def online_in_loops(W, V, batch, rate):
    """Two cells with an input gate each, and outputs that learn from the cross-entropy."""
    W, V, C = W.copy(), V.copy(), 2
    s, ds_dW, outputs = np.zeros(C), np.zeros((C, *W.shape)), []
    for x, target, counts in zip(batch.inputs[:, 0], batch.targets[:, 0], batch.mask, strict=True):
        i, g = sigmoid(x @ W[:, :C]), sigmoid(x @ W[:, C:])
        s = s + i * g
        for c in range(C):
            ds_dW[c, :, c] += g[c] * i[c] * (1 - i[c]) * x
            ds_dW[c, :, C + c] += i[c] * g[c] * (1 - g[c]) * x
        read = np.concatenate([s, x])
        outputs.append(read @ V)
        error = (sigmoid(read @ V) - target) * counts
        ds = V[:C] @ error
        V -= rate * np.outer(read, error)
        W -= rate * np.tensordot(ds, ds_dW, 1)
    return W, V, np.array(outputs)


@pytest.mark.usefixtures("x64")
def test_each_update_is_of_the_weights_that_the_last_one_left():
    recipe, batch = recipe_of(CAROUSEL, 0.7, "bernoulli"), sequence()
    params = recipe.init(jax.random.key(3))
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    after, _, outputs = learn_online(recipe, params, recipe.rule.init(params), batch)
    start = np.asarray(params.layers[0].W), np.asarray(params.readout.W)
    W, V, expected = online_in_loops(*start, batch, 0.7)
    np.testing.assert_allclose(after.layers[0].W, W, rtol=1e-9)
    np.testing.assert_allclose(after.readout.W, V, rtol=1e-9)
    np.testing.assert_allclose(outputs[:, 0], expected, rtol=1e-9)
    assert abs(W - start[0]).max() > 0.01
