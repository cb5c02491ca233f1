"""A text of one's own by the command line: three files, words, bytes, ids, and another text."""

import re

import numpy as np
import pytest

from lstm_jax.config import EvaluateConfig
from lstm_jax.data.batches import Documents
from lstm_jax.run.checkpoint import load_model
from lstm_jax.scoring.protocols import evaluate
from tests.cli import EVALUATE, SAMPLE, TRAIN, call, is_one_line, line_of, process_in

LINE = "to be or not to be\n\nthat is the question\n\n"
THREE = {
    "config.data.validation_path": "valid",
    "config.data.test_path": "test",
    "config.data.tokens": "words",
    "config.data.document_separator": r"\n\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three files, and a run of one step on them, in words and in documents."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "text").write_text(LINE * 20)
    (folder / "valid").write_text(LINE * 2)
    (folder / "test").write_text("that is <unk> not\n\nthe question or two\n\n" * 2)
    with process_in(folder):
        done = call(*line_of(TRAIN | THREE))
        assert done.code == 0, done.stderr
        assert "280 words to train on, 28 to validate on, 24 to test on, 10 sym" in done.stderr
        said = r"0\.00% of training and 0\.00% of validation and \d+\.\d\d% of test is <unk>"
        assert re.search(said, done.stderr)
        assert re.search(r"loss \d\.\d{4} nats/word  validation stream", done.stderr)
        yield folder


def losses(stdout):
    """What was printed, by name: nats and perplexity."""
    found = re.findall(r"^(\w+) +(\d+\.\d{4}) nats/word  perplexity ([\d.]+)", stdout, re.MULTILINE)
    return {name: (float(nats), float(perplexity)) for name, nats, perplexity in found}


def scored_as(words):
    """The losses of the folder's model on some words, by what the package has without files."""
    state, _ = load_model("run")
    symbols = ["<unk>", "\n", "be", "to", "is", "not", "or", "question", "that", "the"]
    ids = np.array([symbols.index(word) if word in symbols else 0 for word in words], np.uint8)
    config = EvaluateConfig(window_length=8, lanes=4, warmup=2)
    return evaluate(state.eval_params, Documents(ids, np.array([1, 1])), config)


def test_the_test_split_is_scored_by_its_name_alone(folder):
    assert "test_loss" not in (folder / "run" / "metrics.jsonl").read_text()
    code, stdout, stderr = call(*line_of(EVALUATE), "--split=test")
    assert code == 0 and re.search(
        r"the 24 words of test kept for the test, \d+\.\d\d% of which is <unk>", stderr
    )
    wanted = scored_as(re.findall(r"\n|\S+", (folder / "test").read_text()))
    found = losses(stdout)
    assert [*found] == ["test_loss_stream", "test_loss_windows"]
    for (nats, perplexity), loss in zip(found.values(), wanted, strict=True):
        assert nats == pytest.approx(loss, abs=1e-4)
        assert perplexity == pytest.approx(np.exp(loss), rel=1e-4)


def test_any_other_text_is_scored_whole(folder):
    (folder / "other").write_text("to be two\n\nor the question")
    (folder / "text").rename(folder / "away")  # it is not needed
    code, stdout, stderr = call(*line_of(EVALUATE), "--text=other")
    (folder / "away").rename(folder / "text")
    assert code == 0 and "the 8 words of other" in stderr
    wanted = scored_as(["to", "be", "two", "\n", "\n", "or", "the", "question"])
    found = losses(stdout)
    assert [*found] == ["text_loss_stream", "text_loss_windows"]
    for (nats, _), loss in zip(found.values(), wanted, strict=True):
        assert nats == pytest.approx(loss, abs=1e-4)
    assert "text_loss_dynamic" in call(*line_of(EVALUATE), "--text=other", "--dynamic").stdout


def test_samples_of_words(folder):
    code, stdout, stderr = call(*line_of(SAMPLE), "--prompt= to  be or\nnot", "--num_samples=2")
    assert code == 0, stderr
    first, second = stdout.removesuffix("\n").split(f"\n{'=' * 12} sample 2 {'=' * 12}\n")
    for text in (first, second):
        assert text.startswith("to be or\nnot") and len(re.findall(r"\n|\S+", text)) == 9
        assert "  " not in text


def test_a_file_that_has_changed_or_moved(folder):
    (folder / "test").rename(folder / "moved")
    (folder / "test").write_text("to be")
    said = call(*line_of(EVALUATE)).stderr
    assert "test is not the text that this model was trained on" in said and is_one_line(said)
    assert "name that one with --config.data.test_path" in said
    assert call(*line_of(EVALUATE), "--config.data.test_path=moved").code == 0
    said = call(*line_of(EVALUATE), "--config.data.test_path=valid").stderr
    assert "valid is not the text that this model was trained on" in said
    (folder / "moved").rename(folder / "test")


@pytest.mark.parametrize(
    "mode, args, message",
    [
        (EVALUATE, ["--text=nowhere"], "cannot read --text='nowhere': No such file"),
        (EVALUATE, ["--text=/dev/zero"], "it is a device"),
        (EVALUATE, ["--text=one"], "has fewer than 2 words"),
        (EVALUATE, ["--text="], "--text is empty"),
        (EVALUATE, ["--text=other", "--split=test"], "--split means nothing beside --text"),
        (
            EVALUATE,
            ["--text=other", "--config.data.path=text"],
            "--config.data.path means nothing beside --text without --dynamic",
        ),
        (TRAIN, ["--text=other"], "--text means nothing to --mode=train"),
        (SAMPLE, ["--text=other"], "--text means nothing to --mode=sample"),
        (TRAIN | THREE, ["--config.data.test_fraction=0.1"], "nothing beside data.test_path"),
        (
            TRAIN | THREE,
            ["--config.data.validation_fraction=0.1"],
            "nothing beside data.validation_path",
        ),
        (
            TRAIN | {"workdir": "new"},
            ["--config.data.max_types=9"],
            "means nothing without data.tokens=words",
        ),
        (TRAIN | THREE, ["--config.data.max_types=9"], "data.max_types is 0 there and 9 here"),
    ],
)
def test_what_makes_no_sense(mode, args, message, folder):
    (folder / "one").write_text("be")
    code, stdout, stderr = call(*line_of(mode), *args)
    assert code == 2 and stdout == "" and message in stderr and is_one_line(stderr), stderr


def test_a_run_without_a_test_split_has_none_to_score(tmp_path):
    (tmp_path / "text").write_bytes(bytes(range(256)) * 4)
    with process_in(tmp_path):
        done = call(*line_of(TRAIN | {"config.data.tokens": "bytes"}))
        assert done.code == 0, done.stderr
        assert re.search(
            r"validation_loss_stream +\d\.\d{4} nats/byte  \d\.\d{4} bits/byte", done.stdout
        )
        done = call(*line_of(EVALUATE), "--split=test")
        assert done.code == 2 and "this run keeps no test split to score" in done.stderr
        assert call(*line_of(SAMPLE)).code == 0


def test_characters_outside_the_alphabet_of_a_run(finished, tmp_path):
    (tmp_path / "other").write_text("abc\nabd")
    with process_in(tmp_path):
        code, _, stderr = call("--mode=evaluate", f"--workdir={finished}", "--text=other")
        assert code == 2 and is_one_line(stderr)
        assert "other has the character 'd', in line 2, column 3, which is not in" in stderr
