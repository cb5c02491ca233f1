"""Memory blocks with forget gates against loops over lanes, steps and units. The truncated gradient
is compared with the paper's own algorithm in `experiments.test_truncated_rtrl`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.forgetting_blocks import (
    FORGETTING_BLOCKS,
    ForgettingBlockParams,
    ForgettingBlockState,
    init_forgetting_blocks,
)
from lstm_jax.errors import UserError
from lstm_jax.layer import unroll
from tests.loops import D, affine, compare, make_inputs, random
from tests.oracle import sigmoid

N, S = 2, 2
C, G = N * S, 3 * N + N * S


def make_params(rng):
    return ForgettingBlockParams(*(random(rng, *s) for s in ((D, G), (C, G), (G,))))


def forgetting_blocks(params):
    """Section 3 of the paper, unit by unit."""
    W, U, b = (np.array(leaf) for leaf in params)

    def step(y_c, s, x, *_):
        net = [p + q + float(r) for p, q, r in zip(affine(x, W), affine(y_c, U), b, strict=True)]
        y_in, y_forget, y_out = ([sigmoid(z) for z in net[n * N : n * N + N]] for n in range(3))
        new_c, new_s = [], []
        for block in range(N):
            for cell in range(block * S, block * S + S):
                g = 4 * sigmoid(net[3 * N + cell]) - 2
                new_s.append(y_forget[block] * s[cell] + y_in[block] * g)
                new_c.append(y_out[block] * (2 * sigmoid(new_s[cell]) - 1))
        return new_c, new_s

    return step


def inputs_of(rng, ids):
    return make_inputs(rng, ids, ForgettingBlockState, (C, C))


@pytest.mark.parametrize("ids", [False, True])
def test_unrolled_it_is_the_loop(ids, x64, rng):
    params = make_params(rng)
    compare(unroll, params, forgetting_blocks(params), inputs_of(rng, ids))


MUTANTS = {
    "input and forget gates swapped": [2, 3, 0, 1, 4, 5, 6, 7, 8, 9],
    "forget and output gates swapped": [0, 1, 4, 5, 2, 3, 6, 7, 8, 9],
    "the forget gate of the other block": [0, 1, 3, 2, 4, 5, 6, 7, 8, 9],
    "cells of two blocks swapped": [0, 1, 2, 3, 4, 5, 6, 8, 7, 9],
}


@pytest.mark.parametrize("order", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_another_layer(order, x64, rng):
    params = make_params(rng)
    other = jax.tree.map(lambda leaf: leaf[..., np.array(order)], params)
    with pytest.raises(AssertionError):
        compare(unroll, other, forgetting_blocks(params), inputs_of(rng, ids=True))


def test_initial_parameters():
    D, C, S = 9, 64, 4
    params = init_forgetting_blocks(jax.random.key(0), D, C, block_size=S, forget_bias=3.0)
    N, G = 16, 112
    assert [leaf.shape for leaf in params] == [(D, G), (C, G), (G,)]
    np.testing.assert_array_equal(params.b, np.repeat([0.0, 3.0, 0.0], [N, N, N + C]))
    for weights in params[:2]:
        assert 0.95 * C**-0.5 < np.abs(weights).max() <= C**-0.5
    wide = init_forgetting_blocks(jax.random.key(0), D, C, block_size=S, input_bound=4.0)
    assert 3.8 < np.abs(wide.W).max() <= 4
    np.testing.assert_array_equal(wide.U, params.U)
    chrono = init_forgetting_blocks(jax.random.key(0), D, C, block_size=S, chrono=50)
    assert chrono.b[N : 2 * N].min() > 0 and chrono.b[N : 2 * N].max() <= np.log(49)
    np.testing.assert_array_equal(chrono.b[:N], -chrono.b[N : 2 * N])
    state = FORGETTING_BLOCKS.init_state(params, 3)
    assert [leaf.shape for leaf in state] == [(3, C), (3, C)]
    assert not any(jnp.any(leaf) for leaf in state)
    assert FORGETTING_BLOCKS.widths(params) == (D, C)


def test_cells_that_fill_no_blocks_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^model.block_size=4 needs [^\n]* one has 6$"):
        init_forgetting_blocks(jax.random.key(0), 3, 6, block_size=4)
