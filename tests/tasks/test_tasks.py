"""What every task has to keep to, and what a run makes of one that nobody has heard of."""

import dataclasses
import itertools
import json
from types import MappingProxyType, SimpleNamespace

import jax
import numpy as np
import pytest

from lstm_jax.config import Config, DataConfig, check_read
from lstm_jax.data.batches import Batch
from lstm_jax.data.corpora import DATA_DIR_VARIABLE
from lstm_jax.errors import UserError
from lstm_jax.heads import HEADS, Head
from lstm_jax.model import Interface
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.description import Description
from lstm_jax.run.loop import Run
from lstm_jax.run.metrics import read_metrics
from lstm_jax.run.validation import validate
from lstm_jax.tasks import TASKS, Task
from tests.tasks.test_digits import write_digits


class Echo(Task):
    """Says what it hears."""

    interface = Interface(3, 3, reads_ids=False, head="bernoulli")

    def batch_at(self, step):
        bits = np.random.default_rng(step).integers(2, size=(5, 2, 3)).astype(np.float32)
        return Batch(bits, bits)


@pytest.mark.usefixtures("standard_promotion")
def test_a_task_of_ones_own_is_trained_in_a_folder_named_by_a_string(tmp_path):
    config = Config().replace(
        {
            "model.hidden_size": 8,
            "optimizer.learning_rate": 0.05,
            "train.batch_size": 2,
            "train.steps": 60,
        }
    )
    lines = []
    with Run(config, Echo(), str(tmp_path / "run"), on_metrics=lines.append) as run:
        run.train()
        assert run.sample() is None
        summary, state = run.summary(), run.state
    assert lines == read_metrics(tmp_path / "run") and len(lines) == 3
    # An answer of 1/2 to each of three bits costs 3 ln 2.
    assert lines[0]["train_loss"] > 1.5 and lines[-1]["train_loss"] < 1
    assert summary["title"] == "run" and summary["targets"] == 60 * 5 * 2
    assert not any(name.startswith("val_") for line in [*lines, summary] for name in line)
    assert not (tmp_path / "run" / "samples.txt").exists()
    found, description = load_model(str(tmp_path / "run"), "best")
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert description.interface == Echo.interface and description.identity == {}


def test_another_interface_makes_another_run(tmp_path):
    class Wider(Echo):
        interface = Interface(3, 4, reads_ids=False, head="bernoulli")

    config = Config().replace({"train.batch_size": 2, "model.hidden_size": 8})
    Run(config, Echo(), tmp_path).close()
    with pytest.raises(UserError, match="the interface's output_size is 3 there and 4 here"):
        Run(config, Wider(), tmp_path)
    with pytest.raises(UserError, match="reads vectors"):
        Run(config.replace({"model.embedding_size": 2}), Echo(), tmp_path / "other")


@pytest.mark.parametrize("name", Interface._fields)
def test_an_identity_may_have_names_of_the_interface(name):
    """Neither hides a change of the other."""

    def described(identity, interface):
        own = type("Own", (Echo,), {"identity": identity, "interface": interface})
        return Description.of(Config(), own())

    here = described({name: 1}, Echo.interface)
    assert here.differences(here.to_json()) == []
    (found,) = here.differences(described({name: 2}, Echo.interface).to_json())
    assert found == f"the task's {name} is 2 there and 1 here"
    other = Echo.interface._replace(**{name: 7})
    (found,) = here.differences(described({name: 1}, other).to_json())
    assert found.startswith(f"the interface's {name} is 7 there")


def test_what_a_task_cannot_be_is_said_in_one_line(tmp_path, monkeypatch):
    """A head that nobody has derived, or that there is none of; a score that no file can hold."""
    config = Config().replace({"train.batch_size": 2, "model.hidden_size": 8, "train.steps": 1})
    own = type("Own", (Echo,), {"interface": Interface(3, 3, reads_ids=False, head="own")})
    with pytest.raises(UserError, match="the task's head is 'own', which is none of softmax"):
        Run(config, own(), tmp_path / "unknown")
    monkeypatch.setitem(HEADS, "own", Head(HEADS["bernoulli"].losses))
    with pytest.raises(UserError, match=r"not for the head own: take .*gradient=autodiff"):
        Run(config, own(), tmp_path / "underived")
    assert not any(tmp_path.iterdir())
    for name in ("top-5", "loss_average"):
        wrong = type("Wrong", (Echo,), {"evaluate": lambda *_, name=name: {"loss": 1.0, name: 1.0}})
        with pytest.raises(UserError, match=f"'{name}' is no name of what a task measures"):
            validate(wrong(), SimpleNamespace(params=None, average=None), None)


@pytest.mark.usefixtures("standard_promotion")
def test_an_identity_and_scores_are_as_json_has_them(tmp_path):
    class Narrow(Echo):
        identity = MappingProxyType({"sizes": (1, 2)})

        def evaluate(self, params, masks):
            return {"loss": np.float32(1.5)}

    config = Config().replace({"train.batch_size": 2, "model.hidden_size": 8, "train.steps": 1})
    for _ in range(2):  # the second resumes
        with Run(config, Narrow(), tmp_path) as run:
            run.train()
            assert run.summary()["val_loss"] == 1.5


