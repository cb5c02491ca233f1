"""Averages of the parameters: what they are by a loop in NumPy, and what a run makes of them."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.command import modes
from experiments.support import scoring
from lstm_jax.averaging import WAITING, Average, begin, should_begin, update_average
from lstm_jax.config import Config, TrainConfig
from lstm_jax.data.batches import Streams, split_ids, stack_batches
from lstm_jax.errors import UserError
from lstm_jax.hyperparameters import Hyperparameters
from lstm_jax.run.checkpoint import Checkpoints, load_model
from lstm_jax.run.metrics import read_metrics
from lstm_jax.scoring.protocols import evaluate
from lstm_jax.tasks import text
from lstm_jax.train import init_train_state, make_dispatch, make_train_step
from lstm_jax.verification.compare import UNOPTIMIZED
from tests.cli import EVALUATE, SAMPLE, TRAIN, call, line_of, process_in
from tests.cli import TEXT as TRAINED_ON
from tests.run.test_loop import Stop, stop_after
from tests.small import CONFIG, TEXT, assert_same_run, run_in

pytestmark = pytest.mark.usefixtures("standard_promotion")

V, STEPS = len(TEXT.vocabulary), 12
# A rate so high that the validation loss soon stalls; and every test compiles the same program.
BASE = CONFIG.replace(
    {
        "model.num_layers": 1,
        "optimizer.learning_rate": 0.3,
        "optimizer.schedule": "constant",
        "train.steps": 18,
        "train.steps_per_dispatch": 1,
        "train.validate_every": 3,
    }
)
KINDS = {
    "none": {},
    "ema": {"train.average": "ema", "train.average_decay": 0.8},
    "triggered": {"train.average": "triggered", "train.average_patience": 0},
}


def flat(params):
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(params)])


def validated(workdir):
    """The lines of metrics that a validation wrote."""
    return [line for line in read_metrics(workdir) if "val_loss_stream" in line]


def steps_of(kind, rng, begins=None):
    """The parameters and their average after each of some training steps, as flat vectors; the
    average is told to begin after `begins` of them."""
    config = BASE.replace(KINDS[kind])
    streams = Streams(rng.integers(V, size=200).astype(np.uint8), 3, 4)
    dispatch, hyper = make_dispatch(config), Hyperparameters.of(config)
    state, seen = init_train_state(config, V), []
    for step in range(STEPS):
        state, _ = dispatch(hyper, state, stack_batches([streams.batch_at(step)]))
        seen.append((flat(state.params), flat(state.average.params)))
        if step + 1 == begins:
            state = state._replace(average=begin(state.average))
    return map(np.array, zip(*seen, strict=True))


def test_ema_is_the_mean_of_the_first_updates_and_exponential_afterwards(rng):
    params, averages = steps_of("ema", rng)

    def by_hand(decay):
        wanted = [params[0]]
        for count, latest in enumerate(params[1:], start=2):
            decay_now = min(decay, 1 - 1 / count)
            wanted.append(decay_now * wanted[-1] + (1 - decay_now) * latest)
        return wanted

    np.testing.assert_allclose(averages[4], params[:5].mean(axis=0), atol=2e-5)
    np.testing.assert_allclose(averages, by_hand(0.8), atol=2e-5)
    assert abs(averages - by_hand(0.85)).max() > 1e-3
    assert abs(averages[-1] - params.mean(axis=0)).max() > 1e-3


def test_an_updates_weight_is_a_thousandth_once_there_were_a_thousand():
    """Where no decay is named, as the help of `train.average_decay` has it."""
    for count, weight in (1, 1 / 2), (99, 1 / 100), (4999, 1 / 1000):
        average = Average(jnp.zeros(1), jnp.asarray(count))
        found = update_average(average, jnp.ones(1), TrainConfig(average="ema"))
        assert float(found.params[0]) == pytest.approx(weight, rel=1e-4)
        assert int(found.count) == count + 1


def test_triggered_follows_the_latest_and_is_then_the_mean_of_all_that_follow(rng):
    params, averages = steps_of("triggered", rng, begins=5)
    np.testing.assert_array_equal(averages[:5], params[:5])
    wanted = [params[5:end].mean(axis=0) for end in range(6, STEPS + 1)]
    np.testing.assert_allclose(averages[5:], wanted, atol=2e-5)
    one_too_many = [params[4:end].mean(axis=0) for end in range(6, STEPS + 1)]
    assert abs(averages[5:] - one_too_many).max() > 1e-3


@pytest.mark.parametrize("kind", ["ema", "triggered"])
def test_a_skipped_update_counts_in_no_average(kind, rng):
    """The carry of one lane is spoilt before one step in the middle."""
    config = BASE.replace(KINDS[kind] | {"train.on_nonfinite": "skip"})
    streams = Streams(rng.integers(V, size=200).astype(np.uint8), 3, 4)
    dispatch, hyper = make_dispatch(config), Hyperparameters.of(config)
    state, seen = init_train_state(config, V), []
    for step in range(4):
        if step == 2:
            spoilt = state.carry[0]._replace(h=state.carry[0].h.at[1].set(jnp.nan))
            state = state._replace(carry=(spoilt,))
        elif step == 0 and kind == "triggered":
            state = state._replace(average=begin(state.average))
        state, _ = dispatch(hyper, state, stack_batches([streams.batch_at(step)]))
        seen.append((flat(state.params), flat(state.average.params), int(state.average.count)))
    params, averages, counts = map(np.array, zip(*seen, strict=True))
    assert counts.tolist() == [1, 2, 2, 3]
    np.testing.assert_array_equal(params[2], params[1])
    np.testing.assert_array_equal(averages[2], averages[1])
    np.testing.assert_allclose(averages[3], params[[0, 1, 3]].mean(axis=0), atol=2e-5)


def stalled(losses, n):
    """AWD-LSTM's rule, as algorithm 1 has it, for the last of the losses."""
    t = len(losses) - 1
    return t > n and any(losses[t] > losses[earlier] for earlier in range(t - n))


