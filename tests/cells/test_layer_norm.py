"""The layer-normalised LSTM against loops over lanes, steps and units."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells import layer_norm
from lstm_jax.cells.layer_norm import LayerNormParams, init_layer_norm
from lstm_jax.cells.lstm import init_lstm
from lstm_jax.layer import unroll
from tests import oracle
from tests.loops import D, H, affine, compare, make_inputs, random


def make_layer_norm(rng):
    shapes = [(D, 4 * H), (H, 4 * H), (4 * H,), (4 * H,), (4 * H,), (H,), (H,)]
    return LayerNormParams(*(random(rng, *shape) for shape in shapes))


def normalized(a):
    mean = sum(a) / len(a)
    variance = sum((x - mean) ** 2 for x in a) / len(a)
    return [(x - mean) / math.sqrt(variance + 1e-5) for x in a]


def layer_normalized(params):
    W, U, *vectors = (np.array(leaf) for leaf in params)
    b, gain_x, gain_h, gain_c, shift_c = (vector.tolist() for vector in vectors)

    def step(h, c, x, *_):
        from_x, from_h = normalized(affine(x, W)), normalized(affine(h, U))
        z = [gain_x[n] * from_x[n] + gain_h[n] * from_h[n] + b[n] for n in range(4 * H)]
        new_c = [
            oracle.sigmoid(z[H + n]) * c[n] + oracle.sigmoid(z[n]) * math.tanh(z[2 * H + n])
            for n in range(H)
        ]
        scaled = [gain_c[n] * a + shift_c[n] for n, a in enumerate(normalized(new_c))]
        return [oracle.sigmoid(z[3 * H + n]) * math.tanh(scaled[n]) for n in range(H)], new_c

    return step


@pytest.mark.parametrize("ids", [False, True])
def test_unrolled_it_is_the_loop(ids, x64, rng):
    params = make_layer_norm(rng)
    compare(unroll, params, layer_normalized(params), make_inputs(rng, ids))


@pytest.mark.parametrize("leaf", LayerNormParams._fields)
def test_the_comparison_notices_a_leaf_that_is_not_read(leaf, x64, rng):
    params = make_layer_norm(rng)
    without = params._replace(**{leaf: jnp.zeros_like(getattr(params, leaf))})
    with pytest.raises(AssertionError):
        compare(unroll, without, layer_normalized(params), make_inputs(rng, ids=False))


def gate_by_gate(x):
    parts = jnp.split(x, 4 if x.shape[-1] == 4 * H else 1, axis=-1)
    return jnp.concatenate([jax.nn.standardize(part) for part in parts], axis=-1)


@pytest.mark.parametrize("mutant", [gate_by_gate, lambda x: x - x.mean(-1, keepdims=True)])
def test_the_comparison_notices_another_normalization(mutant, x64, rng, monkeypatch):
    params = make_layer_norm(rng)
    monkeypatch.setattr(layer_norm, "normalize", mutant)
    with pytest.raises(AssertionError):
        compare(unroll, params, layer_normalized(params), make_inputs(rng, ids=False))


@pytest.mark.parametrize("leaf", ["W", "U"])
def test_the_size_of_a_matrix_does_not_matter(leaf, x64, rng):
    """Up to the epsilon, which next to weights of 1000 is nothing; the state starts nonzero."""
    params, (state, x, _, _) = make_layer_norm(rng), make_inputs(rng, ids=False)
    params = params._replace(**{leaf: 1000 * getattr(params, leaf)})
    larger = params._replace(**{leaf: 7 * getattr(params, leaf)})
    found, wanted = unroll(larger, state, x), unroll(params, state, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), found, wanted)


def test_an_offset_common_to_all_gates_does_not_matter(x64, rng):
    params, (state, x, _, _) = make_layer_norm(rng), make_inputs(rng, ids=False)
    shifted = params._replace(W=params.W + random(rng, D, 1), U=params.U + random(rng, H, 1))
    found, wanted = unroll(shifted, state, x), unroll(params, state, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, wanted)


@pytest.mark.parametrize("size", [1.0, 33.3, 1e3])
def test_a_vector_of_equals_is_normalized_to_nearly_nothing(size):
    """In float32 rounding must not make its variance negative."""
    found = layer_norm.normalize(jnp.full(7, size))
    assert jnp.isfinite(found).all() and jnp.abs(found).max() < 0.1


def test_it_begins_as_the_lstm_with_gains_of_one():
    key = jax.random.key(0)
    found = init_layer_norm(key, D, H, forget_bias=1.5, input_bound=4.0)
    cell = init_lstm(key, D, H, forget_bias=1.5, input_bound=4.0)
    for leaf, wanted in zip(found, cell, strict=False):
        np.testing.assert_array_equal(leaf, wanted)
    for gain in (found.gain_x, found.gain_h, found.gain_c):
        assert (gain == 1).all()
    assert found.gain_x.shape == found.gain_h.shape == (4 * H,) and found.gain_c.shape == (H,)
    assert not found.shift_c.any()
    np.testing.assert_array_equal(init_layer_norm(key, D, H).b, init_lstm(key, D, H).b)
    buffers = {leaf.unsafe_buffer_pointer() for leaf in found}
    assert len(buffers) == len(found)  # each may be donated
