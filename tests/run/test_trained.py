"""A trained run from Python: scored as it was, and asked for what the command line would write."""

import json

import pytest

import lstm_jax
from lstm_jax.data.vocabulary import Text, Vocabulary
from lstm_jax.errors import UserError
from lstm_jax.run.metrics import read_metrics
from lstm_jax.tasks.text import TextTask
from tests.cli import call, process_in
from tests.small import CONFIG, TEXT


def test_a_model_is_scored_as_it_was_in_training(finished):
    state, description = lstm_jax.load_model(finished, "latest")
    scores = lstm_jax.evaluate(state, description, TextTask(CONFIG, TEXT))
    last = read_metrics(finished)[-1]
    assert scores == {name: last[f"val_{name}"] for name in ("loss_stream", "loss_windows")}


def test_another_task_is_refused(finished):
    other = Text("other", TEXT.ids, Vocabulary("\nabd"), "hash")
    with pytest.raises(UserError, match="no longer what was trained on: the text is another: text"):
        lstm_jax.evaluate(*lstm_jax.load_model(finished), TextTask(CONFIG, other))


def test_the_text_is_what_the_command_line_writes(finished):
    flags = {"temperature": 1.5, "top_k": 3}
    with process_in(finished.parent):
        written = call(
            *("--mode=sample", f"--workdir={finished}", "--prompt=ab\n", "--length=40"),
            *("--sample_seed=3", *(f"--{name}={value}" for name, value in flags.items())),
        ).stdout
    model = lstm_jax.load_model(finished)
    assert lstm_jax.sample_text(*model, "ab\n", 40, seed=3, **flags) == written.removesuffix("\n")
    assert lstm_jax.sample_text(*model, "ab\n", 40, seed=4, **flags) + "\n" != written


def test_what_cannot_be_asked_for_is_refused(finished):
    state, description = lstm_jax.load_model(finished)
    for prompt, options, message in (
        ("", {}, "the prompt is empty"),
        ("x", {}, "'x' is not in the model's alphabet"),
        ("a", {"temperature": -1}, "temperature lies between 0 and"),
    ):
        with pytest.raises(UserError, match=message):
            lstm_jax.sample_text(state, description, prompt, **options)
    with pytest.raises(UserError, match="of a task of your own"):
        lstm_jax.sample_text(state, description._replace(identity={}), "a")


def test_a_run_says_what_its_losses_are_counted_in(finished):
    for path in (finished / "config.json", *finished.glob("checkpoints/*/description/metadata")):
        assert json.loads(path.read_text())["unit"] == "nats/char"
    assert lstm_jax.load_model(finished)[1].unit == "nats/char"
