"""A run that begins with another's parameters: what goes where, and that it needs the other no
more."""

import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.data.vocabulary import Text, Vocabulary
from lstm_jax.errors import UserError
from lstm_jax.model import Interface, apply, init_carry, init_model, named_leaves
from lstm_jax.model_config import ModelConfig
from lstm_jax.run import beginning
from lstm_jax.run.beginning import begin_from
from lstm_jax.run.checkpoint import Checkpoints, load_model
from lstm_jax.run.description import Description
from lstm_jax.tasks.adding import AddingTask
from lstm_jax.tasks.text import TextTask
from lstm_jax.transfer import places_of, symbol_axes, transfer
from tests.small import CONFIG, TEXT, run_in

pytestmark = pytest.mark.usefixtures("standard_promotion")
OTHER = Text("other", (TEXT.ids + 1) % 3 + 1, Vocabulary("\n acd"), "another")
THERE, HERE = "\nabc", "\n acd"
MODELS = {
    "ids": ModelConfig(hidden_size=3, num_layers=2),
    "tied": ModelConfig(hidden_size=3, embedding_size=4, readout="tied"),
    "rank": ModelConfig(hidden_size=4, cell="mogrifier", readout_rank=4),
    "as many units as symbols": ModelConfig(hidden_size=5, cell="gru", embedding_size=4),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_of_what_it_knows_what_the_other_said(name):
    """Read and put out at other places; what is new is as it was drawn."""
    config = MODELS[name]
    trained = init_model(jax.random.key(1), config, len(THERE))
    drawn = init_model(jax.random.key(2), config, len(HERE))
    axes = symbol_axes(config, Interface.of(len(HERE)))
    found = transfer(trained, drawn, axes, places_of(THERE, HERE))
    text = "cca\naac"
    outputs = []
    for params, symbols in ((trained, THERE), (found, HERE)):
        ids_TxB = jnp.array([[symbols.index(symbol)] for symbol in text])
        logits_TxBxV, _ = apply(params, init_carry(params, 1), ids_TxB)
        outputs.append(np.asarray(logits_TxBxV)[..., [symbols.index(symbol) for symbol in "\nac"]])
    np.testing.assert_allclose(*outputs, rtol=1e-6, atol=1e-6)
    new = [HERE.index(symbol) for symbol in " d"]
    for leaf, axis in ((n, a) for n, a in axes.items() if a is not None):
        pair = (np.take(named_leaves(p)[leaf], new, axis) for p in (found, drawn))
        np.testing.assert_array_equal(*pair)


def test_the_places_of_symbols_are_those_of_any_list():
    for there, here, wanted in (
        (["the", "<unk>", "cat"], ["a", "cat", "the"], [[2, 0], [1, 2]]),
        ([1, 2], [3], [[], []]),
    ):
        assert [[*places] for places in places_of(there, here)] == wanted


def begun(workdir, config, init_from=None):
    return run_in(workdir, config, OTHER, init_from=init_from)


class Stop(Exception):
    pass


def test_it_needs_the_other_run_no_more_and_resumes_to_the_same_bits(finished, tmp_path, capfd):
    config = CONFIG.replace({"train.steps": 6, "train.sample_length": 5})
    other = shutil.copytree(finished, tmp_path / "other")
    with begun(tmp_path / "whole", config, other) as run:
        said = capfd.readouterr().err
        assert f"begun from {other}, step " in said
        assert "2 new symbols start fresh: ' ' 'd'; 1 of its symbols are left out: 'b'" in said
        best, _ = load_model(other, "best")
        np.testing.assert_array_equal(run.state.params.layers[0].U, best.params.layers[0].U)
        run.train()
    with begun(tmp_path / "killed", config, other) as run, pytest.raises(Stop):

        def stop(*_, **__):
            raise Stop

        run._report = stop
        run.train()
    shutil.rmtree(other)
    with begun(tmp_path / "killed", config, other) as again:
        assert again.step == 0
        again.train()
    with begun(tmp_path / "killed", config) as again:  # without a word of the other
        assert again.step == 6
    states = [load_model(tmp_path / name, "latest")[0] for name in ("whole", "killed")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    described = json.loads((tmp_path / "killed" / "config.json").read_text())
    assert described["begun_from"] == {"workdir": str(other), "step": int(best.step)}
    with pytest.raises(UserError, match=r"begun from .*other, not from .*elsewhere: choose"):
        begun(tmp_path / "killed", config, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "killed" / "checkpoints")
    (tmp_path / "killed" / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"has no checkpoint: give --init_from=.*other, or"):
        begun(tmp_path / "killed", config)


def test_a_run_from_scratch_is_not_begun_from_another(finished, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(UserError, match=r"begun from scratch, not from .*finished"):
        run_in(copied, init_from=finished)
    assert Checkpoints(copied).steps() == Checkpoints(finished).steps()


@pytest.fixture
def small(monkeypatch):
    """The folder of a run that is nowhere, as it is loaded."""
    task = TextTask(CONFIG, TEXT)
    params = init_model(jax.random.key(3), CONFIG.model, task.interface)
    averaged = jax.tree.map(lambda leaf: leaf + 1, params)
    state = SimpleNamespace(step=7, params=params, eval_params=averaged)
    loaded = (state, Description.of(CONFIG, task))
    monkeypatch.setattr(beginning, "load_model", lambda folder, which: loaded)
    return averaged


def test_it_is_the_average_and_where_the_alphabets_agree_every_bit(small):
    params, begun_from, said = begin_from("run", CONFIG, TextTask(CONFIG, TEXT))
    jax.tree.map(np.testing.assert_array_equal, params, small)
    assert (begun_from, said) == ({"workdir": "run", "step": 7}, "begun from run, step 7")


DISJOINT = Text("disjoint", TEXT.ids, Vocabulary("wxyz"), "another")
WRONG = [
    ({"model.hidden_size": 9}, OTHER, r"layers\[0\].W is 4x32 there and 5x36 here"),
    ({"model.num_layers": 1}, OTHER, r"layers\[1\].U is there and not here"),
    ({"model.num_layers": 3}, OTHER, r"layers\[2\].U is here and not there"),
    ({"model.cell": "peephole"}, OTHER, r"model.cell is 'lstm' there and 'peephole' here"),
    ({}, DISJOINT, r"its alphabet has no symbol in common with this one"),
]


@pytest.mark.parametrize("changes, text, message", WRONG)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(changes, text, message, small, tmp_path):
    with pytest.raises(UserError, match=f"^--init_from=there does not fit this model: {message}$"):
        run_in(tmp_path / "run", CONFIG.replace(changes), text, init_from="there")
    assert not (tmp_path / "run").exists()


def test_a_task_without_symbols_takes_all_or_nothing(monkeypatch):
    task, config = AddingTask(20, 1, 3, 0), CONFIG.replace({"data.task": "adding"})
    params = init_model(jax.random.key(3), config.model, task.interface)
    state = SimpleNamespace(step=7, params=params, eval_params=params)
    loaded = (state, Description.of(config, task))
    monkeypatch.setattr(beginning, "load_model", lambda folder, which: loaded)
    found, _, said = begin_from("run", config, AddingTask(30, 1, 3, 1))
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert said == "begun from run, step 7"


def test_another_kind_of_task_does_not_fit(small):
    with pytest.raises(UserError, match=r"the interface's head is 'softmax' there and 'squared'"):
        begin_from("there", CONFIG, AddingTask(20, 1, 3, 0))
