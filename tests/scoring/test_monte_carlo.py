"""Monte Carlo dropout: against the mean over every network that can be drawn, added up in NumPy."""

import itertools
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from lstm_jax.errors import UserError
from lstm_jax.model import init_model
from lstm_jax.scoring.monte_carlo import check_drops, evaluate_monte_carlo, sample_network
from lstm_jax.scoring.protocols import evaluate
from tests.cli import TEXT, TRAIN, call, is_one_line, line_of, process_in

V, N = 4, 9
STRICT = EvaluateConfig(window_length=4, lanes=1)


def make(rng, **model):
    """A small model with large weights, its config, and a text."""
    config = Config(
        data=DataConfig(),
        model=ModelConfig(num_layers=1, **model),
        train=TrainConfig(gradient="autodiff"),
        evaluate=STRICT,
    )
    params = init_model(jax.random.key(0), config.model, V)
    params = jax.tree.map(lambda leaf: jnp.asarray(2 * rng.normal(size=leaf.shape)), params)
    layer = params.layers[0]
    params = params._replace(layers=(layer._replace(U=3 * layer.U),))
    return params, config, rng.integers(V, size=N).astype(np.uint8)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def chances(params, ids, mask_U, mask_h):
    """The probability of each character but the first, one layer from the zero state, in NumPy."""
    layer, readout = jax.tree.map(np.array, (params.layers[0], params.readout))
    H = len(mask_h)
    h, c, found = np.zeros(H), np.zeros(H), []
    for i, target in itertools.pairwise(ids):
        z = layer.W[i] + h @ (layer.U * mask_U) + layer.b
        i, f, g, o = (z[k * H : (k + 1) * H] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        powers = np.exp((h * mask_h) @ readout.W + readout.b)
        found.append(powers[target] / powers.sum())
    return np.array(found)


def masks_of(shape, rate):
    """Every mask of a shape, and how probable it is."""
    for kept in itertools.product([0, 1], repeat=int(np.prod(shape))):
        chance = np.prod([1 - rate if keep else rate for keep in kept])
        yield np.reshape(kept, shape) / (1 - rate), chance


def expected_loss(params, ids, config):
    """The loss of the mean over all networks, of one reading of `ids`."""
    H, rates = config.hidden_size, (config.weight_drop, config.dropout)
    drops_weights, drops_units = (rate > 0 for rate in rates)
    whole = [(np.ones((H, 4 * H)), 1.0)], [(np.ones(H), 1.0)]
    weights = masks_of((H, 4 * H), rates[0]) if drops_weights else whole[0]
    units = [*masks_of((H,), rates[1])] if drops_units else whole[1]
    total = sum(
        p * q * chances(params, ids, U, h) for (U, p), (h, q) in itertools.product(weights, units)
    )
    return -np.log(total)


@pytest.mark.parametrize(
    ("hidden_size", "rates"),
    [(3, {"dropout": 0.4}), (1, {"weight_drop": 0.5}), (1, {"dropout": 0.2, "weight_drop": 0.3})],
)
def test_many_draws_come_to_the_mean_over_all_networks(hidden_size, rates, x64):
    params, config, ids = make(np.random.default_rng(4), hidden_size=hidden_size, **rates)
    found = evaluate_monte_carlo(params, ids, config.model, config.evaluate, 400)
    windows = [expected_loss(params, ids[s : s + 5], config.model) for s in (0, 4)]
    wanted = expected_loss(params, ids, config.model).mean(), np.concatenate(windows).mean()
    # What is left of the difference to nothing dropped is chance.
    apart = np.abs(np.subtract(evaluate(params, ids, STRICT), wanted))
    assert (apart > 0.02).all() and (np.abs(np.subtract(found, wanted)) < apart / 4).all()


def test_one_draw_is_that_network(x64, rng):
    params, config, ids = make(rng, hidden_size=3, dropout=0.4, weight_drop=0.3)
    drawn, masks = sample_network(jax.random.key(0), params, config.model, 1, N - 1)
    mask_U = np.array(drawn.layers[0].U / params.layers[0].U)
    assert {*np.round(mask_U.ravel(), 6)} == {0, np.round(1 / 0.7, 6)}
    mask_h = np.array(masks.readout)[0]
    wanted = -np.log(chances(params, ids, mask_U, mask_h)).mean()
    assert evaluate_monte_carlo(
        params, ids, config.model, config.evaluate, 1
    ).stream == pytest.approx(wanted, abs=1e-12)


def test_the_draws_are_the_same_each_time_and_progress_is_told(x64, rng):
    params, config, ids = make(rng, hidden_size=3, dropout=0.4)
    told = []
    first = evaluate_monte_carlo(params, ids, config.model, config.evaluate, 3, told.append)
    assert first == evaluate_monte_carlo(params, ids, config.model, config.evaluate, 3)
    assert first != evaluate_monte_carlo(params, ids, config.model, config.evaluate, 4)
    np.testing.assert_allclose(told, np.arange(1, 7) / 6)


def test_lanes_have_masks_of_their_own(x64, rng):
    params, config, _ = make(rng, hidden_size=8, dropout=0.5, weight_drop=0.5)
    drawn, masks = sample_network(jax.random.key(0), params, config.model, 2, 1)
    assert masks.readout.shape == (2, 8) and (masks.readout[0] != masks.readout[1]).any()
    assert drawn.layers[0].U.shape == params.layers[0].U.shape


def test_no_key_is_used_twice(x64, rng, monkeypatch):
    """To draw with, or to be split: else the units would tell which weights are left out."""
    params, config, _ = make(
        rng, hidden_size=3, dropout=0.5, input_dropout=0.5, weight_drop=0.5, zoneout_cell=0.5
    )
    used = []

    def recorded(function, key, *args):
        used.append(tuple(jax.random.key_data(key).tolist()))
        return function(key, *args)

    for name in ("split", "bernoulli"):
        monkeypatch.setattr(jax.random, name, partial(recorded, getattr(jax.random, name)))
    for k in range(2):
        sample_network(jax.random.key(k), params, config.model, 1, 1)
    drawn = 5  # input, output, weights, zoneout's h and c
    split = 4  # the draw's own, the units', the weights', zoneout's
    assert len(used) == 2 * (drawn + split)
    assert len({*used}) == len(used)


DROPS = (
    *("dropout", "input_dropout", "embedding_dropout", "weight_drop"),
    *("zoneout_cell", "zoneout_hidden"),
)


@pytest.mark.parametrize("name", DROPS)
def test_each_thing_that_is_dropped_is_reason_enough_for_draws(name):
    config = ModelConfig(embedding_size=4)
    with pytest.raises(UserError, match="nothing dropped"):
        check_drops(config)
    check_drops(replace(config, **{name: 0.1}))


def test_zoneout_is_drawn_too(x64, rng):
    params, config, ids = make(rng, hidden_size=4, zoneout_cell=0.3, zoneout_hidden=0.2)
    found = [
        evaluate_monte_carlo(params, ids, config.model, config.evaluate, draws).stream
        for draws in (1, 2, 8)
    ]
    assert len({*found}) == 3 and np.isfinite(found).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with dropout and one without."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text").write_bytes(TEXT)
    changes = {"plain": {}, "dropped": {"config.model.dropout": "0.5"}}
    with process_in(folder):
        for name, change in changes.items():
            found = call(*line_of(TRAIN | {"workdir": name} | change))
            assert found.code == 0, found.stderr
    return folder


