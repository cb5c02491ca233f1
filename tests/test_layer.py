"""The unrolled layer against a forward pass that nobody here wrote: JAX's cuDNN-convention one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from lstm_jax.cells.gru import GRUState
from lstm_jax.cells.lstm import LSTMParams, LSTMState, init_lstm, init_state
from lstm_jax.gradients.bptt_layer import bptt_layer
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


@pytest.mark.parametrize("layer", [unroll, bptt_layer])
def test_what_does_not_fit_is_said_in_one_line(layer):
    params = LSTMParams(jnp.ones((D, 4 * H)), jnp.ones((H, 4 * H)), jnp.ones(4 * H))
    h = jnp.zeros((B, H))
    for x, h_BxH, resets_TxB in (
        (jnp.ones((B, T, D)), h, None),  # the lanes first
        (jnp.ones((T, B, D + 1)), h, None),
        (jnp.ones((T, D)), jnp.zeros(H), None),  # no lanes
        (jnp.ones(T, int), jnp.zeros(H), None),
        (jnp.ones((T, B, D), int), h, None),
        (jnp.ones((T, B, D)), jnp.zeros((1, H)), None),  # would broadcast
        (jnp.ones((T, B, D)), jnp.zeros((B, H + 1)), None),
        (jnp.ones((T, B, D)), h, jnp.zeros((B, T), bool)),
        (jnp.ones((T, B, D)), h, jnp.zeros(T, bool)),
    ):
        with pytest.raises(ValueError, match=r"^x_TxBxD [^\n]*$") as error:
            layer(params, LSTMState(h_BxH, h_BxH), x, resets_TxB=resets_TxB)
        assert str(x.shape) in str(error.value) and f"h_BxH {h_BxH.shape}" in str(error.value)


@pytest.mark.parametrize("layer", [unroll, bptt_layer])
@pytest.mark.parametrize("leaf, cut", [("b", 1), ("W", 1), ("U", 1), ("W", H)])
def test_parameters_that_would_broadcast_or_do_not_fit(layer, leaf, cut):
    params = LSTMParams(jnp.ones((D, 4 * H)), jnp.ones((H, 4 * H)), jnp.ones(4 * H))
    params = params._replace(**{leaf: getattr(params, leaf)[..., :cut]})
    state = LSTMState(jnp.zeros((B, H)), jnp.zeros((B, H)))
    with pytest.raises(ValueError, match=rf"^x_TxBxD [^\n]* {leaf} \([^\n]*$"):
        layer(params, state, jnp.ones((T, B, D)))


@pytest.mark.parametrize("layer", [unroll, bptt_layer])
def test_no_steps_at_all(layer, x64, rng):
    """The final state is the initial one, and so is its gradient."""
    params = LSTMParams(jnp.ones((D, 4 * H)), jnp.ones((H, 4 * H)), jnp.ones(4 * H))
    state = LSTMState(*map(jnp.asarray, rng.normal(size=(2, B, H))))

    def loss(params, state, x):
        final, h_TxBxH = layer(params, state, x)
        return jnp.sum(final.h * state.c) + jnp.sum(h_TxBxH)

    value, (dparams, dstate) = jax.value_and_grad(loss, (0, 1))(params, state, jnp.ones((0, B, D)))
    np.testing.assert_allclose(value, np.vdot(state.h, state.c), rtol=1e-12)
    assert not any(leaf.any() for leaf in jax.tree.leaves(dparams))
    np.testing.assert_array_equal(dstate.h, state.c)
    np.testing.assert_array_equal(dstate.c, state.h)


def test_the_comparison_notices_another_gate_order(x64, rng):
    def permuted(params, state, x):
        def swap(a):
            i, f, g, o = jnp.split(a, 4, axis=-1)
            return jnp.concatenate([i, f, o, g], axis=-1)

        return unroll(LSTMParams(*map(swap, params)), state, x)

    with pytest.raises(AssertionError):
        compare(permuted, x64, rng)


@pytest.mark.parametrize("layer", [unroll, bptt_layer])
def test_the_derivative_is_the_whole_one_unless_it_is_to_be_truncated(layer, x64, rng):
    """By central differences, along all parameters at once."""
    params = LSTMParams(*(jnp.asarray(rng.normal(size=s)) for s in ((D, 4 * H), (H, 4 * H), 4 * H)))
    state = LSTMState(*map(jnp.asarray, rng.normal(size=(2, B, H))))
    x = jnp.asarray(rng.normal(size=(T, B, D)))
    loss = jax.jit(lambda params: layer(params, state, x)[1][-1].sum())
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)

    def at(offset):
        return loss(jax.tree.map(lambda p, d: p + offset * d, params, direction))

    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    found = jax.tree.map(jnp.vdot, jax.grad(loss)(params), direction)
    assert float(sum(found)) == pytest.approx(float(slope), rel=1e-7)


@pytest.mark.parametrize("layer", [unroll, bptt_layer])
def test_another_cells_state_is_refused_in_one_line(layer):
    params = init_lstm(jax.random.key(0), 2, 3)
    zero_BxH = jnp.zeros((4, 3))
    for state in ((zero_BxH, zero_BxH), GRUState(zero_BxH)):
        with pytest.raises(TypeError, match=r"^with LSTMParams goes LSTMState, not a .*$"):
            layer(params, state, jnp.zeros((5, 4, 2)))


@pytest.mark.parametrize("shape", [(4, 3), (), (4, 5, 3)])
def test_zoneout_that_does_not_fit_is_said_in_one_line(shape):
    params, share = init_lstm(jax.random.key(0), 2, 3), jnp.full(shape, 0.1)
    state = init_state(params, 4)
    with pytest.raises(ValueError, match=r"^x_TxBxD .* does not fit .*zoneout .*$"):
        unroll(params, state, jnp.zeros((5, 4, 2)), zoneout=LSTMState(share, share))
