"""DropConnect: which weights are dropped, and the gradient by those that are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import Batch
from lstm_jax.gradients import GRADIENTS
from lstm_jax.gradients.weight_drop import drop_weights, sample_weight_masks, with_weight_drop
from lstm_jax.heads import softmax
from lstm_jax.model import init_carry, init_model
from tests import oracle

V = 4


@pytest.fixture
def problem(x64, rng):
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=3, num_layers=2), V)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    ids = rng.integers(V, size=(6, 2))
    batch = Batch(jnp.asarray(ids[:-1]), jnp.asarray(ids[1:]))
    return params, init_carry(params, 2), batch


def test_as_many_are_kept_as_the_rate_says_and_the_mean_stays():
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=100, num_layers=2), V)
    masks = sample_weight_masks(jax.random.key(1), params, 0.75)
    for drawn in masks:
        mask_HxG = drawn["U"]
        assert mask_HxG.shape == (100, 400)
        assert set(np.unique(mask_HxG)) == {0.0, 4.0}
        assert float(mask_HxG.mean()) == pytest.approx(1, abs=0.05)
    assert (masks[0]["U"] != masks[1]["U"]).any()
    assert sample_weight_masks(jax.random.key(1), params, 0.0) is None


@pytest.mark.parametrize("name", ["autodiff", "bptt"])
def test_the_gradient_is_that_of_the_loss_with_weights_left_out(name, problem):
    """Against central differences of the oracle, by every weight of the first layer's U."""
    params, carry, batch = problem
    masks = sample_weight_masks(jax.random.key(2), params, 0.5)

    def loss(U_HxG):
        layers = [np.array(U_HxG), np.array(params.layers[1].U)]
        dropped = params._replace(
            layers=tuple(
                layer._replace(U=U * np.array(mask["U"]))
                for layer, U, mask in zip(params.layers, layers, masks, strict=True)
            )
        )
        logits, _ = oracle.language_model(dropped, carry, np.array(batch.inputs))
        return oracle.cross_entropy(logits, np.array(batch.targets))[0]

    (found, _), grads = with_weight_drop(GRADIENTS[name](softmax), masks)(
        params, carry, batch, None
    )
    U_HxG = np.array(params.layers[0].U)
    assert found == pytest.approx(loss(U_HxG), abs=1e-12)
    for place in np.ndindex(U_HxG.shape):
        way = np.zeros_like(U_HxG)
        way[place] = 1e-5
        slope = (loss(U_HxG + way) - loss(U_HxG - way)) / 2e-5
        assert grads.layers[0].U[place] == pytest.approx(slope, abs=1e-9)
    assert ((np.array(grads.layers[0].U) == 0) == (np.array(masks[0]["U"]) == 0)).all()


def test_only_U_is_touched(problem):
    params, _, _ = problem
    masks = sample_weight_masks(jax.random.key(2), params, 0.5)
    dropped = drop_weights(params, masks)
    for layer, before, mask in zip(dropped.layers, params.layers, masks, strict=True):
        assert (layer.W == before.W).all() and (layer.b == before.b).all()
        assert (before.U * mask["U"] == layer.U).all() and (layer.U != before.U).any()
    assert (dropped.readout.W == params.readout.W).all()
