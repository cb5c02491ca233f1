"""A task that is no text on the command line: what each mode makes of it, and what it refuses."""

import json
import re
import shutil

import pytest

from tests.cli import call, is_one_line, line_of, process_in

TRAIN = {
    "experiment": "adding",
    "workdir": "run",
    "config.data.length": "20",
    "config.data.held_out": "7",
    "config.model.hidden_size": "4",
    "config.train.batch_size": "2",
    "config.train.steps": "2",
    "config.train.average": "ema",
}
SHOWN = re.compile(r"(target -?\d\.\d{3}  answer -?\d\.\d{3}\n){5}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run, and what it said."""
    folder = tmp_path_factory.mktemp("adding")
    with process_in(folder):
        found = call(*line_of(TRAIN))
        assert found.code == 0, found
        yield folder / "run", found


def refused(*line):
    code, stdout, stderr = call(*line)
    assert code == 2 and stdout == "" and is_one_line(stderr), stderr
    return stderr


def test_it_trains(trained):
    folder, (_, stdout, stderr) = trained
    assert "adding: sequences of 20 to 22 steps, 7 held out\n" in stderr
    assert re.search(
        r"^to beat: always saying the mean 0\.\d{4} squared error/sequence$", stderr, re.M
    )
    assert re.search(
        r"validation of the average loss \S+ wrong \d\.\d{4}  [\d,]+ sequences/s", stderr
    )
    assert "\nwrong: the share of them whose answer is off by 0.04 or more\n" in stderr
    assert stderr.endswith(
        "run has figures/curves.png, samples.txt, metrics.jsonl, checkpoints; next: --mode=sample "
        "or --mode=evaluate with --workdir=run\n"
    )
    best = r"  \(the best checkpoint, of step 2\)$"
    loss = r"^validation_loss_average +\S+ squared error/sequence"
    assert re.search(loss + best, stdout, re.M) and "bits" not in stdout
    assert re.search(r"^validation_wrong +\d\.\d{4}" + best, stdout, re.M)
    assert SHOWN.fullmatch(stdout.rpartition("\n\n")[2])
    described = json.loads((folder / "config.json").read_text())
    assert described["interface"]["input_size"] == 2 and described["identity"] == {}


def test_it_is_scored_and_shown_as_it_was(trained):
    _, (_, stdout, _) = trained
    code, scored, _ = call("--mode=evaluate", "--workdir=run")
    said = {
        line.split()[0]: line.split()[1] for line in stdout.splitlines() if "validation_" in line
    }
    found = {line.split()[0]: line.split()[1] for line in scored.splitlines()}
    assert code == 0 and found == said and len(found) == 4
    code, shown, _ = call("--mode=sample", "--workdir=run")
    assert code == 0 and shown == stdout.rpartition("\n\n")[2]


@pytest.mark.parametrize(
    "flags",
    [
        ["--mode=evaluate", "--split=training_end"],
        ["--mode=evaluate", "--ensemble=run"],
        ["--mode=evaluate", "--dynamic"],
        ["--mode=evaluate", "--draws=2"],
        ["--mode=sample", "--prompt=a"],
        ["--mode=sample", "--temperature=0"],
    ],
)
def test_what_only_a_text_has(flags, trained):
    name = flags[1].partition("=")[0]
    wanted = f"{name} means nothing to a run of data.task=adding, which is no text"
    assert wanted in refused(*flags, "--workdir=run")


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--experiment=adding", "--config.data.corpus=shakespeare"],
            "shakespeare means nothing",
        ),
        (["--experiment=adding", "--config.evaluate.lanes=1"], "evaluate.lanes means nothing"),
        (["--config.data.length=30"], "data.length=30 means nothing to data.task=text"),
        (["--experiment=speedrun", "--config.data.task=adding"], "data.task means nothing"),
        (["--experiment=adding", "--config.model.embedding_size=3"], "a task that reads vectors"),
    ],
)
def test_an_option_of_another_task(flags, message, tmp_path):
    with process_in(tmp_path):
        assert message in refused(*flags, "--workdir=new")
    assert not [*tmp_path.iterdir()]


def test_an_ensemble_is_of_texts(trained):
    """Also where the other run is none."""
    (trained[0].parent / "text").write_bytes(b"to be or not to be" * 20)
    small = {name: value for name, value in TRAIN.items() if "data." not in name}
    flags = small | {"experiment": "shakespeare", "workdir": "other", "config.data.path": "text"}
    flags |= {"config.train.sequence_length": "4", "config.train.sample_length": "2"}
    assert call(*line_of(flags)).code == 0
    found = refused("--mode=evaluate", "--workdir=other", "--ensemble=run")
    assert "was trained on another text or split" in found
    shutil.rmtree(trained[0].parent / "other")
