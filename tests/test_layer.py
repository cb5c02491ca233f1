"""The unrolled layer against a forward pass that nobody here wrote: JAX's cuDNN-convention one."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from lstm_jax.bptt import bptt_layer
from lstm_jax.cell import LSTMParams, LSTMState
from lstm_jax.layer import unroll

T, B, D, H = 7, 3, 4, 5


def lstm_ref(params, state, x_TxBxD):
    """`jax.experimental.rnn.lstm_ref` with our parameters: batch first, transposed weights, two
    biases of which one is zero."""
    zero = jnp.zeros_like(params.b)
    outputs, h, c = rnn.lstm_ref(
        jnp.swapaxes(x_TxBxD, 0, 1),
        state.h[None],
        state.c[None],
        {0: params.W.T},
        {0: params.U.T},
        {0: params.b},
        {0: zero},
        jnp.full(B, T, jnp.int32),
        D,
        H,
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
    )
    return LSTMState(h[0], c[0]), jnp.swapaxes(outputs, 0, 1)


def compare(layer, x64, rng):
    params = LSTMParams(
        *map(
            jnp.asarray,
            (rng.normal(size=(D, 4 * H)), rng.normal(size=(H, 4 * H)), rng.normal(size=4 * H)),
        )
    )
    state = LSTMState(*map(jnp.asarray, rng.normal(size=(2, B, H))))
    x = jnp.asarray(rng.normal(size=(T, B, D)))
    (final, outputs), (wanted, wanted_outputs) = layer(params, state, x), lstm_ref(params, state, x)
    np.testing.assert_allclose(outputs, wanted_outputs, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(final.h, wanted.h, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(final.c, wanted.c, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("layer", [unroll, bptt_layer])
def test_the_layer_is_cudnns(layer, x64, rng):
    compare(layer, x64, rng)


def test_the_comparison_notices_another_gate_order(x64, rng):
    def permuted(params, state, x):
        def swap(a):
            i, f, g, o = jnp.split(a, 4, axis=-1)
            return jnp.concatenate([i, f, o, g], axis=-1)

        return unroll(LSTMParams(*map(swap, params)), state, x)

    with pytest.raises(AssertionError):
        compare(permuted, x64, rng)
