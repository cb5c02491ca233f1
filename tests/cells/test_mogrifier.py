"""The Mogrifier LSTM against loops over lanes, steps and units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.lstm import LSTMParams
from lstm_jax.cells.mogrifier import init_mogrifier
from lstm_jax.config import ModelConfig
from lstm_jax.layer import unroll
from lstm_jax.model import init_model
from tests import oracle
from tests.loops import D, H, affine, compare, make_inputs, random


def make_mogrifier(rng, rounds, rank=0):
    key = jax.random.key(0)
    params = jax.eval_shape(
        lambda: init_mogrifier(key, D, H, mogrifier_rounds=rounds, mogrifier_rank=rank)
    )
    return jax.tree.map(lambda leaf: random(rng, *leaf.shape), params)


def mogrified(params):
    W, U, b, rounds = jax.tree.map(np.array, params)

    def through(v, factors):
        for factor in factors:
            v = affine(v, factor)
        return v

    def step(h, c, x, *_):
        xs, hs = {-1: x}, {0: h}  # by the number that the paper writes above
        for i, factors in enumerate(rounds, start=1):
            ours, other = (xs, hs) if i % 2 else (hs, xs)
            scales = [2 * oracle.sigmoid(a) for a in through(other[i - 1], factors)]
            ours[i] = [s * a for s, a in zip(scales, ours[i - 2], strict=True)]
        return oracle.cell(W, U, b, hs[max(hs)], c, xs[max(xs)])

    return step


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize(("rounds", "rank"), [(1, 0), (5, 0), (4, 2)])
def test_unrolled_it_is_the_loop(rounds, rank, ids, x64, rng):
    params = make_mogrifier(rng, rounds, rank)
    compare(unroll, params, mogrified(params), make_inputs(rng, ids))


MUTANTS = {
    "a round less": lambda p: p._replace(rounds=p.rounds[:-1]),
    "two rounds swapped": lambda p: p._replace(rounds=(*p.rounds[2:], p.rounds[1], p.rounds[0])),
    "a factor negative": lambda p: p._replace(rounds=((-p.rounds[0][0],), *p.rounds[1:])),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_other_rounds(mutant, x64, rng):
    params = make_mogrifier(rng, rounds=3)
    with pytest.raises(AssertionError):
        compare(unroll, mutant(params), mogrified(params), make_inputs(rng, ids=False))


@pytest.mark.parametrize("ids", [False, True])
def test_without_rounds_it_is_the_lstm(ids, x64, rng):
    params = make_mogrifier(rng, rounds=0)
    assert params.rounds == ()
    state, x, mask_BxD, resets_TxB = make_inputs(rng, ids)
    options = {"mask_BxD": mask_BxD, "resets_TxB": resets_TxB}
    found = unroll(params, state, x, **options)
    wanted = unroll(LSTMParams(*params[:3]), state, x, **options)
    # The two add x W, h U and b in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), found, wanted)


def test_two_factors_are_their_product(x64, rng):
    params, (state, x, _, _) = make_mogrifier(rng, rounds=3, rank=2), make_inputs(rng, ids=False)
    whole = params._replace(rounds=tuple((left @ right,) for left, right in params.rounds))
    found, wanted = unroll(params, state, x), unroll(whole, state, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, wanted)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_factors_begin_uniform_by_their_rows(rank):
    D, H = 40, 60
    key = jax.random.key(0)
    params = jax.jit(lambda: init_mogrifier(key, D, H, mogrifier_rounds=4, mogrifier_rank=rank))()
    assert len(params.rounds) == 4
    for number, factors in enumerate(params.rounds):
        rows, columns = (D, H) if number % 2 else (H, D)
        shapes = [(rows, rank), (rank, columns)] if rank else [(rows, columns)]
        assert [factor.shape for factor in factors] == shapes
        for factor in factors:
            bound = factor.shape[0] ** -0.5
            assert jnp.abs(factor).max() <= bound
            assert float(factor.std()) == pytest.approx(bound / 3**0.5, rel=0.15)
    by_default = np.repeat([0, 1.0, 0, 0], H).astype(np.float32)
    np.testing.assert_array_equal(params.b, by_default)
    first, third = params.rounds[0][0], params.rounds[2][0]
    assert (first != third).any()


@pytest.mark.parametrize(
    ("given", "rounds"), [({}, 5), ({"mogrifier_rounds": 3}, 3), ({"mogrifier_rounds": 0}, 0)]
)
def test_the_config_says_how_many_rounds(given, rounds):
    config = ModelConfig(hidden_size=3, cell="mogrifier", **given)
    params = jax.eval_shape(lambda: init_model(jax.random.key(0), config, 4))
    assert len(params.layers[0].rounds) == rounds
