"""The reduced network of 1997 against loops over lanes, steps and units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.carousel import CAROUSEL, CarouselParams, CarouselState, init_carousel
from lstm_jax.errors import UserError
from lstm_jax.layer import unroll
from tests.loops import B, D, affine, compare, make_inputs, random
from tests.oracle import sigmoid

C = 2


def make_params(rng):
    return CarouselParams(random(rng, D, 2 * C), random(rng, 2 * C))


def carousel(params):
    """Cells that add up what their gates let in; what is read is put out beside them."""
    W, b = (np.array(leaf) for leaf in params)

    def step(_, s, x, *__):
        y = [sigmoid(net + float(bias)) for net, bias in zip(affine(x, W), b, strict=True)]
        new_s = [s[n] + y[n] * y[C + n] for n in range(C)]
        return [*new_s, *x], new_s

    return step


def inputs_of(rng, ids):
    return make_inputs(rng, ids, CarouselState, (C + D, C))


@pytest.mark.parametrize("ids", [False, True])
def test_unrolled_it_is_the_loop(ids, x64, rng):
    params = make_params(rng)
    compare(unroll, params, carousel(params), inputs_of(rng, ids))


MUTANTS = {
    "another bias": lambda p, *args, **options: unroll(p._replace(b=p.b + 1e-6), *args, **options),
    "another cell": lambda p, *args, **options: unroll(
        p._replace(W=jnp.roll(p.W, 1, axis=1)), *args, **options
    ),
    "no mask": lambda *args, mask_BxD, **options: unroll(*args, **options),
    "no resets": lambda *args, resets_TxB, **options: unroll(*args, **options),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_another_layer(mutant, x64, rng):
    params = make_params(rng)
    with pytest.raises(AssertionError):
        compare(mutant, params, carousel(params), inputs_of(rng, ids=True))


def test_initial_parameters():
    D, H = 60, 64
    params = init_carousel(jax.random.key(0), D, H)
    assert [leaf.shape for leaf in params] == [(D, 8), (8,)]
    assert not params.b.any() and 0.95 * H**-0.5 < np.abs(params.W).max() <= H**-0.5
    assert (init_carousel(jax.random.key(1), D, H).W != params.W).any()
    wide = init_carousel(jax.random.key(0), D, H, input_bound=4.0)
    assert 3.8 < np.abs(wide.W).max() <= 4
    state = CAROUSEL.init_state(params, B)
    assert [leaf.shape for leaf in state] == [(B, H), (B, 4)]
    assert not state.h.any() and not state.s.any() and CAROUSEL.widths(params) == (D, H)


def test_a_size_that_leaves_no_cell_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"model.cell=carousel [^\n]* 5 leaves no cell; take 6 "):
        init_carousel(jax.random.key(0), 5, 5)
