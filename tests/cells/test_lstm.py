"""The cell against plain loops over units."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells import CELLS
from lstm_jax.cells.lstm import (
    Forgetting,
    LSTMParams,
    LSTMState,
    activate,
    advance,
    cell_step,
    init_bias,
    init_lstm,
    init_state,
)
from lstm_jax.cells.passes import COLUMNS, ROWS
from lstm_jax.config import ModelConfig
from lstm_jax.gradients import GRADIENTS
from lstm_jax.gradients.bptt import value_and_grad
from lstm_jax.gradients.known import missing_by_hand
from lstm_jax.heads import softmax
from lstm_jax.verification.cases import Case, make_problem
from tests import oracle


def compare(step, rng):
    """Fails where `step` is not the LSTM of `oracle.cell`, to 1e-12, in float64."""
    B, D, H = 3, 4, 5
    params = LSTMParams(
        *map(
            jnp.asarray,
            (rng.normal(size=(D, 4 * H)), rng.normal(size=(H, 4 * H)), rng.normal(size=4 * H)),
        )
    )
    state = LSTMState(*map(jnp.asarray, (rng.normal(size=(B, H)), rng.normal(size=(B, H)))))
    x_BxD = rng.normal(size=(B, D))
    found = step(params, state, jnp.asarray(x_BxD))
    for lane in range(B):
        h, c = oracle.cell(*params, state.h[lane], state.c[lane], x_BxD[lane])
        np.testing.assert_allclose(found.h[lane], h, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.c[lane], c, rtol=1e-12, atol=1e-12)


def test_cell_step_is_the_lstm_of_the_papers(x64, rng):
    compare(cell_step, rng)


def swapped(order):
    def step(params, state, x_BxD):
        parts = jnp.split(x_BxD @ params.W + state.h @ params.U + params.b, 4, axis=-1)
        return advance(state, activate(jnp.concatenate([parts[n] for n in order], axis=-1)))

    return step


@pytest.mark.parametrize(
    "mutant",
    [
        swapped([1, 0, 2, 3]),
        swapped([0, 1, 3, 2]),
        swapped([0, 1, 2, 2]),
        lambda p, s, x: cell_step(p, s._replace(h=s.c), x),
        lambda p, s, x: cell_step(p._replace(b=0 * p.b), s, x),
        lambda p, s, x: cell_step(p, s, x)._replace(h=cell_step(p, s, x).c),
    ],
)
def test_the_comparison_notices_a_wrong_cell(mutant, x64, rng):
    with pytest.raises(AssertionError):
        compare(mutant, rng)


def test_no_rank_is_promoted(x64):
    """The cells, whole models, the loss and its gradients, by JAX_NUMPY_RANK_PROMOTION=raise."""
    everything = {"dropout": 0.2, "input_dropout": 0.2}
    params = init_lstm(jax.random.key(0), 2, 3)
    with jax.numpy_rank_promotion("raise"):
        cell_step(params, init_state(params, 4), jnp.ones((4, 2), params.W.dtype))
        for model in (
            ModelConfig(hidden_size=3, num_layers=2, **everything),
            ModelConfig(
                hidden_size=3, num_layers=2, embedding_size=2, skip="weighted", **everything
            ),
            ModelConfig(hidden_size=3, cell="coupled", zoneout_cell=0.2),
            ModelConfig(hidden_size=3, cell="layer_norm", embedding_size=2, readout="tied"),
            ModelConfig(hidden_size=3, cell="mogrifier", **everything),
        ):
            problem = make_problem(Case(model, 3, 2, masked=True, resets=True, carry=True))
            gradients = [GRADIENTS["autodiff"](softmax)]
            if not missing_by_hand([CELLS[model.cell]]):
                gradients += [partial(value_and_grad, layout=layout) for layout in (ROWS, COLUMNS)]
            for gradient in gradients:
                jax.eval_shape(gradient, *problem)


def test_initial_parameters():
    D, H = 7, 16
    params = init_lstm(jax.random.key(0), D, H, forget_bias=1.5)
    assert params.W.shape == (D, 4 * H) and params.U.shape == (H, 4 * H)
    np.testing.assert_array_equal(params.b, np.repeat([0, 1.5, 0, 0], H).astype(np.float32))
    by_default = init_lstm(jax.random.key(0), D, H).b
    np.testing.assert_array_equal(by_default, np.repeat([0, 1.0, 0, 0], H).astype(np.float32))
    for weights in (params.W, params.U):
        assert np.abs(weights).max() <= H**-0.5
        assert abs(np.std(weights) - H**-0.5 / 3**0.5) < 0.02
    assert not np.array_equal(params.W[:7, :], params.U[:7, :])


def test_biases_for_long_lags():
    """Each unit's forget gate begins at 1 - 1/(1 + lag) for a lag of its own, 1 to chrono - 1 and
    evenly; its input gate at 1/(1 + lag)."""
    b = np.float64(init_bias(jax.random.key(0), 4096, forget_bias=0.0, chrono=101))
    input_gate, forget_gate, *others = np.split(1 / (1 + np.exp(-b)), 4)
    lags = forget_gate / (1 - forget_gate)
    np.testing.assert_allclose(input_gate, 1 / (1 + lags), rtol=1e-5)
    assert 1 <= lags.min() < 1.3 and 99.7 < lags.max() < 100.001
    assert abs(lags.mean() - 50.5) < 1.5 and abs(np.std(lags) - 99 / 12**0.5) < 1
    np.testing.assert_array_equal(others, 0.5)
    assert not init_bias(jax.random.key(0), 8, forget_bias=1.0, chrono=1).any()


@pytest.mark.parametrize("init", ["uniform", "notebook"])
def test_biases_for_long_lags_change_no_weight(init):
    plain, params = (init_lstm(jax.random.key(0), 7, 8, chrono=n, init=init) for n in (0, 101))
    jax.tree.map(np.testing.assert_array_equal, plain._replace(b=0), params._replace(b=0))
    assert (params.b[8:16] > 0).all() and (params.b[8:16] == -params.b[:8]).all()


@pytest.mark.parametrize("name", [n for n, cell in CELLS.items() if Forgetting in cell.options])
def test_every_cell_with_a_forget_gate_has_them(name):
    b = np.asarray(CELLS[name].init(jax.random.key(0), 3, 64, chrono=101).b)
    lags = np.exp(b[b > 0])
    assert len(lags) == len({*lags}) == 64 and lags.max() <= 100
    inputs = np.exp(-b[b < 0])  # none, where the input gate is coupled or away
    assert len(inputs) in (0, 64)
    np.testing.assert_allclose(inputs, lags[: len(inputs)], rtol=1e-6)


def test_initial_state_is_zero_and_in_two_buffers():
    state = init_state(init_lstm(jax.random.key(0), 2, 3), 4)
    assert state.h.shape == state.c.shape == (4, 3)
    assert not state.h.any() and not state.c.any()
    assert state.h.unsafe_buffer_pointer() != state.c.unsafe_buffer_pointer()
