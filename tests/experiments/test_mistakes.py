"""What a user may get wrong: one line that says so, exit code 2, and nothing left behind."""

import re
import warnings

import jax
import pytest

from experiments.studies import verify_gradients
from experiments.support import evaluation
from lstm_jax.config import Config
from lstm_jax.errors import UserError
from lstm_jax.run import memory
from lstm_jax.run.loop import Run
from tests.cli import EVALUATE, SAMPLE, TEXT, TRAIN, call, is_one_line, line_of, process_in
from tests.tasks.test_tasks import Echo


def refused(*line):
    """The one line with which it is refused."""
    code, stdout, stderr = call(*line)
    assert code == 2 and stdout == "" and is_one_line(stderr), stderr
    return stderr


@pytest.fixture
def empty(tmp_path):
    """The current folder, with nothing in it before or after."""
    with process_in(tmp_path):
        yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args, message",
    [
        (
            ["--experiment=nothing"],
            "there is no --experiment='nothing', which should be one of shakespeare, ",
        ),
        (
            ["--config.model.hiden_size=3"],
            "there is no flag --config.model.hiden_size; did you mean --config.model.hidden_size",
        ),
        (["--hidden_size=many"], "did you mean --config.model.hidden_size?"),
        (
            ["--config.model.hidden_size=many"],
            "--config.model.hidden_size takes an integer from 1 to 65,536, not 'many' (--help",
        ),
        (["--config.train.steps="], "steps takes an integer, 1 or more, not an empty value"),
        (["--config.train.steps=1e3"], "steps takes an integer, 1 or more, not '1e3'"),
        (["--config.model.dropout=half"], "dropout takes a number from 0 to 0.99, not 'half'"),
        (["--config.model.hidden_sizes=3,x"], "takes integers with commas between them from 1 to"),
        (["--config.model.cell=LSTM"], "--config.model.cell takes one of lstm, coupled, "),
        (["--mode=sample", "--length=0"], "--length takes an integer, 1 or more, not '0'"),
        (["--mode=evaluate", "--dynamic=maybe"], "--dynamic takes true or false, not 'maybe'"),
        (["--flagfile=nowhere"], "error: Unable to open flagfile: "),
        (["--config.model.hidden_size=0"], "model.hidden_size lies between 1 and 65536; not 0"),
        (["--config.data.path=nowhere.txt"], "cannot read data.path='nowhere.txt': No such file"),
        (["--config.data.path=."], "Is a directory"),
        (["--mode=sample", "--prompt=a"], "holds no checkpoints folder"),
        (["extra"], "unexpected argument 'extra'"),
    ],
)
def test_a_mistake(args, message, empty):
    assert message in refused(*args, "--workdir=run")


@pytest.mark.parametrize(
    "args, message",
    [
        (["--prompt=a"], "--prompt means nothing to --mode=train"),
        (["--mode=evaluate", "--length=9"], "--length means nothing to --mode=evaluate"),
        (["--mode=evaluate", "--dynamic_rate=1"], "means nothing without --dynamic"),
        (
            ["--mode=evaluate", "--experiment=speedrun"],
            "--experiment means nothing to --mode=evaluate beside --workdir",
        ),
        (["--mode=sample", "--temperature=0", "--sample_seed=1"], "nothing at --temperature=0"),
        (["--mode=sample", "--temperature=0", "--top_k=3"], "--top_k means nothing at --temp"),
        (["--mode=sample", "--temperature=0", "--top_p=0.5"], "--top_p means nothing at --temp"),
        (["--mode=sample", "--top_k=1", "--temperature=2"], "means nothing at --top_k=1"),
        (["--mode=sample", "--top_p=0", "--sample_seed=2"], "means nothing at --top_p=0"),
        (["--mode=sample", "--temperature=0", "--num_samples=2"], "one text many times"),
        (["--mode=sample", "--cpu_devices=2"], "--cpu_devices means nothing to --mode=sample"),
        (
            ["--config.evaluate.lanes=1", "--config.evaluate.warmup=7"],
            "--config.evaluate.warmup means nothing at evaluate.lanes=1",
        ),
        (["--experiment=speedrun", "--compile_cache=off"], "nothing to --experiment=speedrun"),
        (
            ["--experiment=long_sequences", "--cpu_devices=2"],
            "nothing to --experiment=long_sequences",
        ),
        (
            ["--experiment=verify_gradients", "--config.optimizer.learning_rate=1"],
            "--config.optimizer.learning_rate means nothing to --experiment=verify_gradients",
        ),
        (
            ["--experiment=benchmark", "--compile_cache=somewhere"],
            "--compile_cache means nothing to --experiment=benchmark",
        ),
        (
            ["--experiment=notebook_audit", "--config.model.hidden_size=3"],
            "--config.model.hidden_size means nothing to --experiment=notebook_audit",
        ),
    ],
)
def test_what_would_be_ignored(args, message, empty):
    assert message in refused(*args, "--workdir=run")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"abc\xff" * 9000, "byte 3 is wrong"),
        (b"ab", "leave a split empty"),
        (b"abcd" * 100, "one batch of"),
    ],
)
def test_a_text_that_cannot_be_used(content, message, tmp_path):
    (tmp_path / "text").write_bytes(content)
    with process_in(tmp_path):
        assert message in refused("--config.data.path=text", "--workdir=run")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text").write_bytes(TEXT)
    with process_in(folder):
        assert call(*line_of(TRAIN)).code == 0
    return folder


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7 TiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nat 0x0"),
    ],
)
def test_too_little_memory_after_all(error, trained, monkeypatch):
    def refuse(*args):
        raise error

    monkeypatch.setattr(evaluation, "score_alone", refuse)
    with process_in(trained):
        assert "there is not enough memory (" in refused(*line_of(EVALUATE))


