"""A config that exists is valid; what is wrong with one is said in one line."""

import dataclasses
import json

import pytest

from lstm_jax.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    check_read,
    fields_of,
)
from lstm_jax.data.corpora import CORPORA
from lstm_jax.errors import UserError
from lstm_jax.gradients import GRADIENTS
from lstm_jax.optimizer import OPTIMIZERS
from lstm_jax.sample import SamplingConfig
from lstm_jax.scoring.dynamic import DynamicConfig
from lstm_jax.tasks import TASKS


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.hidden_size": 0}, "model.hidden_size lies between 1 and 65536; not 0"),
        ({"model.hidden_size": 1.5}, "model.hidden_size takes an integer, not 1.5"),
        ({"model.hidden_size": True}, "model.hidden_size takes an integer, not True"),
        ({"model.dropout": float("nan")}, "model.dropout lies between 0 and 0.99; not nan"),
        ({"model.dropout": 1}, "lies between"),
        ({"optimizer.learning_rate": float("inf")}, "lies between"),
        (
            {"optimizer.name": "adamm"},
            "optimizer.name is one of adam, adamw, sgd, rmsprop; not 'adamm'",
        ),
        ({"optimizer.momentum": 0.9}, "optimizer.momentum=0.9 means nothing to adamw"),
        (
            {"optimizer.plateau_patience": 3},
            "optimizer.plateau_patience=3 means nothing to the cosine schedule",
        ),
        (
            {"optimizer.schedule": "constant", "optimizer.plateau_factor": 0.3},
            "optimizer.plateau_factor=0.3 means nothing to the constant schedule",
        ),
        ({"train.steps": None}, "takes an integer"),
        (
            {"model.cell": "mogrifier", "model.mogrifier_rounds": 0, "model.mogrifier_rank": 2},
            "model.mogrifier_rank=2 needs rounds of it",
        ),
        ({"model.chrono": 9, "model.forget_bias": 2}, "take model.chrono=0"),
        (
            {"model.embedding_size": 8, "model.readout": "tied", "model.readout_rank": 4},
            "readout_rank=4 means nothing beside model.readout=tied: leave it out, or take",
        ),
        (
            {"model.readout_rank": 4, "model.init": "notebook"},
            "means nothing beside model.readout_rank=4: leave it out, or take model.readout_rank=0",
        ),
        (
            {"data.task": "digits", "data.permutation_seed": 3},
            "data.permutation_seed=3 needs data.pixels=permuted",
        ),
        ({"train.remat_every": -1}, "train.remat_every lies between 0 and"),
        (
            {"train.batch_size": 6, "train.accumulate": 4},
            "train.accumulate=4 does not divide train.",
        ),
        ({"train.remat_every": 2.5}, "train.remat_every takes an integer, not 2.5"),
        ({"model.hidden": 3}, "no key 'model.hidden'"),
        ({"hidden_size": 3}, "no key 'hidden_size'"),
        ({"data.path": 3}, "data.path takes a text"),
    ],
)
def test_a_wrong_value_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        Config().replace(changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, ignored",
    [
        ({"evaluate.lanes": 1, "evaluate.warmup": 7}, "evaluate.warmup"),
        ({"data.validation_fraction": 0, "evaluate.lanes": 9}, "evaluate.lanes"),
        ({"data.validation_fraction": 0, "evaluate.window_length": 9}, "evaluate.window_length"),
        ({"train.sequence_length": 8, "train.remat_every": 8}, "train.remat_every"),
        (
            {"train.steps": 5, "optimizer.warmup_steps": 5, "optimizer.schedule": "constant"},
            "optimizer.schedule",
        ),
        (
            {"train.steps": 5, "optimizer.warmup_steps": 6, "optimizer.final_ratio": 0.1},
            "optimizer.final_ratio",
        ),
    ],
)
def test_a_value_that_the_others_leave_without_a_meaning(changes, ignored):
    config = Config().replace(changes)
    with pytest.raises(
        UserError, match=f"^--config.{ignored} means nothing at [^\n]*leave it out$"
    ):
        check_read(config, changes)
    check_read(config, [name for name in changes if name != ignored])  # a default of somebody's


def test_a_value_that_still_means_something():
    for changes in (
        {"evaluate.lanes": 2, "evaluate.warmup": 7},
        {"evaluate.lanes": 1, "evaluate.window_length": 7},
        {"train.sequence_length": 8, "train.remat_every": 7},
        {"train.steps": 5, "optimizer.warmup_steps": 4, "optimizer.final_ratio": 0.1},
    ):
        check_read(Config().replace(changes), changes)


