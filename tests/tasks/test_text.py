"""A text as a task."""

import jax
import numpy as np
import pytest

from lstm_jax.data.batches import Streams
from lstm_jax.errors import UserError
from lstm_jax.model import Interface, init_model
from lstm_jax.scoring.protocols import evaluate
from lstm_jax.tasks.text import TextTask, vocabulary_of
from tests.small import CONFIG, TEXT


def test_what_it_is():
    task = TextTask(CONFIG, TEXT)
    assert task.interface == Interface(4, 4) and task.unit == "nats/char"
    assert task.describe() == "text: 450 characters to train on, 50 to validate on, 4 symbols"
    assert vocabulary_of(task.identity, task.interface) == TEXT.vocabulary
    streams = Streams(TEXT.ids[:450], 3, 4)
    jax.tree.map(np.testing.assert_array_equal, task.batch_at(7), streams.batch_at(7))


def test_it_is_scored_on_what_it_is_not_trained_on():
    params = init_model(jax.random.key(0), CONFIG.model, 4)
    found = TextTask(CONFIG, TEXT).evaluate(params, None)
    wanted = evaluate(params, TEXT.ids[450:], CONFIG.evaluate)
    assert list(found.items()) == [("loss_stream", wanted.stream), ("loss_windows", wanted.windows)]


def test_its_references_are_the_losses_of_models_that_say_the_same_of_every_character():
    """Scored as any other model is."""
    counts = np.bincount(TEXT.ids[:450], minlength=4) + 1
    always = jax.tree.map(jax.numpy.zeros_like, init_model(jax.random.key(0), CONFIG.model, 4))
    frequencies = jax.numpy.asarray(np.log(counts / counts.sum()), jax.numpy.float32)
    task, found = TextTask(CONFIG, TEXT), {}
    for name, b_V in (("uniform", always.readout.b), ("frequencies", frequencies)):
        params = always._replace(readout=always.readout._replace(b=b_V))
        found[name] = task.evaluate(params, None)["loss_stream"]
    uniform, unigram = task.references().values()
    assert (uniform, unigram) == pytest.approx((found["uniform"], found["frequencies"]), rel=1e-6)
    assert abs(uniform - unigram) > 1e-3


def test_without_a_validation_split_the_frequencies_are_scored_where_they_were_counted():
    config = CONFIG.replace({"data.validation_fraction": 0.0})
    p_V = np.bincount(TEXT.ids) / 500
    found = TextTask(config, TEXT).references()["frequencies alone"]
    assert found == pytest.approx(-p_V @ np.log(p_V), abs=1e-3)


def test_without_a_validation_split_nothing_is_measured():
    config = CONFIG.replace({"data.validation_fraction": 0.0})
    task = TextTask(config, TEXT)
    assert task.evaluate(None, None) == {} and not task.validates(config)
    assert task.describe().startswith("text: 500 characters to train on, 0 to validate on")


def test_an_alphabet_that_is_not_the_interfaces():
    with pytest.raises(UserError, match="is of no text of 2 symbols"):
        vocabulary_of({"alphabet": "ab"}, Interface(3, 3))
    with pytest.raises(UserError, match="of a task of your own"):
        vocabulary_of({}, Interface(2, 1, reads_ids=False, head="squared"))