@pytest.mark.usefixtures("standard_promotion")
def test_a_task_of_ones_own_is_no_text(tmp_path):
    config = Config().replace({"model.hidden_size": 2, "train.batch_size": 2, "train.steps": 1})
    with Run(config, Echo(), tmp_path / "run") as run:
        run.train()
    with process_in(tmp_path):
        for flags in (EVALUATE, SAMPLE, EVALUATE | {"config.data.path": "nowhere"}):
            said = refused(*line_of(flags))
            assert "a task of your own" in said and "load it with lstm_jax.load_model" in said


def test_what_a_library_warns_of_is_one_line(trained, monkeypatch):
    def score(*args):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("in two\nlines \x1b[2J", stacklevel=1)
        raise UserError("enough")

    monkeypatch.setattr(evaluation, "score_alone", score)
    with process_in(trained):
        stderr = call(*line_of(EVALUATE)).stderr
    assert stderr == "warning: in two lines \\x1b[2J\nerror: enough\n"


def test_a_warmup_of_one_lane(trained):
    args = ["--config.evaluate.lanes=1", "--config.evaluate.warmup=7"]
    with process_in(trained):
        assert "evaluate.warmup means nothing at evaluate.lanes=1" in refused(
            *line_of(EVALUATE), *args
        )


def test_a_rule_without_an_epsilon(trained):
    args = ["--dynamic", "--dynamic_rule=sgd", "--dynamic_epsilon=0.1"]
    with process_in(trained):
        assert "dynamic_epsilon means nothing to the rule sgd" in refused(*line_of(EVALUATE), *args)


@pytest.mark.parametrize(
    "args, message",
    [
        (["--prompt=Ж"], "the character 'Ж' is not in the model's alphabet"),
        (["--prompt="], "the prompt is empty"),
        (["--stop="], "--stop is empty"),
        (["--temperature=-1"], "temperature lies between"),
        (["--top_p=1.5"], "top_p lies between"),
        (["--length=0"], "length"),
        (["--config.model.hidden_size=9"], "takes the run's own config"),
        (["--config.evaluate.lanes=1"], "takes the run's own config"),
    ],
)
def test_in_sampling(args, message, trained):
    with process_in(trained):
        assert message in refused(*line_of(SAMPLE), *args)


def test_each_sample_ends_before_the_stop(trained):
    """Each is what it would have been, up to there; that the prompt has it changes nothing."""
    line = line_of(SAMPLE | {"length": "80", "num_samples": "3", "prompt": "to be"})
    with process_in(trained):
        whole, stopped = (call(*line, *more).stdout for more in ((), ("--stop=be",)))
    between = re.compile(r"\n=+ sample \d =+\n")
    texts = [text.removeprefix("to be") for text in between.split(whole.removesuffix("\n"))]
    wanted = [f"to be{text.partition('be')[0]}" for text in texts]
    assert between.split(stopped.removesuffix("\n")) == wanted
    assert ["be" in text for text in texts] == [False, True, True]


def test_a_long_prompt_and_many_samples_are_not_the_same(trained):
    """Each sample has 15 logits and 8 numbers more; a prompt of any length is read in pieces."""
    with process_in(trained), pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "memory_bytes", lambda: 40_000)
        samples = ["--prompt=t", "--num_samples=600"]
        assert "take a smaller --num_samples" in refused(*line_of(SAMPLE), *samples)
        assert call(*line_of(SAMPLE), f"--prompt={'t' * 600}").code == 0


def test_a_model_that_no_memory_holds_is_not_analysed(empty, monkeypatch):
    monkeypatch.setattr(verify_gradients, "main", lambda *_: 0)
    large = ["--config.model.hidden_size=65536", "--config.model.num_layers=64"]
    assert "smaller model.hidden_size" in refused("--experiment=verify_gradients", *large)
