"""Ensembles: probabilities are averaged, by hand in NumPy, in a call and by the command line."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.support import scoring
from lstm_jax.config import EvaluateConfig, ModelConfig
from lstm_jax.data.batches import split_ids
from lstm_jax.model import apply, init_carry, init_model
from lstm_jax.run.checkpoint import load_model
from lstm_jax.scoring.ensemble import evaluate_ensemble, mix
from lstm_jax.scoring.protocols import evaluate
from tests.cli import TEXT, TRAIN, call, is_one_line, line_of, process_in

V, N = 6, 83
STRICT = EvaluateConfig(window_length=10, lanes=1)


@pytest.fixture
def models_and_ids(x64, rng):
    """Two models of different sizes."""

    def model(hidden_size):
        params = init_model(jax.random.key(0), ModelConfig(hidden_size=hidden_size), V)
        return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params), None

    return [model(5), model(3)], rng.integers(V, size=N).astype(np.uint8)


def chances(params, ids):
    """The probability that a model gives each character but the first."""
    logits, _ = apply(params, init_carry(params, 1), ids[:-1, None])
    powers = np.exp(np.array(logits)[:, 0])
    return (powers / powers.sum(axis=1, keepdims=True))[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize("M", [1, 2, 5])
def test_mix_averages_probabilities(M, rng):
    losses = rng.exponential(3.0, size=(M, 40))
    np.testing.assert_allclose(mix(losses), -np.log(np.exp(-losses).mean(axis=0)), rtol=1e-12)
    if M > 1:
        assert abs(mix(losses) - losses.mean(axis=0)).max() > 0.1


def test_mix_knows_no_underflow_and_computes_in_float64():
    losses = np.array([[2000.0, 1e-3], [2001.0, 1e-3]], np.float32)
    wanted = [2000 + np.log(2) - np.log1p(np.exp(-1.0)), np.float64(np.float32(1e-3))]
    assert mix(losses).dtype == np.float64
    np.testing.assert_allclose(mix(losses), wanted, rtol=1e-12)


def test_an_ensemble_of_one_or_of_twins_is_the_model(models_and_ids):
    (model, _), ids = models_and_ids
    for config in (STRICT, EvaluateConfig(window_length=10, lanes=7, warmup=5)):
        plain = evaluate(model[0], ids, config)
        for members in ([model], [model, model]):
            found = evaluate_ensemble(members, ids, config)
            np.testing.assert_allclose(found, plain, rtol=1e-12)


def test_an_ensemble_of_two_is_the_mean_of_their_softmaxes(models_and_ids):
    models, ids = models_and_ids
    found = evaluate_ensemble(models, ids, STRICT)
    each = np.array([chances(params, ids) for params, _ in models])
    wanted = -np.log(each.mean(axis=0)).mean()
    assert found.stream == pytest.approx(wanted, abs=1e-12)
    assert abs(found.stream + np.log(each).mean()) > 1e-3
    windows = [
        np.concatenate([chances(params, ids[s : s + 11]) for s in range(0, N - 1, 10)])
        for params, _ in models
    ]
    wanted = -np.log(np.mean(windows, axis=0)).mean()
    assert found.windows == pytest.approx(wanted, abs=1e-12)


def test_an_ensemble_is_no_worse_than_its_members_on_average(models_and_ids):
    """By Jensen's inequality; and the order of the members does not matter."""
    models, ids = models_and_ids
    found = evaluate_ensemble(models, ids, STRICT)
    members = [evaluate(params, ids, STRICT) for params, _ in models]
    assert (np.array(found) < np.mean(members, axis=0)).all()
    np.testing.assert_allclose(evaluate_ensemble(models[::-1], ids, STRICT), found, rtol=1e-12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs a and b on one text, of two sizes; c on another text of the same alphabet; d on another
    split; e as a with another seed, and its copy."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text").write_bytes(TEXT)
    (folder / "other").write_bytes(TEXT[::-1])
    changes = {
        "a": {},
        "b": {"config.model.hidden_size": "5", "config.train.average": "ema"},
        "c": {"config.data.path": "other"},
        "d": {"config.data.validation_fraction": "0.2"},
        "e": {"config.train.seed": "1"},
    }
    with process_in(folder):
        for name, change in changes.items():
            found = call(*line_of(TRAIN | {"workdir": name} | change))
            assert found.code == 0, found.stderr
    shutil.copytree(folder / "e", folder / "copy of e")
    (folder / "link to a").symlink_to("a")
    return folder


@pytest.fixture
def inside(folder):
    with process_in(folder):
        yield folder