def test_tasks_have_options_of_different_names():
    """Or of one meaning: the config has each name once."""
    of_tasks = [dataclasses.fields(task.Options) for task in TASKS.values()]
    for some, others in itertools.combinations(of_tasks, 2):
        for one, other in itertools.product(some, others):
            assert one.name != other.name or one.metadata == other.metadata, one.name


@pytest.mark.parametrize("name", TASKS)
def test_a_task_by_flags_is_a_task(name, monkeypatch, tmp_path):
    """One structure at every step, an identity that survives JSON, a line for people."""
    changes = {"data.task": name, "train.batch_size": 3}
    if name == "text":
        changes["data.corpus"] = "python_topics"
    if name == "digits":
        write_digits(tmp_path)
        monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
        changes["data.validation_images"] = 5
    config = Config().replace(changes)
    task = TASKS[name].of(config)
    first, later = task.batch_at(0), task.batch_at(1000)
    jax.tree.map(
        lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), first, later
    )
    assert first.inputs.shape[:2] == first.targets.shape[:2] == (task.steps_of(config), 3)
    assert first.inputs.shape[2:] == (
        () if task.interface.reads_ids else (task.interface.input_size,)
    )
    assert json.loads(json.dumps(dict(task.identity))) == dict(task.identity)
    assert task.describe().isprintable() and "/" in task.unit


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"data.task": "adding", "data.corpus": "python_topics"},
            r"corpus=\S+ means .*task=adding",
        ),
        ({"data.length": 30}, "data.length=30 means .*data.task=text"),
        ({"data.task": "nothing"}, "data.task is one of text, adding"),
        ({"data.task": "adding", "data.length": 19}, "data.length lies between 20"),
    ],
)
def test_an_option_of_another_task(changes, message):
    with pytest.raises(UserError, match=message) as error:
        Config().replace(changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, ignored",
    [
        ({"data.task": "adding", "data.corpus": "shakespeare"}, "data.corpus"),
        ({"data.length": 100}, "data.length"),
        ({"data.task": "adding", "evaluate.lanes": 64}, "evaluate.lanes"),
        ({"data.task": "adding", "train.sequence_length": 128}, "train.sequence_length"),
        ({"data.path": "text", "data.corpus": "shakespeare"}, "data.corpus"),
        ({"train.sequence_length": 500, "train.remat_every": 500}, "train.remat_every"),
        (
            {"data.task": "adding", "data.length": 500, "train.remat_every": 550},
            "train.remat_every",
        ),
    ],
)
def test_an_option_that_was_given_and_means_nothing(changes, ignored):
    """Also one that was given as it is anyway, which only the command line can tell."""
    config = Config().replace(changes)
    said = rf"^--config.{ignored}(=\S+)? means nothing [^\n]*leave it out"
    with pytest.raises(UserError, match=said):
        check_read(config, changes)
    check_read(config, [name for name in changes if name != ignored])


def test_blocks_of_a_task_with_a_length_of_its_own():
    """They are held against the task's own sequences, of which some are a tenth longer."""
    changes = {"data.task": "adding", "data.length": 500, "train.remat_every": 549}
    check_read(Config().replace(changes), changes)


def test_a_triggered_average_needs_a_task_that_validates():
    triggered = {"train.average": "triggered"}
    Config().replace(triggered | {"data.task": "adding"})
    with pytest.raises(UserError, match="keeps nothing to validate on"):
        Config().replace(triggered | {"data.validation_fraction": 0})


def test_the_data_are_those_of_all_tasks():
    names = {field.name for field in dataclasses.fields(DataConfig)}
    own = {field.name for task in TASKS.values() for field in dataclasses.fields(task.Options)}
    assert names == {"task"} | own


class Echoes(Echo):
    """With resets of its own, in the middle."""

    def batch_at(self, step):
        resets = np.zeros((5, 2), bool)
        resets[3, 1] = True
        return super().batch_at(step)._replace(resets=resets)


def test_a_batch_begins_from_the_zero_state_unless_the_task_carries_it():
    first = np.arange(5)[:, None] == 0
    assert (Echo().training_batch(0).resets == np.broadcast_to(first, (5, 2))).all()
    own = Echoes().batch_at(0).resets
    assert (Echoes().training_batch(0).resets == (own | first)).all()

    class Carried(Echoes):
        carries = True

    assert (Carried().training_batch(0).resets == own).all()
    assert TASKS["text"].carries and not TASKS["adding"].carries


def test_batches_of_another_width_are_refused_before_there_is_a_folder(tmp_path):
    config = Config().replace({"train.batch_size": 3, "model.hidden_size": 8})
    with pytest.raises(UserError, match=r"have 2 lanes, and train.batch_size is 3"):
        Run(config, Echo(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_of_other_tasks_are_not_written_down(tmp_path):
    """So that a run can be read where another task is gone."""
    config = Config().replace({"train.batch_size": 2, "model.hidden_size": 8})
    Run(config, Echo(), tmp_path).close()
    written = json.loads((tmp_path / "config.json").read_text())["config"]
    assert "data.corpus" in written and not {"data.length", "data.held_out"} & written.keys()
    with pytest.raises(UserError, match="`best` or `latest`, not 'last'"):
        load_model(tmp_path, "last")
