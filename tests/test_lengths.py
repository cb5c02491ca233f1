"""Sequences of unequal length, and layers that read them backwards or both ways: each lane by
itself, cut to its length, in plain loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import layer as layers
from lstm_jax.cells.gru import GRUState
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.gradients.bptt_layer import bptt_layer
from lstm_jax.layer import BothDirections, unroll, unroll_both
from tests import oracle
from tests.loops import (
    B,
    D,
    H,
    T,
    coupled,
    gru,
    loop,
    make_coupled,
    make_gru,
    make_inputs,
    make_peephole,
    peephole,
    random,
)

LAYERS = pytest.mark.parametrize("layer", [unroll, bptt_layer])
LENGTHS = ([3, 5], [1, 4], [0, 2], [5, 5])  # of B lanes of T steps
NO_MASK = np.ones((B, D))


def make_lstm(rng):
    return LSTMParams(random(rng, D, 4 * H), random(rng, H, 4 * H), random(rng, 4 * H))


def lstm(params):
    leaves = [np.array(leaf) for leaf in params]
    return lambda h, c, x, *_: oracle.cell(*leaves, h, c, x)


CELLS = {
    "lstm": (make_lstm, lstm, LSTMState),
    "gru": (make_gru, gru, GRUState),
    "peephole": (make_peephole, peephole, LSTMState),
    "coupled": (make_coupled, coupled, LSTMState),
}


def make(name, rng, ids=False):
    """Parameters, the loop's step, and what a layer takes."""
    make_params, step, state = CELLS[name]
    params = make_params(rng)
    return params, step(params), make_inputs(rng, ids, state)


def compare(layer, params, step, inputs, lengths, **options):
    """Fails where a layer is not the loop over each lane, no further than its length."""
    state, x, _, resets_TxB = inputs
    lengths_B = None if lengths is None else jnp.asarray(lengths)
    final, outputs = layer(params, state, x, resets_TxB=resets_TxB, lengths_B=lengths_B, **options)
    wanted = loop(step, state, x, NO_MASK, resets_TxB, lengths, **options)
    for found, want in zip((*final, outputs), wanted, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)


def known(name):
    return [unroll] if name == "coupled" else [unroll, bptt_layer]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_a_lane_is_read_no_further_than_its_length(name, ids, reverse, x64, rng):
    params, step, inputs = make(name, rng, ids)
    for layer in known(name):
        compiled = jax.jit(layer, static_argnames="reverse")
        for lengths in (*LENGTHS, None):
            compare(compiled, params, step, inputs, lengths, reverse=reverse)


@LAYERS
@pytest.mark.parametrize("reverse", [False, True])
def test_a_reset_in_the_padding_or_right_before_it_is_none(reverse, layer, x64, rng):
    params, step, (state, x, mask_BxD, _) = make("lstm", rng)
    compiled = jax.jit(layer, static_argnames="reverse")
    for lane, t in np.ndindex(B, T):
        resets_TxB = jnp.zeros((T, B), bool).at[t, lane].set(True)
        inputs = state, x, mask_BxD, resets_TxB
        compare(compiled, params, step, inputs, [2, 4], reverse=reverse)


