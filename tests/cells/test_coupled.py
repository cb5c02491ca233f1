"""The LSTM with coupled gates against loops over lanes, steps and units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.coupled import CoupledParams, init_coupled
from lstm_jax.cells.lstm import LSTMParams, init_lstm
from lstm_jax.layer import unroll
from tests.loops import D, H, compare, coupled, make_coupled, make_inputs


@pytest.mark.parametrize("ids", [False, True])
def test_unrolled_it_is_the_loop(ids, x64, rng):
    params = make_coupled(rng)
    compare(unroll, params, coupled(params), make_inputs(rng, ids))


def with_gates(order):
    def layer(params, *args, **options):
        def permuted(leaf):
            parts = jnp.split(leaf, 3, axis=-1)
            return jnp.concatenate([parts[n] for n in order], axis=-1)

        return unroll(CoupledParams(*map(permuted, params)), *args, **options)

    return layer


MUTANTS = {
    "f and o swapped": with_gates([2, 1, 0]),
    "no forget gate of its own": with_gates([2, 1, 2]),
    "no mask": lambda *args, mask_BxD, **options: unroll(*args, **options),
    "no resets": lambda *args, resets_TxB, **options: unroll(*args, **options),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_another_layer(mutant, x64, rng):
    params = make_coupled(rng)
    with pytest.raises(AssertionError):
        compare(mutant, params, coupled(params), make_inputs(rng, ids=True))


def test_it_is_the_lstm_whose_input_gate_is_what_the_forget_gate_leaves(x64, rng):
    """sigmoid(-z) = 1 - sigmoid(z): the LSTM's input gate reads minus what its forget gate does."""
    params, (state, x, _, resets_TxB) = make_coupled(rng), make_inputs(rng, ids=False)
    lstm = LSTMParams(*(jnp.concatenate([-leaf[..., :H], leaf], axis=-1) for leaf in params))
    found = unroll(params, state, x, resets_TxB=resets_TxB)
    wanted = unroll(lstm, state, x, resets_TxB=resets_TxB)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, wanted)


def test_it_begins_as_the_lstm_without_its_input_gate():
    key = jax.random.key(0)
    found = init_coupled(key, D, H, forget_bias=1.5, input_bound=4.0)
    whole = init_lstm(key, D, H, forget_bias=1.5, input_bound=4.0)
    for leaf, of_whole in zip(found, whole, strict=True):
        np.testing.assert_array_equal(leaf, of_whole[..., H:])
    np.testing.assert_array_equal(found.b, np.repeat([1.5, 0, 0], H).astype(np.float32))
    by_default = init_coupled(key, D, H).b
    np.testing.assert_array_equal(by_default, np.repeat([1.0, 0, 0], H).astype(np.float32))
