"""The training step: what it computes, in how many dispatches, and that it compiles once."""

from functools import partial

import jax
import numpy as np
import pytest

from lstm_jax.config import Config
from lstm_jax.data.batches import Streams, stack_batches
from lstm_jax.hyperparameters import Hyperparameters
from lstm_jax.train import init_train_state, make_dispatch, make_train_step

pytestmark = pytest.mark.usefixtures("standard_promotion")

V = 5
BASE = Config().replace(
    {
        "model.hidden_size": 8,
        "model.num_layers": 2,
        "model.dropout": 0.2,
        "train.batch_size": 3,
        "train.sequence_length": 4,
        "train.steps": 12,
        "optimizer.learning_rate": 0.01,
    }
)


@pytest.fixture
def streams(rng):
    return Streams(rng.integers(V, size=200).astype(np.uint8), 3, 4)


def run(config, streams, lengths):
    """The state and all losses after dispatches of these many steps."""
    dispatch, hyper = make_dispatch(config), Hyperparameters.of(config)
    state, losses, step = init_train_state(config, V), [], 0
    for K in lengths:
        batches = stack_batches([streams.batch_at(step + k) for k in range(K)])
        state, infos = dispatch(hyper, state, batches)
        losses.extend(infos.loss.tolist())
        step += K
    return state, losses, dispatch


def test_one_dispatch_of_many_steps_equals_many_of_one(streams):
    state, losses, _ = run(BASE, streams, [6])
    other, other_losses, _ = run(BASE, streams, [1] * 6)
    np.testing.assert_allclose(losses, other_losses, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state, other)
    assert int(state.step) == 6


def test_the_second_dispatch_does_not_compile_again(streams):
    make_dispatch(BASE).clear_cache()
    _, _, dispatch = run(BASE, streams, [4, 4, 4])
    assert dispatch._cache_size() == 1


def test_the_carry_goes_from_batch_to_batch(streams):
    """The state after two steps at learning rate 0 is that of the two batches read in one go."""
    config = BASE.replace({"optimizer.learning_rate": 0.0, "model.dropout": 0.0})
    state, _, _ = run(config, streams, [2])
    whole = Streams(streams.ids, 3, 8).batch_at(0)
    first = [streams.batch_at(step).inputs for step in range(2)]
    np.testing.assert_array_equal(np.concatenate(first), whole.inputs)
    train_step = jax.jit(make_train_step(config.replace({"train.sequence_length": 8})))
    other, _ = train_step(Hyperparameters.of(config), init_train_state(config, V), whole)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        state.carry,
        other.carry,
    )


STILL = BASE.replace({"model.num_layers": 1, "model.dropout": 0.0, "optimizer.learning_rate": 0.0})


def losses_of_one_batch(config, streams):
    """Three steps on the same batch from the zero state."""
    batch = streams.batch_at(0)
    batch.resets[0] = True
    dispatch, state = make_dispatch(config), init_train_state(STILL, V)
    hyper = Hyperparameters.of(config)
    return dispatch(hyper, state, stack_batches([batch] * 3))[1].loss.tolist()


def test_without_learning_and_without_dropout_every_step_is_the_same(streams):
    assert len(set(losses_of_one_batch(STILL, streams))) == 1


@pytest.mark.parametrize("option", ["model.dropout", "model.input_dropout", "model.weight_drop"])
def test_dropout_differs_from_step_to_step_and_follows_the_seed(option, streams):
    """Without learning, only what is dropped can differ."""
    config = STILL.replace({option: 0.5})
    found = losses_of_one_batch(config, streams)
    assert len(set(found)) == 3
    assert found == losses_of_one_batch(config, streams)
    assert found != losses_of_one_batch(config.replace({"train.seed": 1}), streams)


def test_training_learns(rng):
    text = np.tile(rng.integers(V, size=13), 20).astype(np.uint8)
    config = BASE.replace(
        {
            "train.steps": 300,
            "optimizer.learning_rate": 0.03,
            "model.hidden_size": 32,
            "model.dropout": 0.0,
        }
    )
    _, losses, _ = run(config, Streams(text, 3, 4), [300])
    assert losses[0] == pytest.approx(np.log(V), abs=0.3) and losses[-1] < 0.05