MUTANTS = {
    "of other lengths": lambda *args, lengths_B, **options: unroll(
        *args, lengths_B=lengths_B + 1, **options
    ),
    "without lengths": lambda *args, lengths_B, **options: unroll(*args, **options),
    "forwards": lambda *args, reverse, **options: unroll(*args, **options),
    "without resets": lambda *args, resets_TxB, **options: unroll(*args, **options),
    "whose resets come a step late": lambda *args, resets_TxB, **options: unroll(
        *args, resets_TxB=jnp.roll(resets_TxB, 1, axis=0), **options
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_a_layer(mutant, x64, rng):
    params, step, inputs = make("lstm", rng)
    with pytest.raises(AssertionError):
        compare(mutant, params, step, inputs, [3, 4], reverse=True)


def test_the_comparison_notices_resets_at_the_same_steps(monkeypatch, x64, rng):
    """A reset before step 2 is, read backwards, one before step 1 and not before step 2."""
    monkeypatch.setattr(layers, "flip_resets", layers.flip)
    params, step, inputs = make("lstm", rng)
    with pytest.raises(AssertionError):
        compare(unroll, params, step, inputs, None, reverse=True)


@LAYERS
def test_two_sequences_in_a_lane_read_backwards_are_each_read_by_itself(layer, x64, rng):
    params, _, (state, x, _, _) = make("lstm", rng)
    zero = jax.tree.map(jnp.zeros_like, state)
    resets_TxB = jnp.zeros((T, B), bool).at[2].set(True)
    final, outputs = layer(params, state, x, resets_TxB=resets_TxB, reverse=True)
    _, later = layer(params, state, x[2:], reverse=True)
    wanted, earlier = layer(params, zero, x[:2], reverse=True)
    assert (np.abs(outputs[:2] - layer(params, state, x, reverse=True)[1][:2]) > 1e-3).any()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        (final, outputs),
        (wanted, jnp.concatenate([earlier, later])),
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_with_zoneout_what_is_not_live_stays_too(name, reverse, x64, rng):
    params, step, (state, x, _, resets_TxB) = make(name, rng)
    zoneout = type(state)(*(0.2 * (n + 1) * jnp.ones((1, 1, 1)) for n in range(len(state))))

    def zoned_out(*args):
        before, after = args[: len(state)], step(*args)
        shares = (float(k[0, 0, 0]) for k in zoneout)
        return [
            [k * old + (1 - k) * new for old, new in zip(*field, strict=True)]
            for k, *field in zip(shares, before, after, strict=True)
        ]

    layer = partial(unroll, zoneout=zoneout)
    inputs = state, x, NO_MASK, resets_TxB
    compare(layer, params, zoned_out, inputs, [2, 4], reverse=reverse)
    with pytest.raises(AssertionError):
        compare(unroll, params, zoned_out, inputs, [2, 4], reverse=reverse)


# A loss of everything that comes out, in which outputs in the padding have weights of their own.
def loss_of(layer, weights, resets_TxB=None, lengths=None, **options):
    def loss(params, state, x):
        lengths_B = None if lengths is None else jnp.asarray(lengths)
        final, outputs = layer(
            params, state, x, resets_TxB=resets_TxB, lengths_B=lengths_B, **options
        )
        total = jnp.sum(weights * jnp.sin(outputs))
        return total + sum(jnp.sum(jnp.cos(3 * leaf)) for leaf in jax.tree.leaves(final))

    return loss


def gradient_of(*args, **options):
    return jax.jit(jax.value_and_grad(loss_of(*args, **options), (0, 1, 2)))


@LAYERS
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru", "peephole"])
def test_the_gradient_is_that_of_every_lane_by_itself(name, reverse, layer, x64, rng):
    """Autodiff of lanes that are cut, not padded; no lengths are there to be mistaken."""
    params, _, (state, x, _, resets_TxB) = make(name, rng)
    weights, lengths = random(rng, T, B, H), [3, 4]
    found, gradients = gradient_of(layer, weights, resets_TxB, lengths, reverse=reverse)(
        params, state, x
    )

    def alone(lane):
        cut, lanes = slice(lengths[lane]), slice(lane, lane + 1)
        loss = gradient_of(unroll, weights[cut, lanes], resets_TxB[cut, lanes], reverse=reverse)
        return loss(params, jax.tree.map(lambda s: s[lanes], state), x[cut, lanes])

    each = [alone(lane) for lane in range(B)]
    np.testing.assert_allclose(found, sum(value for value, _ in each), rtol=1e-13)
    dparams, dstate, dx = gradients
    assert_close(dparams, jax.tree.map(jnp.add, *(grads[0] for _, grads in each)))
    assert_close(dstate, jax.tree.map(lambda *s: jnp.concatenate(s), *(g[1] for _, g in each)))
    for lane, length in enumerate(lengths):
        assert_close(dx[:length, lane], each[lane][1][2][:, 0])
        assert not dx[length:, lane].any()


def assert_close(found, wanted, tolerance=1e-12):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        found,
        wanted,
    )


@LAYERS
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("junk", [1e6, np.inf, np.nan])
def test_what_stands_in_the_padding_moves_nothing(junk, reverse, layer, x64, rng):
    params, _, (state, x, _, resets_TxB) = make("lstm", rng)
    lengths = np.array([2, 4])
    padding_TxB = np.arange(T)[:, None] >= lengths
    gradient = gradient_of(layer, random(rng, T, B, H), resets_TxB, lengths, reverse=reverse)
    wanted = gradient(params, state, x)
    found = gradient(params, state, jnp.where(padding_TxB[..., None], junk, x))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    moved = gradient(params, state, x.at[1].add(1e-3))
    assert found[0] != moved[0]


@LAYERS
@pytest.mark.parametrize("reverse", [False, True])
def test_lanes_of_full_length_are_lanes_without_one(reverse, layer, x64, rng):
    params, _, (state, x, _, resets_TxB) = make("gru", rng)
    weights = random(rng, T, B, H)
    found, wanted = (
        gradient_of(layer, weights, resets_TxB, lengths, reverse=reverse)(params, state, x)
        for lengths in ([T, T], None)
    )
    assert_close(found, wanted, 1e-14)


@LAYERS
@pytest.mark.parametrize("reverse", [False, True])
def test_a_lane_of_length_0_keeps_its_state_and_moves_no_parameter(reverse, layer, x64, rng):
    params, _, (state, x, _, _) = make("lstm", rng)
    resets_TxB = jnp.ones((T, B), bool)
    final, outputs = layer(
        params, state, x, resets_TxB=resets_TxB, lengths_B=jnp.zeros(B, int), reverse=reverse
    )
    jax.tree.map(np.testing.assert_array_equal, final, state)
    assert outputs.shape == (T, B, H) and not outputs.any()
    gradient = gradient_of(layer, random(rng, T, B, H), resets_TxB, [0, 0], reverse=reverse)
    _, (dparams, dstate, dx) = gradient(params, state, x)
    assert not any(leaf.any() for leaf in jax.tree.leaves((dparams, dx)))
    jax.tree.map(
        lambda d, s: np.testing.assert_allclose(d, -3 * np.sin(3 * s), rtol=1e-12), dstate, state
    )


@LAYERS
def test_both_directions_are_one_layer_from_each_end(layer, x64, rng):
    first, step, (state, x, _, resets_TxB) = make("lstm", rng)
    second, back, (other, *_) = make("lstm", rng)
    lengths = [3, 4]
    both = BothDirections(first, second)
    states, outputs = unroll_both(
        both,
        BothDirections(state, other),
        x,
        layer=layer,
        resets_TxB=resets_TxB,
        lengths_B=jnp.asarray(lengths),
    )
    ahead = loop(step, state, x, NO_MASK, resets_TxB, lengths)
    behind = loop(back, other, x, NO_MASK, resets_TxB, lengths, reverse=True)
    wanted = np.concatenate([ahead[-1], behind[-1]], axis=-1)
    assert outputs.shape == (T, B, 2 * H)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-12, atol=1e-12)
    for found, wanted in ((states.forward, ahead), (states.backward, behind)):
        for leaf, want in zip(found, wanted[:-1], strict=True):
            np.testing.assert_allclose(leaf, want, rtol=1e-12, atol=1e-12)
    swapped = BothDirections(second, first)
    _, others = unroll_both(swapped, BothDirections(state, other), x, layer=layer)
    assert np.abs(others - outputs).max() > 1e-2


@LAYERS
@pytest.mark.parametrize("shape", [(B + 1,), (1,), (T, B)])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_that_do_not_fit_are_said_in_one_line(reverse, shape, layer, rng):
    params, _, (state, x, _, _) = make("lstm", rng)
    with pytest.raises(ValueError, match=r"^x_TxBxD [^\n]*$"):
        layer(params, state, x, lengths_B=jnp.ones(shape, int), reverse=reverse)


@LAYERS
@pytest.mark.parametrize("reverse", [False, True])
def test_a_length_beyond_the_last_step_is_the_last_step(reverse, layer, x64, rng):
    params, _, (state, x, _, _) = make("lstm", rng)
    lengths_B = jnp.asarray([T + 2, 3])
    _, found = layer(params, state, x, lengths_B=lengths_B, reverse=reverse)
    _, wanted = layer(params, state, x, lengths_B=jnp.asarray([T, 3]), reverse=reverse)
    np.testing.assert_array_equal(found, wanted)