AUTODIFF = {"train.gradient": "autodiff"}
# What a config has, what then changes, and the options that this leaves without a meaning.
HELD = [
    ({"model.forget_bias": 5}, {"model.chrono": 784}, ["forget_bias"]),
    ({"model.forget_bias": 5}, {"model.cell": "gru"}, ["forget_bias"]),
    ({"model.zoneout_cell": 0.1}, {"model.cell": "gru"}, ["zoneout_cell"]),
    (
        {"model.cell": "mogrifier", "model.mogrifier_rounds": 3, **AUTODIFF},
        {"model.cell": "coupled"},
        ["mogrifier_rounds"],
    ),
    (
        {"model.cell": "mogrifier", "model.mogrifier_rank": 2, **AUTODIFF},
        {"model.mogrifier_rounds": 0},
        ["mogrifier_rank"],
    ),
    (
        {"model.embedding_size": 8, "model.embedding_dropout": 0.1, "model.readout": "tied"},
        {"model.embedding_size": 0, "model.readout_rank": 4},
        ["embedding_dropout", "readout"],
    ),
    (
        {"model.embedding_size": 8, "model.readout_rank": 4},
        {"model.readout": "tied"},
        ["readout_rank"],
    ),
    ({"model.init": "notebook"}, {"model.readout_rank": 4}, ["init"]),
    ({"model.num_layers": 2, "model.skip": "weighted"}, {"model.num_layers": 1}, ["skip"]),
    ({"optimizer.weight_decay": 0.2}, {"optimizer.name": "rmsprop"}, ["weight_decay"]),
    (
        {"optimizer.name": "sgd", "optimizer.momentum": 0.9},
        {"optimizer.name": "adam", "optimizer.b1": 0.5},
        ["momentum"],
    ),
    (
        {"optimizer.schedule": "plateau", "optimizer.plateau_factor": 0.5},
        {"optimizer.schedule": "cosine", "optimizer.final_ratio": 0.1},
        ["plateau_factor"],
    ),
    ({"optimizer.final_ratio": 0.1}, {"optimizer.schedule": "constant"}, ["final_ratio"]),
    (
        {"train.average": "ema", "train.average_decay": 0.9},
        {"train.average": "triggered"},
        ["average_decay"],
    ),
    (
        {"data.task": "digits", "data.pixels": "permuted", "data.permutation_seed": 3},
        {"data.pixels": "rows"},
        ["permutation_seed"],
    ),
    ({"data.task": "copy_memory", "data.blanks": 99}, {"data.task": "adding"}, ["blanks"]),
]


@pytest.mark.parametrize("has, changes, idle", HELD)
def test_a_value_that_a_change_leaves_without_a_meaning_is_at_its_default_again(has, changes, idle):
    """It is refused where it is given, too, and where the whole section is made at once."""
    config, default = Config().replace(has), Config().flatten()
    section = next(iter(changes)).partition(".")[0]
    names = [f"{section}.{name}" for name in idle]
    changed = config.replace(changes)
    assert changed.flatten() == config.flatten() | changes | {n: default[n] for n in names}
    assert Config().replace(changed.flatten()) == changed
    in_section = {name.partition(".")[2]: value for name, value in (has | changes).items()}
    in_section = {k: v for k, v in in_section.items() if k in fields_of(section)}
    with pytest.raises(UserError, match=r"needs|means nothing"):
        type(getattr(config, section))(**in_section)
    for name in names:
        with pytest.raises(UserError, match=f"^{name}=.* (needs|means nothing)"):
            config.replace(changes | {name: has[name]})
        at_default = config.replace(changes | {name: default[name]})
        with pytest.raises(UserError, match=f"^--config.{name}=.* (needs|means nothing)"):
            check_read(at_default, [*changes, name])


RATES = ("dropout", "input_dropout", "embedding_dropout", "weight_drop")
# What would divide by zero, or leave every unit as it is, at 1.
BELOW_ONE = {
    **{f"model.{name}": {"model.embedding_size": 4} for name in RATES},
    **{f"model.zoneout_{of}": {"train.gradient": "autodiff"} for of in ("cell", "hidden")},
    **{f"optimizer.{name}": {} for name in ("b1", "b2")},
    "train.average_decay": {"train.average": "ema"},
    "data.validation_fraction": {},
}


@pytest.mark.parametrize("name", BELOW_ONE)
def test_what_must_stay_below_one_does(name):
    config = Config().replace(BELOW_ONE[name])
    for value in (0, 0.9):
        assert config.replace({name: value}).flatten()[name] == value
    for value in (-1e-9, 1):
        with pytest.raises(UserError, match=f"{name} lies between 0 and 0.9"):
            config.replace({name: value})


@pytest.mark.parametrize(
    "section, wrong",
    [
        (DataConfig, {"train_chars": -1}),
        (ModelConfig, {"num_layers": 0}),
        (OptimizerConfig, {"clip_norm": -1.0}),
        (TrainConfig, {"steps": 0}),
        (EvaluateConfig, {"lanes": 0}),
        (SamplingConfig, {"temperature": -1.0}),
        (DynamicConfig, {"rate": -1.0}),
    ],
)
def test_no_section_exists_with_a_wrong_value(section, wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"{section.prefix}{name} lies between"):
        section(**wrong)


