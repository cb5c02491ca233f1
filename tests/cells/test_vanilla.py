"""The vanilla LSTM and its variants against loops over lanes, steps and units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells import CELLS
from lstm_jax.cells.coupled import CoupledParams
from lstm_jax.cells.lstm import LSTMParams
from lstm_jax.cells.vanilla import (
    VANILLA,
    NoPeepholesParams,
    PeepholeParams,
)
from lstm_jax.gradients.bptt_layer import bptt_layer
from lstm_jax.layer import unroll
from tests.loops import H, compare, make_inputs, make_peephole, make_vanilla, peephole, vanilla

init_peephole = VANILLA["peephole"].init
VARIANTS = sorted(VANILLA.keys() - {"peephole"})


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
    wanted = unroll(LSTMParams(*params[:3]), state, x, resets_TxB=resets_TxB)
    for same in (blind, NoPeepholesParams(*params[:3])):
        found = unroll(same, state, x, resets_TxB=resets_TxB)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, wanted)


def test_coupled_without_peepholes_it_is_the_coupled_lstm(x64, rng):
    state, x, _, resets_TxB = make_inputs(rng, ids=False)
    params = make_vanilla(rng, "coupled_peephole")
    blind = params._replace(p_f=0 * params.p_f, p_o=0 * params.p_o)
    found = unroll(blind, state, x, resets_TxB=resets_TxB)
    wanted = unroll(CoupledParams(*params[:3]), state, x, resets_TxB=resets_TxB)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, wanted)
    seeing = unroll(params, state, x, resets_TxB=resets_TxB)
    assert np.abs(seeing[1] - wanted[1]).max() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_the_loop_with_that_part_changed(name, x64, rng):
    params = make_vanilla(rng, name)
    inputs = make_inputs(rng, False, VANILLA[name].state)
    compare(unroll, params, vanilla(name, params), inputs)


@pytest.mark.long  # `verify_gradients` has them, too
def test_by_hand_every_variant_has_the_gradient_of_autodiff(x64, rng):
    """Of the parameters, the initial state and the input; the variants in one program."""
    problems = {name: make_vanilla(rng, name) for name in VARIANTS}
    inputs = {name: make_inputs(rng, False, VANILLA[name].state)[:2] for name in VARIANTS}

    def gradients(layer):
        def loss(params, state, x):
            final, h_TxBxH = layer(params, state, x)
            return jnp.sum(jnp.sin(h_TxBxH)) + sum(jnp.sum(jnp.cos(3 * s)) for s in final)

        return {
            name: jax.grad(loss, (0, 1, 2))(params, *inputs[name])
            for name, params in problems.items()
        }

    found, wanted = jax.jit(lambda: (gradients(bptt_layer), gradients(unroll)))()
    assert all(leaf.any() for leaf in jax.tree.leaves(wanted))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, wanted
    )


def test_a_leaf_that_does_nothing_does_not_exist():
    D, H = 5, 7
    block, whole = D * H + H * H + H, 4 * (D * H + H * H + H) + 3 * H
    wanted = {
        "peephole": whole,
        "no_input_gate": whole - block - H,
        "no_forget_gate": whole - block - H,
        "no_output_gate": whole - block - H,
        "no_input_activation": whole,
        "no_output_activation": whole,
        "coupled_peephole": whole - block - H,
        "no_peepholes": whole - 3 * H,
        "full_gate_recurrence": whole + 9 * H * H,
    }
    assert wanted.keys() == VANILLA.keys()
    for name, count in wanted.items():
        cell = CELLS[name]
        params = jax.eval_shape(lambda cell=cell: cell.init(jax.random.key(0), D, H))
        assert type(params) is cell.params and cell.widths(params) == (D, H)
        assert sum(leaf.size for leaf in params) == count, name


def test_variants_of_one_key_begin_with_the_same_weights():
    whole, *others = (
        VANILLA[name].init(jax.random.key(0), 9, 64, forget_bias=3.0)
        for name in ("peephole", "coupled_peephole", "no_output_gate")
    )
    for part, start in zip(others, (64, 0), strict=True):
        for name in ("W", "U", "b"):
            wanted = getattr(whole, name)[..., start : start + 3 * 64]
            np.testing.assert_array_equal(getattr(part, name), wanted)
        np.testing.assert_array_equal(part.p_f, whole.p_f)
    assert (others[0].b[:64] == 3).all()


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