def test_the_command_line_scores_draws_on_lines_of_their_own(folder):
    with process_in(folder):
        alone = call("--mode=evaluate", "--workdir=dropped")
        found = call("--mode=evaluate", "--workdir=dropped", "--draws=5")
    assert found.code == 0
    lines = [{tuple(line.split()) for line in run.stdout.splitlines()} for run in (alone, found)]
    assert lines[0] < lines[1]
    assert found.stdout.count("(5 draws of what training drops, averaged; ") == 2
    added = dict(re.findall(r"validation_loss_(\w+)_draws +(\d\.\d{4}) nats", found.stdout))
    plain = dict(re.findall(r"validation_loss_(stream|windows) +(\d\.\d{4}) nats", found.stdout))
    assert added.keys() == plain.keys() == {"stream", "windows"}
    assert all(0 < abs(float(added[name]) - float(plain[name])) < 0.5 for name in plain)


def test_a_model_that_dropped_nothing_is_refused_before_it_is_scored(folder):
    with process_in(folder):
        found = call("--mode=evaluate", "--workdir=plain", "--draws=5")
    assert found.code == 2 and found.stdout == "" and is_one_line(found.stderr)
    assert "trained with nothing dropped" in found.stderr


@pytest.mark.parametrize("mode", ["train", "sample"])
def test_draws_mean_nothing_to_the_other_modes(mode, folder):
    with process_in(folder):
        found = call(f"--mode={mode}", "--workdir=dropped", "--draws=5")
    assert found.code == 2 and f"--draws means nothing to --mode={mode}" in found.stderr