def test_the_ends_of_a_range_are_in_it():
    for name in ("model.hidden_size", "train.batch_size", "evaluate.warmup", "train.reset_rate"):
        section, _, key = name.partition(".")
        meta = fields_of(section)[key].metadata
        for value in (meta["low"], meta["high"]):
            assert Config().replace({name: value}).flatten()[name] == value
        for value in (meta["low"] - 1, meta["high"] + 1):
            with pytest.raises(UserError, match=f"{name} lies between"):
                Config().replace({name: value})


# More than anybody needs, and less than is refused.
ROOM = {
    "model.hidden_size": 10_000,
    "model.num_layers": 24,
    "model.embedding_size": 10_000,
    "train.steps": 10**9,
    "train.batch_size": 10**5,
    "train.sequence_length": 10**6,
    "train.remat_every": 10**5,
    "train.seed": 2**32 - 1,
    "train.steps_per_dispatch": 10**4,
    "train.validate_every": 10**9,
    "train.sample_length": 10**5,
    "train.keep_checkpoints": 500,
    "evaluate.window_length": 10**6,
    "evaluate.lanes": 10**5,
    "evaluate.warmup": 10**6,
    "optimizer.learning_rate": 100.0,
    "optimizer.warmup_steps": 10**6,
    "optimizer.clip_norm": 1e6,
    "model.forget_bias": -20.0,
    "data.train_chars": 10**10,
}


def test_what_people_ask_for_is_in_range():
    assert Config().replace(ROOM).flatten().items() >= ROOM.items()
    DynamicConfig(segment_length=10**5, rate=10.0, epsilon=1e-10)
    SamplingConfig(temperature=100.0, top_k=10**6)


# A run from before an option existed is read as one with its default; and without the same protocol
# two losses cannot be compared.
DEFAULTS = {
    "data.task": "text",
    "data.length": 100,
    "data.held_out": 2560,
    "data.path": "",
    "data.validation_fraction": 0.1,
    "data.train_chars": 0,
    "model.hidden_size": 128,
    "model.num_layers": 1,
    "model.embedding_size": 0,
    "model.dropout": 0.0,
    "model.input_dropout": 0.0,
    "model.embedding_dropout": 0.0,
    "model.weight_drop": 0.0,
    "model.zoneout_cell": 0.0,
    "model.zoneout_hidden": 0.0,
    "model.cell": "lstm",
    "model.mogrifier_rounds": 5,
    "model.mogrifier_rank": 0,
    "model.hidden_sizes": [],
    "model.skip": "none",
    "model.readout": "full",
    "model.readout_rank": 0,
    "model.forget_bias": 1.0,
    "model.chrono": 0,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 2e-3,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_steps": 0,
    "optimizer.clip_norm": 1.0,
    "optimizer.b1": 0.9,
    "optimizer.b2": 0.999,
    "optimizer.weight_decay": 1e-4,
    "optimizer.decay": 0.9,
    "optimizer.momentum": None,
    "optimizer.final_ratio": 0.0,
    "train.steps": 2000,
    "train.batch_size": 64,
    "train.sequence_length": 128,
    "train.seed": 0,
    "train.reset_rate": 0.0,
    "train.average": "none",
    "train.average_decay": 0.999,
    "train.average_patience": 5,
    "train.gradient": "bptt",
    "train.precision": "float32",
    "train.remat_every": 0,
    "train.accumulate": 1,
    "train.on_nonfinite": "stop",
    "train.steps_per_dispatch": 20,
    "train.validate_every": 200,
    "train.sample_length": 400,
    "train.keep_checkpoints": 2,
    "evaluate.window_length": 256,
    "evaluate.lanes": 64,
    "evaluate.warmup": 1024,
}


def test_the_defaults_stay_what_they_are():
    assert DEFAULTS.items() <= Config().flatten().items()
    assert SamplingConfig() == SamplingConfig(temperature=0.8, top_k=0, top_p=1.0)
    wanted = DynamicConfig("rms", segment_length=20, rate=1e-3, decay=1e-3, epsilon=1e-4)
    assert DynamicConfig() == wanted


def test_replace_changes_what_it_names_and_nothing_else():
    config = Config().replace({"model.hidden_size": 7, "optimizer.learning_rate": 1})
    assert config.model == ModelConfig(hidden_size=7)
    assert config.optimizer.learning_rate == 1.0 and type(config.optimizer.learning_rate) is float
    assert (config.data, config.train) == (DataConfig(), TrainConfig())


def test_a_config_survives_json():
    config = Config(optimizer=OptimizerConfig(name="sgd", momentum=0.9))
    assert Config().replace(json.loads(json.dumps(config.flatten()))) == config


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model.hidden_size = 3


@pytest.mark.parametrize(
    "section, key, table",
    [
        (OptimizerConfig, "name", OPTIMIZERS),
        (TrainConfig, "gradient", GRADIENTS),
        (DataConfig, "task", TASKS),
        (DataConfig, "corpus", CORPORA),
    ],
)
def test_the_choices_are_the_tables_keys(section, key, table):
    assert section.__dataclass_fields__[key].metadata["choices"] is table
