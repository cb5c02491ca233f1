"""The device check: it runs to its end in small, and each of its checks can fail."""

import json

import jax
import numpy as np
import pytest

from experiments.studies import device_check, verify_recipes
from lstm_jax.config import Config, ModelConfig, TrainConfig
from lstm_jax.run.metrics import METRICS
from lstm_jax.run.signals import Interrupted
from lstm_jax.verification.cases import Case

SMALL = device_check.get_config().replace(
    {
        "data.path": "text",
        "model.hidden_size": 4,
        "train.steps": 6,
        "train.batch_size": 2,
        "train.sequence_length": 4,
        "train.validate_every": 2,
        "evaluate.lanes": 1,
        "evaluate.window_length": 8,
    }
)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The check with small shapes, its run on a CPU in this process."""
    (tmp_path / "text").write_text("to be or not to be\n" * 20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device_check, "get_config", lambda: SMALL)
    monkeypatch.setattr(device_check, "train_on_cpu", device_check.train)
    case = Case(ModelConfig(hidden_size=3), T=2, B=2)
    monkeypatch.setattr(device_check.verify_gradients, "all_cases", lambda: [case])
    monkeypatch.setattr(device_check.verify_gradients, "cases_of", lambda config: [])
    config = Config(
        model=ModelConfig(hidden_size=3), train=TrainConfig(batch_size=2, sequence_length=2)
    )
    monkeypatch.setattr(verify_recipes, "recipes", lambda: {"small": config})


@pytest.fixture
def finished(small, tmp_path, standard_promotion):
    return device_check.train(tmp_path / "finished")


@pytest.mark.long
def test_all_of_it(small, tmp_path, monkeypatch, capsys, standard_promotion):
    broken = lambda *args: 1 / 0  # noqa: E731
    assert device_check.main(Config(), tmp_path / "out") == 0
    checks = json.loads((tmp_path / "out" / "device_check.json").read_text())["checks"]
    assert len(checks) == 7 and all(check["holds"] for check in checks)
    assert jax.__version__ in capsys.readouterr().out
    # One that breaks off is a line of its own, and the others are still made.
    monkeypatch.setattr(device_check, "train", broken)
    monkeypatch.setattr(device_check, "layer_inside", lambda: (True, ""))
    assert device_check.main(Config(), tmp_path / "out") == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum("FAILED" in line and "ZeroDivisionError" in line for line in lines) >= 3
    assert sum(" holds " in line for line in lines) == 3


@pytest.mark.parametrize("stop", [Interrupted(15, 2), BrokenPipeError()])
def test_it_can_be_stopped(stop):
    """Which is no verdict on the device."""

    def check():
        raise stop

    with pytest.raises(type(stop)):
        device_check.attempt(check)


def test_a_resumed_run_begins_at_its_first_checkpoint(finished, tmp_path, capfd):
    resumed = device_check.resume(finished, tmp_path / "resumed")
    assert "resuming at step 2" in capfd.readouterr().err
    assert device_check.same_bits(resumed, finished)[0]


def test_one_bit_is_noticed(finished, tmp_path, monkeypatch):
    other = device_check.train(tmp_path / "other")
    assert device_check.same_bits(finished, other)[0]
    load_model = device_check.load_model

    def nudged(folder, which):
        state, description = load_model(folder, which)
        if folder != other:
            return state, description
        leaves, structure = jax.tree.flatten(state)
        return structure.unflatten([*leaves[:-1], np.nextafter(leaves[-1], 9)]), description

    monkeypatch.setattr(device_check, "load_model", nudged)
    holds, found = device_check.same_bits(finished, other)
    assert not holds and found.startswith("1 of ")


def test_losses_that_are_too_far_are_noticed(finished, tmp_path):
    other = device_check.train(tmp_path / "other")
    assert device_check.compare_losses(finished, other, 1e-6)[0]
    lines = [json.loads(line) for line in (other / METRICS).read_text().splitlines()]
    lines[1]["val_loss_windows"] += 1e-3
    (other / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not device_check.compare_losses(finished, other, 1e-4)[0]


def test_a_wrong_layer_is_noticed(monkeypatch):
    def scaled(params, state, x):
        final, h_TxBxH = device_check.unroll(params, state, x)
        return final, h_TxBxH * (1 + 1e-4)

    monkeypatch.setattr(device_check, "bptt_layer", scaled)
    holds, found = device_check.layer_inside()
    assert not holds and "FAILED: bptt_layer ~ unroll" in found
