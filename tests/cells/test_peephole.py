"""The LSTM with peepholes against loops over lanes, steps and units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.lstm import LSTMParams
from lstm_jax.cells.peephole import PeepholeParams, init_peephole
from lstm_jax.layer import unroll
from tests.loops import H, compare, make_inputs, make_peephole, peephole


@pytest.mark.parametrize("ids", [False, True])
def test_unrolled_it_is_the_loop(ids, x64, rng):
    params = make_peephole(rng)
    compare(unroll, params, peephole(params), make_inputs(rng, ids))


def with_params(change):
    return lambda params, *args, **options: unroll(change(params), *args, **options)


def with_gates(order):
    def permuted(leaf):
        parts = jnp.split(leaf, 4, axis=-1)
        return jnp.concatenate([parts[n] for n in order], axis=-1)

    return with_params(lambda p: PeepholeParams(*map(permuted, p[:3]), *p[3:]))


MUTANTS = {
    "i and f swapped": with_gates([1, 0, 2, 3]),
    "g and o swapped": with_gates([0, 1, 3, 2]),
    "the peepholes of i and f swapped": with_params(lambda p: p._replace(p_i=p.p_f, p_f=p.p_i)),
    **{
        f"no {name}": with_params(lambda p, name=name: p._replace(**{name: 0 * p.p_i}))
        for name in ("p_i", "p_f", "p_o")
    },
    "no mask": lambda *args, mask_BxD, **options: unroll(*args, **options),
    "no resets": lambda *args, resets_TxB, **options: unroll(*args, **options),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_another_layer(mutant, x64, rng):
    params = make_peephole(rng)
    with pytest.raises(AssertionError):
        compare(mutant, params, peephole(params), make_inputs(rng, ids=True))


def seeing_the_old_cell(params):
    """The loop of another cell, whose output gate sees the cell before, as i and f do."""

    def step(h, c, x, *others):
        b = np.array(params.b)
        b[3 * H :] += np.array(params.p_o) * np.array(c)
        return peephole(params._replace(b=b, p_o=0 * params.p_o))(h, c, x, *others)

    return step


def test_the_output_gate_sees_the_new_cell(x64, rng):
    params = make_peephole(rng)
    with pytest.raises(AssertionError):
        compare(unroll, params, seeing_the_old_cell(params), make_inputs(rng, ids=False))


def test_without_peepholes_it_is_the_lstm(x64, rng):
    params, (state, x, _, resets_TxB) = make_peephole(rng), make_inputs(rng, ids=False)
    blind = PeepholeParams(*params[:3], *(0 * p for p in params[3:]))
    found = unroll(blind, state, x, resets_TxB=resets_TxB)
    wanted = unroll(LSTMParams(*params[:3]), state, x, resets_TxB=resets_TxB)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, wanted)


def test_initial_parameters():
    D, H = 9, 64
    params = init_peephole(jax.random.key(0), D, H, forget_bias=1.5)
    shapes = [(D, 4 * H), (H, 4 * H), (4 * H,), (H,), (H,), (H,)]
    assert [leaf.shape for leaf in params] == shapes
    np.testing.assert_array_equal(params.b, np.repeat([0, 1.5, 0, 0], H).astype(np.float32))
    by_default = init_peephole(jax.random.key(0), D, H)
    np.testing.assert_array_equal(by_default.b, np.repeat([0, 1.0, 0, 0], H).astype(np.float32))
    for weights in (params.W, params.U, *params[3:]):
        assert 0.9 * H**-0.5 < np.abs(weights).max() <= H**-0.5
        assert abs(np.std(weights) - H**-0.5 / 3**0.5) < 0.015
    assert len({float(p[0]) for p in params[3:]}) == 3  # drawn apart
    again = init_peephole(jax.random.key(0), D, H, forget_bias=1.5)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    other = init_peephole(jax.random.key(1), D, H, forget_bias=1.5)
    for name in set(params._fields) - {"b"}:
        assert (getattr(params, name) != getattr(other, name)).any()
    wide = init_peephole(jax.random.key(0), D, H, input_bound=4.0)
    assert 3.8 < np.abs(wide.W).max() <= 4
    np.testing.assert_array_equal(wide.U, params.U)