def ensemble(workdir, *others):
    return call("--mode=evaluate", f"--workdir={workdir}", f"--ensemble={','.join(others)}")


def losses_in(stdout):
    return {
        name: float(loss)
        for name, loss in re.findall(r"(validation_\w+) +(\d\.\d{4}) nats", stdout)
    }


def test_the_command_line_scores_an_ensemble_on_lines_of_its_own(inside):
    alone = {name: call("--mode=evaluate", f"--workdir={name}").stdout for name in "ab"}
    found = ensemble("a", "b")
    losses, of_a = losses_in(found.stdout), losses_in(alone["a"])
    assert found.code == 0 and losses.items() >= of_a.items()
    added = {name: loss for name, loss in losses.items() if name not in of_a}
    assert added.keys() == {f"validation_loss_{name}_ensemble" for name in ("stream", "windows")}
    assert found.stdout.count("2 models, averaged; ") == 2
    one, two = losses_in(alone["a"]), losses_in(alone["b"])
    for protocol in ("stream", "windows"):
        mean = (one[f"validation_loss_{protocol}"] + two[f"validation_loss_{protocol}_average"]) / 2
        assert added[f"validation_loss_{protocol}_ensemble"] <= mean + 1e-4

    loaded = [load_model(inside / name, "best") for name in "ab"]
    text = np.array([*TEXT])
    ids = split_ids(
        np.unique(text, return_inverse=True)[1], loaded[0][1].config.data.validation_fraction
    ).validation
    members = [(state.eval_params, None) for state, _ in loaded]
    wanted = evaluate_ensemble(members, ids, loaded[0][1].config.evaluate)
    assert added["validation_loss_stream_ensemble"] == pytest.approx(wanted.stream, abs=1e-4)
    assert added["validation_loss_windows_ensemble"] == pytest.approx(wanted.windows, abs=1e-4)


def test_three_runs_are_an_ensemble_too(inside):
    assert ensemble("a", "b", "e").stdout.count("3 models, averaged; ") == 2


@pytest.mark.parametrize(
    "others, twice, first",
    [
        (["a"], "a", "a"),
        (["b", "./a/"], "./a/", "a"),
        (["../{}/a"], "../{}/a", "a"),
        (["link to a"], "link to a", "a"),
        (["b", "e", "b"], "b", "b"),
        (["e", "copy of e"], "copy of e", "e"),
    ],
)
def test_no_model_counts_twice(others, twice, first, inside, monkeypatch):
    """By another spelling, by a link, named twice, as a copy: refused before anything is scored."""
    monkeypatch.setattr(scoring, "evaluate", None)
    found = ensemble("a", *(other.format(inside.name) for other in others))
    assert found.code == 2 and found.stdout == "" and is_one_line(found.stderr)
    assert (
        f"--ensemble={twice.format(inside.name)} holds the same model as {first}," in found.stderr
    )


@pytest.mark.parametrize("other", ["c", "d"])
def test_a_run_on_another_text_or_split_is_refused(other, inside):
    found = ensemble("a", "b", other)
    assert found.code == 2 and found.stdout == "" and is_one_line(found.stderr)
    assert f"--ensemble={other} was trained on another text or split than a: name" in found.stderr


def test_a_folder_that_holds_no_run_is_refused(inside):
    found = ensemble("a", "nowhere")
    assert found.code == 2 and found.stdout == "" and is_one_line(found.stderr)
    assert "nowhere holds no checkpoints folder" in found.stderr


@pytest.mark.parametrize("given", ["", ",", "b,", ",b"])
def test_an_empty_name_is_refused(given, inside):
    found = call("--mode=evaluate", "--workdir=a", f"--ensemble={given}")
    assert found.code == 2 and "--ensemble has an empty name" in found.stderr


def test_a_file_is_no_run(inside):
    found = ensemble("a", "text")
    assert found.code == 2 and "--ensemble=text is a file, not a folder" in found.stderr


def test_what_can_be_refused_is_refused_before_anything_is_scored(inside, monkeypatch):
    monkeypatch.setattr(scoring, "evaluate", None)
    assert ensemble("a", "c").code == 2
    found = call("--mode=evaluate", "--workdir=a", "--dynamic", "--dynamic_rate=-1")
    assert found.code == 2 and is_one_line(found.stderr)


@pytest.mark.parametrize("mode", ["train", "sample"])
def test_an_ensemble_means_nothing_to_the_other_modes(mode, inside):
    found = call(f"--mode={mode}", "--workdir=a", "--ensemble=b")
    assert found.code == 2 and is_one_line(found.stderr)
    assert f"--ensemble means nothing to --mode={mode}" in found.stderr
