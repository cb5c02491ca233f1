"""The gated recurrent unit against loops over lanes, steps and units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.gru import GRU, GRUParams, GRUState, init_gru
from lstm_jax.layer import unroll
from tests.loops import B, D, H, compare, gru, make_gru, make_inputs


@pytest.mark.parametrize("ids", [False, True])
def test_unrolled_it_is_the_loop(ids, x64, rng):
    params = make_gru(rng)
    compare(unroll, params, gru(params), make_inputs(rng, ids, GRUState))


def with_params(change):
    return lambda params, *args, **options: unroll(change(params), *args, **options)


def with_gates(order):
    def permuted(leaf):
        parts = jnp.split(leaf, 3, axis=-1)
        return jnp.concatenate([parts[n] for n in order], axis=-1)

    return with_params(lambda p: GRUParams(*map(permuted, p[:3]), p.b_n))


MUTANTS = {
    "r and z swapped": with_gates([1, 0, 2]),
    "z and n swapped": with_gates([0, 2, 1]),
    "no bias inside the reset": with_params(lambda p: p._replace(b_n=0 * p.b_n)),
    # n = tanh(a + b_n + r q): the reset leaves the bias alone.
    "the bias outside the reset": with_params(
        lambda p: GRUParams(p.W, p.U, p.b.at[2 * H :].add(p.b_n), 0 * p.b_n)
    ),
    # sigmoid(-z) = 1 - sigmoid(z): h = z n + (1 - z) h, as in Cho et al.
    "z and 1 - z swapped": with_params(
        lambda p: GRUParams(*(leaf.at[..., H : 2 * H].multiply(-1) for leaf in p[:3]), p.b_n)
    ),
    "no mask": lambda *args, mask_BxD, **options: unroll(*args, **options),
    "no resets": lambda *args, resets_TxB, **options: unroll(*args, **options),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_another_layer(mutant, x64, rng):
    params = make_gru(rng)
    with pytest.raises(AssertionError):
        compare(mutant, params, gru(params), make_inputs(rng, True, GRUState))


def test_initial_parameters():
    D, H = 9, 64
    params = init_gru(jax.random.key(0), D, H)
    assert [leaf.shape for leaf in params] == [(D, 3 * H), (H, 3 * H), (3 * H,), (H,)]
    assert not params.b.any() and not params.b_n.any()
    for weights in params[:2]:
        assert 0.95 * H**-0.5 < np.abs(weights).max() <= H**-0.5
        assert abs(np.std(weights) - H**-0.5 / 3**0.5) < 0.005 and abs(weights.mean()) < 0.01
    assert not np.array_equal(params.W, params.U[:D])
    again, other = init_gru(jax.random.key(0), D, H), init_gru(jax.random.key(1), D, H)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert (other.W != params.W).any() and (other.U != params.U).any()
    wide = init_gru(jax.random.key(0), D, H, input_bound=4.0)
    assert 3.8 < np.abs(wide.W).max() <= 4
    np.testing.assert_array_equal(wide.U, params.U)


def test_its_state_is_h_alone_and_zero():
    params = init_gru(jax.random.key(0), D, H)
    state = GRU.init_state(params, B)
    assert state._fields == ("h",) and state.h.shape == (B, H) and not state.h.any()
    assert GRU.widths(params) == (D, H)