def test_infos_report_the_norm_before_clipping_and_the_rate(streams):
    clipped = BASE.replace({"optimizer.clip_norm": 1e-6})
    train_step = jax.jit(make_train_step(clipped))
    hyper = Hyperparameters.of(clipped)
    _, info = train_step(hyper, init_train_state(clipped, V), streams.batch_at(0))
    assert 1e-3 < float(info.grad_norm) < 10
    assert float(info.learning_rate) == pytest.approx(0.01)


@pytest.mark.parametrize("gradient", ["autodiff", "bptt", "truncated"])
def test_training_in_blocks_is_the_same_training(gradient, streams):
    config = BASE.replace({"train.gradient": gradient})
    state, losses, _ = run(config, streams, [6])
    other, other_losses, _ = run(config.replace({"train.remat_every": 3}), streams, [6])
    np.testing.assert_allclose(losses, other_losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state, other)


def test_training_in_parts_is_the_same_training(streams):
    config = BASE.replace({"train.reset_rate": 0.3, "model.zoneout_cell": 0.2})
    state, losses, _ = run(config, streams, [6])
    other, other_losses, _ = run(config.replace({"train.accumulate": 3}), streams, [6])
    np.testing.assert_allclose(losses, other_losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state, other)


def test_training_in_mixed_precision(streams):
    """By hand, and by autodiff in blocks of parts, apart by few factors that fall between two
    numbers; plain steps, because Adam takes a gradient's sign as far as its size."""
    config = BASE.replace({"train.precision": "bfloat16", "optimizer.name": "sgd"})
    state, losses, _ = run(config, streams, [6])
    changes = {"train.gradient": "autodiff", "train.remat_every": 3, "train.accumulate": 3}
    _, others, _ = run(config.replace(changes), streams, [6])
    np.testing.assert_allclose(losses, others, rtol=2e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype("f4"), np.dtype("i4")}
    _, exact, _ = run(BASE, streams, [6])
    assert 2e-6 < abs(losses[0] - exact[0]) < 5e-3


@pytest.mark.parametrize("L", [1, 2, 3])
def test_no_key_is_used_twice_not_even_one_of_the_initial_weights(L, streams, monkeypatch):
    """To draw with, or to be split: else what one decides would be known from the other."""
    everything = {
        "model.num_layers": L,
        "model.embedding_size": 8,
        "train.gradient": "autodiff",
        "train.reset_rate": 0.5,
    } | {
        f"model.{name}": 0.5
        for name in (
            *("input_dropout", "embedding_dropout", "weight_drop"),
            *("zoneout_cell", "zoneout_hidden"),
        )
    }
    used = []

    def recorded(function, key, *args, **kwargs):
        used.append(jax.random.key_data(key))
        return function(key, *args, **kwargs)

    for name in ("split", "bernoulli", "uniform", "normal"):
        monkeypatch.setattr(jax.random, name, partial(recorded, getattr(jax.random, name)))
    config = BASE.replace(everything)
    train_step, state = make_train_step(config), init_train_state(config, V)
    keys = [tuple(key.tolist()) for key in used]
    initial = (2 + 2 * L) + (1 + L)  # embedding, readout, each layer's W and U; what is split
    assert len(keys) == initial

    @jax.jit
    def keys_of(step):
        used.clear()
        hyper = Hyperparameters.of(config)
        train_step(hyper, state._replace(step=step), streams.batch_at(0))
        return used

    dropout, weights, zoneout, split = L + 1, L, 2 * L, 3 + L
    in_a_step = dropout + weights + zoneout + 2 + split  # and the symbols, and the resets
    for step in range(L + 4):
        keys += [tuple(key.tolist()) for key in keys_of(step)]
        assert len(keys) == initial + (step + 1) * in_a_step
    assert len(set(keys)) == len(keys)
