"""The whole model, forward, against the NumPy oracle; dropout masks; splitting in time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.lstm import LSTMState
from lstm_jax.config import ModelConfig
from lstm_jax.masks import sample_masks
from lstm_jax.model import Masks, ModelParams, apply, count_parameters, init_carry, init_model
from tests import oracle

V, T, B = 6, 5, 3


def make_case(rng, **model):
    """Random parameters, a nonzero carry and ids, in the default float type."""
    config = ModelConfig(hidden_size=4, **model)
    params = init_model(jax.random.key(0), config, V)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    carry = tuple(
        LSTMState(jnp.asarray(rng.normal(size=s.h.shape)), jnp.asarray(rng.normal(size=s.c.shape)))
        for s in init_carry(params, B)
    )
    return config, params, carry, rng.integers(V, size=(T, B))


def compare(found, wanted):
    (logits, carry), (wanted_logits, wanted_carry) = found, wanted
    np.testing.assert_allclose(logits, wanted_logits, rtol=1e-11, atol=1e-11)
    for state, (h, c) in zip(carry, wanted_carry, strict=True):
        np.testing.assert_allclose(state.h, h, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(state.c, c, rtol=1e-11, atol=1e-11)


MODELS = [{"num_layers": 1}, {"num_layers": 3}, {"num_layers": 2, "embedding_size": 5}]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("with_resets", [False, True])
def test_apply_equals_the_oracle(model, dropout, with_resets, x64, rng):
    rates = {"dropout": 0.4, "input_dropout": 0.3} if dropout else {}
    config, params, carry, inputs = make_case(rng, **model, **rates)
    masks = sample_masks(jax.random.key(1), params, config, B, 7)
    assert (masks is not None) == dropout
    resets = rng.random((T, B)) < 0.4 if with_resets else None
    found = apply(
        params, carry, jnp.asarray(inputs), masks, None if resets is None else jnp.asarray(resets)
    )
    compare(found, oracle.language_model(params, carry, inputs, masks, resets))


def test_the_comparison_notices_a_missing_mask_and_a_missing_reset(x64, rng):
    config, params, carry, inputs = make_case(rng, num_layers=2, dropout=0.5, input_dropout=0.5)
    masks = sample_masks(jax.random.key(1), params, config, B, 7)
    resets = np.zeros((T, B), bool)
    resets[2, 1] = True
    wanted = oracle.language_model(params, carry, inputs, masks, resets)
    ids, marks = jnp.asarray(inputs), jnp.asarray(resets)
    wrong_reset = marks.at[0, 0].set(True)
    mutants = [(masks._replace(readout=None), marks), (masks, None), (masks, wrong_reset)]
    for place in range(2):
        layers = tuple(None if n == place else mask for n, mask in enumerate(masks.layers))
        mutants.append((Masks(layers, masks.readout), marks))
    for mutant in mutants:
        with pytest.raises(AssertionError):
            compare(apply(params, carry, ids, *mutant), wanted)


def test_splitting_a_sequence_anywhere_equals_the_whole(x64, rng):
    _, params, carry, inputs = make_case(rng, num_layers=2)
    ids = jnp.asarray(inputs)
    logits, final = apply(params, carry, ids)
    for t in range(1, T):
        first, between = apply(params, carry, ids[:t])
        second, end = apply(params, between, ids[t:])
        np.testing.assert_allclose(jnp.concatenate([first, second]), logits, rtol=1e-13, atol=1e-13)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), end, final)


def test_masks_keep_the_mean_and_are_drawn_apart(rng):
    config, params, _, _ = make_case(rng, num_layers=2, dropout=0.25, input_dropout=0.5)
    masks = sample_masks(jax.random.key(0), params, config, 20000, 7)
    for mask, rate in zip([*masks.layers, masks.readout], [0.5, 0.25, 0.25], strict=True):
        assert set(np.unique(mask).tolist()) == {0.0, np.float32(1 / (1 - rate))}
        assert abs(float(mask.mean()) - 1) < 0.02
    assert not np.array_equal(masks.layers[1], masks.readout)


def test_no_rate_no_masks(rng):
    config, params, _, _ = make_case(rng)
    assert sample_masks(jax.random.key(0), params, config, B, 7) is None


def test_shapes_names_and_counts():
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=8, num_layers=2), V)
    assert isinstance(params, ModelParams)
    assert count_parameters(params) == {
        "layers[0].W": V * 32,
        "layers[0].U": 8 * 32,
        "layers[0].b": 32,
        "layers[1].W": 8 * 32,
        "layers[1].U": 8 * 32,
        "layers[1].b": 32,
        "readout.W": 8 * V,
        "readout.b": V,
    }


def test_the_notebooks_initial_weights():
    config = ModelConfig(hidden_size=100, init="notebook", forget_bias=0.0)
    params = init_model(jax.random.key(0), config, 65)
    for weights in params.layers[0][:2]:
        means = np.asarray(weights).reshape(-1, 4, 100).mean(axis=(0, 2))
        np.testing.assert_allclose(means, [0.5, 0.5, 0.0, 0.5], atol=0.01)
        deviations = np.asarray(weights).reshape(-1, 4, 100).std(axis=(0, 2))
        np.testing.assert_allclose(deviations, 0.1, atol=0.005)
    assert not params.layers[0].b.any() and not params.readout.b.any()
    assert abs(float(params.readout.W.std()) - 0.1) < 0.005


def test_the_derivative_is_the_whole_one_unless_it_is_to_be_truncated(x64, rng):
    _, params, carry, inputs = make_case(rng)

    def program(**how):
        gradient = jax.grad(lambda params: apply(params, carry, inputs, **how)[0].sum())
        return str(jax.make_jaxpr(gradient)(params))

    assert program() == program(truncated=False) != program(truncated=True)


@pytest.mark.parametrize("embedding_size, first", [(0, 4.0), (9, 1 / 8)])
def test_only_what_reads_ids_begins_with_large_input_weights(embedding_size, first):
    config = ModelConfig(hidden_size=64, num_layers=2, embedding_size=embedding_size)
    params = jax.jit(lambda: init_model(jax.random.key(0), config, V))()
    for layer, bound in zip(params.layers, (first, 1 / 8), strict=True):
        assert 0.95 * bound < float(jnp.abs(layer.W).max()) <= bound
        assert 0.95 / 8 < float(jnp.abs(layer.U).max()) <= 1 / 8