@pytest.mark.parametrize("patience", [0, 1, 2, 5, None])
def test_it_begins_by_the_rule_of_awd_lstm(patience, rng):
    given = {} if patience is None else {"average_patience": patience}
    config, n = TrainConfig(average="triggered", **given), given.get("average_patience", 5)
    waiting = Average((), jnp.asarray(WAITING))
    found, mutant = [], []
    for _ in range(200):
        losses = rng.integers(4, size=rng.integers(1, 9)).tolist()
        found.append(should_begin(waiting, losses, config))
        assert found[-1] == stalled(losses, n)
        assert not should_begin(begin(waiting), losses, config)
        mutant.append(stalled(losses, n + 1))
    assert {*found} == {True, False} and found != mutant


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each kind."""
    folders = {}
    for kind, changes in KINDS.items():
        folders[kind] = tmp_path_factory.mktemp(kind)
        with (
            jax.numpy_dtype_promotion("standard"),
            run_in(folders[kind], BASE.replace(changes)) as run,
        ):
            run.train()
            run.summary()
    return folders


def test_averaging_changes_no_bit_of_the_training_itself(rng):
    """With the emitters that training compiles with: what tests leave out may round otherwise."""
    as_trained = {name: True for name, value in UNOPTIMIZED.items() if value is False}
    streams, states = Streams(rng.integers(V, size=200).astype(np.uint8), 3, 4), {}
    for kind, changes in KINDS.items():
        config = BASE.replace(changes)
        train_step = jax.jit(make_train_step(config), compiler_options=as_trained)
        state, hyper = init_train_state(config, V), Hyperparameters.of(config)
        for step in range(6):
            if step == 3 and kind == "triggered":
                state = state._replace(average=begin(state.average))
            state, _ = train_step(hyper, state, streams.batch_at(step))
        states[kind] = state
    for kind in ("ema", "triggered"):
        state = states[kind]
        jax.tree.map(np.testing.assert_array_equal, state._replace(average=None), states["none"])
        assert (flat(state.average.params) != flat(state.params)).any()


@pytest.mark.parametrize("kind", ["ema", "triggered"])
def test_a_run_scores_its_average_by_both_protocols(kind, runs):
    names = {"val_loss_stream_average", "val_loss_windows_average"}
    lines = validated(runs[kind])
    assert len(lines) == 6 and all(line.keys() >= names for line in lines)
    assert not any(line.keys() & names for line in read_metrics(runs["none"]))
    state, description = load_model(runs[kind], "latest")
    validation = split_ids(TEXT.ids, description.config.data.validation_fraction).validation
    for params, suffix in ((state.params, ""), (state.average.params, "_average")):
        found = evaluate(params, validation, description.config.evaluate)
        assert lines[-1][f"val_loss_stream{suffix}"] == pytest.approx(found.stream, abs=1e-6)
        assert lines[-1][f"val_loss_windows{suffix}"] == pytest.approx(found.windows, abs=1e-6)
    assert abs(lines[-1]["val_loss_stream"] - lines[-1]["val_loss_stream_average"]) > 1e-4


def test_an_average_that_waits_is_scored_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(text, "evaluate", lambda *args: calls.append(args) or evaluate(*args))
    config = BASE.replace(KINDS["triggered"] | {"train.steps": 3})
    with run_in(tmp_path, config) as run:
        run.train()
    (line,) = validated(tmp_path)
    assert len(calls) == 1 and line["val_loss_stream"] == line["val_loss_stream_average"]


def test_a_run_begins_its_average_where_the_loss_first_stalls(runs):
    losses = [line["val_loss_stream"] for line in validated(runs["triggered"])]
    first = next(end for end in range(1, 7) if stalled(losses[:end], 0))
    state, _ = load_model(runs["triggered"], "latest")
    assert first < 6 and int(state.average.count) == 18 - 3 * first
    lines = validated(runs["triggered"])
    same = [line["val_loss_stream"] == line["val_loss_stream_average"] for line in lines]
    assert same == [True] * first + [False] * (6 - first)


@pytest.mark.parametrize(
    "kind, saved", [("ema", 6), pytest.param("triggered", 3, marks=pytest.mark.long)]
)
def test_a_killed_run_goes_on_to_the_same_average(kind, saved, runs, tmp_path):
    config = BASE.replace(KINDS[kind])
    with run_in(tmp_path, config) as run, pytest.raises(Stop):
        stop_after(run, saved + 1)
        run.train()
    with run_in(tmp_path, config) as again:
        assert again.step == saved
        again.train()
        again.summary()
    assert_same_run(tmp_path, runs[kind])
    assert load_model(tmp_path, "latest")[0].average is not None


@pytest.mark.parametrize("kind", ["ema", "triggered"])
def test_the_best_is_the_averages_best(kind, runs):
    lines = validated(runs[kind])
    best = min(lines, key=lambda line: line["val_loss_stream_average"])
    assert int(load_model(runs[kind], "best")[0].step) == best["step"]
    summary = json.loads((runs[kind] / "summary.json").read_text())
    assert summary["best_step"] == best["step"]
    assert summary["val_loss_stream_average"] == best["val_loss_stream_average"]


def test_the_best_is_the_averages_even_where_the_parameters_own_is_another(tmp_path):
    for step, raw, average in ((1, 1.0, 3.0), (2, 2.0, 2.5), (3, 3.0, 2.6)):
        path = tmp_path / "checkpoints" / str(step) / "metrics" / "metrics"
        path.parent.mkdir(parents=True)
        losses = {"val_loss_stream": raw, "val_loss_windows": raw}
        averages = {f"{name}_average": average for name in losses}
        path.write_text(json.dumps(losses | averages))
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.best_step([1, 2, 3]) == 2
    checkpoints.close()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train.average_decay": 0.9}, r"train.average_decay=\S+ needs train.average=ema"),
        (
            {"train.average_patience": 0},
            r"train.average_patience=\S+ needs train.average=triggered",
        ),
        (
            {"train.average": "triggered", "train.average_decay": 0.9},
            r"train.average_decay=\S+ needs train.average=ema",
        ),
        (
            {"train.average": "ema", "train.average_patience": 3},
            r"train.average_patience=\S+ needs train.average=triggered",
        ),
        (
            {"train.average": "triggered", "data.validation_fraction": 0.0},
            "train.average=triggered waits for a validation loss",
        ),
    ],
)
def test_a_config_that_means_nothing_is_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as refused:
        Config().replace(changes)
    assert str(refused.value).isprintable()
    # Each part alone is none the worse for the other's absence.
    for name, value in itertools.islice(changes.items(), len(changes) - 1):
        Config().replace({name: value})


def test_ema_needs_no_validation_split():
    Config().replace({"train.average": "ema", "data.validation_fraction": 0.0})


def test_all_that_is_done_with_a_run_afterwards_takes_its_average(tmp_path, monkeypatch):
    """But for the one pair of losses that is the parameters' own: those are spoilt here."""

    def spoilt(workdir, which):
        state, description = load_model(workdir, which)
        nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state.params)
        return state._replace(params=nothing), description

    (tmp_path / "text").write_bytes(TRAINED_ON)
    averaged = {"config.train.average": "ema", "config.model.dropout": "0.3"}
    flags = ["--dynamic", "--dynamic_rule=sgd", "--draws=2", "--ensemble=other"]
    looks = [line_of(EVALUATE) + flags, line_of(SAMPLE)]
    with process_in(tmp_path):
        for more in ({}, {"workdir": "other", "config.train.seed": "1"}):
            assert call(*line_of(TRAIN | averaged | more)).code == 0
        before = [call(*look).stdout.splitlines() for look in looks]
        for module in (modes, scoring):
            monkeypatch.setattr(module, "load_model", spoilt)
        after = [call(*look).stdout.splitlines() for look in looks]
    own = [
        line.split()[0] for line, other in zip(before[0], after[0], strict=True) if line != other
    ]
    assert own == ["validation_loss_stream", "validation_loss_windows"]
    assert len(before[0]) == 4 + 2 + 2 + 1
    assert before[1] == after[1]
