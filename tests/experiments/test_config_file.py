"""A config in a file: what it may say, where it stands between experiment and flags."""

import json

import pytest

from experiments.studies import verify_gradients
from lstm_jax.config import Config
from lstm_jax.run.description import Description
from lstm_jax.tasks.text import TextTask
from tests.cli import EVALUATE, call, is_one_line, line_of, process_in
from tests.small import CONFIG, TEXT

TOML = """
train.steps = 7

[model]
hidden_sizes = [3, 5]
dropout = 0

[optimizer]
name = "sgd"
momentum = 0.5
"""
WANTED = {
    "train.steps": 7,
    "model.hidden_sizes": [3, 5],
    "model.dropout": 0.0,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.5,
}
SMALL = "--experiment=tiny_shakespeare_small"


@pytest.fixture
def folder(tmp_path):
    with process_in(tmp_path):
        yield tmp_path


@pytest.fixture
def trained(folder, monkeypatch):
    """The configs that would have been trained."""
    configs = []
    monkeypatch.setattr(
        "experiments.command.modes.train", lambda config, *_: configs.append(config.flatten()) or 0
    )
    return configs


def refused(*line):
    code, stdout, stderr = call(*line)
    assert code == 2 and stdout == "" and is_one_line(stderr), stderr
    return stderr


@pytest.mark.parametrize("kind", ["toml", "json", "full names"])
def test_a_file_changes_the_experiment_and_flags_change_the_file(kind, folder, trained):
    contents = {
        "toml": ("x.toml", TOML),
        "json": (
            "x.json",
            json.dumps(
                {
                    "train": {"steps": 7},
                    "model": {"hidden_sizes": [3, 5], "dropout": 0},
                    "optimizer": {"name": "sgd", "momentum": 0.5},
                }
            ),
        ),
        "full names": ("y.json", json.dumps(WANTED)),
    }
    name, content = contents[kind]
    (folder / name).write_text(content)
    line = [SMALL, f"--config_file={name}"]
    assert call(*line).code == 0 and call(*line, "--config.train.steps=9").code == 0
    assert call(SMALL).code == 0
    changed, by_flag, plain = trained
    assert changed == plain | WANTED
    assert by_flag == plain | WANTED | {"train.steps": 9}


def test_a_runs_own_config_is_one(folder, trained):
    """Also where it says what the others of its options leave without a meaning."""
    config = CONFIG.replace({"evaluate.lanes": 1, "evaluate.warmup": 7, "data.train_chars": 400})
    described = Description.of(config, TextTask(config, TEXT)).to_json()
    (folder / "config.json").write_text(json.dumps(described))
    for experiment in (SMALL, "--experiment=notebook"):
        assert call(experiment, "--config_file=config.json").code == 0
        assert trained.pop() == config.flatten()
    assert call("--config_file=config.json", "--config.train.seed=3").code == 0
    assert trained.pop() == config.flatten() | {"train.seed": 3}


def test_a_study_takes_what_it_reads_of_a_runs_own_config(folder, monkeypatch):
    configs = []
    monkeypatch.setattr(verify_gradients, "main", lambda config, _: configs.append(config) or 0)
    described = Description.of(CONFIG, TextTask(CONFIG, TEXT)).to_json()
    (folder / "config.json").write_text(json.dumps(described))
    assert call("--experiment=verify_gradients", "--config_file=config.json").code == 0
    (config,) = configs
    assert config.model == CONFIG.model and config.optimizer == Config().optimizer


WRONG = {
    "x.yaml": ("", "ends with neither .toml nor .json"),
    "gone.toml": (None, "cannot be read: No such file"),
    "broken.toml": ("[model", "cannot be read: "),
    "broken.json": ("{", "cannot be read: "),
    "binary.toml": ("\udcff", "cannot be read: "),
    "deep.json": ("[" * 100_000, "cannot be read: "),
    "deep.toml": ("a = " + "[" * 100_000, "cannot be read: "),
    "list.json": ("[]", "has no keys"),
    "key.toml": ("model.hiden_size = 3", "no key 'model.hiden_size': did you mean model.hidden"),
    "section.json": ('{"model": 3}', "no key 'model'"),
    "type.toml": ("model.hidden_size = 1.5", "model.hidden_size takes an integer, not 1.5"),
    "text.json": ('{"train": {"steps": "7"}}', "train.steps takes an integer, not '7'"),
    "bool.toml": ("train.steps = true", "train.steps takes an integer, not True"),
    "range.toml": ("model.dropout = 1", "model.dropout lies between 0 and 0.99; not 1"),
    "nan.toml": ("model.dropout = nan", "model.dropout lies between 0 and 0.99; not nan"),
    "choice.toml": ("model.cell = 'lsmt'", "model.cell is one of lstm, "),
    "twice.json": ('{"model.dropout": 0.1, "model": {"dropout": 0.2}}', "has model.dropout twice"),
    "together.toml": ("optimizer.momentum = 0.5", "optimizer.momentum=0.5 means nothing to adamw"),
    "ignored.toml": (
        "evaluate = {lanes = 1, warmup = 7}",
        "--config.evaluate.warmup means nothing at evaluate.lanes=1",
    ),
    "whole.json": ('{"format": 1, "config": 3}', "the config has no key ''"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_file_cannot_say(name, folder):
    content, message = WRONG[name]
    if content is not None:
        (folder / name).write_text(content, errors="surrogateescape")
    said = refused(f"--config_file={name}", "--workdir=run")
    assert message in said and f"--config_file={name}" in said
    assert not (folder / "run").exists()


def test_what_an_experiment_or_a_mode_does_not_read(folder):
    (folder / "x.toml").write_text("optimizer.learning_rate = 1")
    for line, reader in (
        (["--experiment=verify_gradients"], "--experiment=verify_gradients"),
        (line_of(EVALUATE), "--mode=evaluate"),
    ):
        said = refused(*line, "--config_file=x.toml")
        assert f"--config_file=x.toml has, means nothing to {reader}" in said


@pytest.mark.parametrize("flag", ["config=x.toml", "config.model=3"])
def test_a_flag_that_was_meant_is_named(flag):
    said = refused(f"--{flag}")
    assert f"--{flag.partition('=')[0]}: did you mean --config_file=FILE, or " in said
