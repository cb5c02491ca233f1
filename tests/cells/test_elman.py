"""The plain recurrent network against loops over lanes, steps and units; its backward by hand."""

import jax
import numpy as np
import pytest

from lstm_jax.cells.elman import ELMAN, ElmanState, init_elman
from lstm_jax.layer import unroll
from lstm_jax.verification.cases import by_hand
from lstm_jax.verification.compare import verify_case
from tests.loops import B, compare, elman, make_elman, make_inputs


def test_unrolled_it_is_the_loop(x64, rng):
    params = make_elman(rng)
    compare(unroll, params, elman(params), make_inputs(rng, False, ElmanState))


def with_params(change):
    return lambda params, *args, **options: unroll(change(params), *args, **options)


MUTANTS = {
    "recurrent weights transposed": with_params(lambda p: p._replace(U=p.U.T)),
    "no bias": with_params(lambda p: p._replace(b=0 * p.b)),
    "no mask": lambda *args, mask_BxD, **options: unroll(*args, **options),
    "no resets": lambda *args, resets_TxB, **options: unroll(*args, **options),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_another_layer(mutant, x64, rng):
    params = make_elman(rng)
    with pytest.raises(AssertionError):
        compare(mutant, params, elman(params), make_inputs(rng, False, ElmanState))


def test_its_case_verifies_both_rules():
    """By JAX, by hand and by central differences; `test_mutations` breaks the backward."""
    (case,) = (case for case in by_hand() if case.model.cell == "elman")
    rows = verify_case(case, float32=False, optimized=False)
    assert {row.pair for row in rows} == {
        "autodiff ~ bptt rows",
        "stop_gradient ~ truncated rows",
        "autodiff ~ differences",
        "bptt rows ~ differences",
    }
    assert all(row.passed for row in rows)


def test_initial_parameters():
    D, H = 9, 64
    params = init_elman(jax.random.key(0), D, H)
    assert [leaf.shape for leaf in params] == [(D, H), (H, H), (H,)] and not params.b.any()
    for weights in params[:2]:
        assert 0.95 * H**-0.5 < np.abs(weights).max() <= H**-0.5
        assert abs(np.std(weights) - H**-0.5 / 3**0.5) < 0.005 and abs(weights.mean()) < 0.01
    assert not np.array_equal(params.W, params.U[:D])
    wide = init_elman(jax.random.key(0), D, H, input_bound=4.0)
    assert 3.8 < np.abs(wide.W).max() <= 4
    np.testing.assert_array_equal(wide.U, params.U)
    state = ELMAN.init_state(params, B)
    assert state._fields == ("h",) and state.h.shape == (B, H) and not state.h.any()
    assert ELMAN.widths(params) == (D, H)
