"""Which run a command is about: its folder, its title, and whose config is changed."""

import json
from pathlib import Path

import pytest

from experiments.support.naming import as_name
from lstm_jax.run.description import Description
from lstm_jax.tasks.text import TextTask
from tests.cli import TEXT, TRAIN, call, is_one_line, line_of, process_in
from tests.small import CONFIG
from tests.small import TEXT as SMALL


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """What would have been trained: the config, the folder, the title, and what to begin from."""
    asked = []
    monkeypatch.setattr(
        "experiments.command.modes.train", lambda *args: asked.append(args[:4]) or 0
    )
    (tmp_path / "mine.py").write_text(
        "from lstm_jax import Config\ndef get_config(): return Config().replace({'data.path': 'a'})"
    )
    with process_in(tmp_path):
        yield asked


def put_run(folder, config=CONFIG, **more):
    """A run's config.json."""
    folder.mkdir(parents=True)
    described = Description.of(config, TextTask(config, SMALL)).to_json() | more
    (folder / "config.json").write_text(json.dumps(described))


def refused(*line):
    code, stdout, stderr = call(*line)
    assert code == 2 and stdout == "" and is_one_line(stderr), stderr
    return stderr


NAMES = [
    ([], "shakespeare"),
    (["--config.data.path=texts/my.txt"], "shakespeare-my"),
    (["--config.data.path=my novel (1).txt"], "shakespeare-my_novel_1"),
    (["--config.data.path=../.."], "shakespeare-text"),
    (["--config.data.path=[a]gs:/b\0\udcff\n.txt"], "shakespeare-b"),
    (["--config.data.corpus=shakespeare"], "shakespeare"),
    (["--config.data.corpus=tiny_shakespeare"], "shakespeare-tiny_shakespeare"),
    (["--config.data.task=adding"], "shakespeare-adding"),
    (["--experiment=adding"], "adding"),
    (["--experiment=mine.py"], "mine"),
    (["--experiment=./mine.py", "--config.data.path=b.txt"], "mine-b"),
    (["--experiment=mine.py", "--config.data.path="], "mine-shakespeare"),
    (["--config_file=x.toml"], "shakespeare-other"),
]


@pytest.mark.parametrize("line, name", NAMES)
def test_a_run_is_named_after_what_is_trained_on_what(line, name, trained, tmp_path):
    (tmp_path / "x.toml").write_text("data.path = 'other.txt'")
    assert call(*line).code == 0
    (_, folder, title, init_from) = trained[0]
    assert (str(folder), title, init_from) == (f"runs/{name}", name, None)
    for mode in ("evaluate", "sample"):  # the same flags find it
        assert f"runs/{name} holds no checkpoints folder" in refused(f"--mode={mode}", *line)


def test_a_name_is_one_that_any_folder_may_have():
    assert as_name("x" * 300) == "x" * 40
    assert as_name("-.a b/[c]:$HOME.tar") == "a_b_c_HOME.tar"
    assert as_name("Макбет") == "Макбет" and as_name("...") == as_name("") == "text"


def test_a_folder_alone_goes_on_with_its_own_config(trained, tmp_path):
    put_run(tmp_path / "w")
    for line in (["--workdir=w"], ["--workdir=w", "--config.train.seed=3"]):
        assert call(*line).code == 0
    assert [asked[0].flatten() for asked in trained] == [
        CONFIG.flatten(),
        CONFIG.flatten() | {"train.seed": 3},
    ]
    assert trained[0][1:] == (Path("w"), "", None)
    assert call("--workdir=w", "--experiment=adding").code == 0
    assert trained[-1][0].data.task == "adding" and trained[-1][2] == "adding"
    assert call("--workdir=empty").code == 0 and trained[-1][2] == "shakespeare"


def test_a_run_to_begin_from_gives_its_config(trained, tmp_path):
    put_run(tmp_path / "runs" / "w")
    (tmp_path / "b.txt").write_bytes(TEXT)
    from_w = "--init_from=runs/w"
    for line, folder in (
        ([], "runs/w-tuned"),
        (["--config.data.path=b.txt"], "runs/w-b-tuned"),
        (["--experiment=adding"], "runs/adding-tuned"),
        (["--workdir=new"], "new"),
    ):
        assert call(from_w, *line).code == 0
        assert (str(trained[-1][1]), trained[-1][3]) == (folder, "runs/w")
    assert trained[0][0] == CONFIG and trained[-1][2] == "w-tuned"


@pytest.mark.parametrize(
    "line, message",
    [
        (["--init_from=nowhere"], "there is no nowhere to begin from"),
        (["--init_from="], "--init_from is empty"),
        (["--init_from=mine.py"], "--init_from=mine.py is a file, not a folder"),
        (["--init_from=w", "--experiment=speedrun"], "nothing to --experiment=speedrun"),
        (["--init_from=w", "--mode=sample"], "--init_from means nothing to --mode=sample"),
        (["--workdir=own"], "not 'steep'): give --experiment=FILE.py --config_file="),
        (["--workdir=list"], "list/config.json cannot be read (it describes no run)"),
        (["--workdir=pipe"], "data.path='/dev/null' is no plain file"),
        (["--mode=sample", "--workdir=w", "--config.data.path=a"], "takes the run's own config"),
        (["--mode=evaluate", "--workdir=w", "--config.data.corpus=python_topics"], "own config"),
    ],
)
def test_what_cannot_be_gone_on_with(line, message, trained, tmp_path):
    put_run(tmp_path / "own", CONFIG)
    described = json.loads((tmp_path / "own" / "config.json").read_text())
    described["config"]["model.cell"] = "steep"
    (tmp_path / "own" / "config.json").write_text(json.dumps(described))
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[]")
    put_run(tmp_path / "pipe", CONFIG.replace({"data.path": "/dev/null"}))
    put_run(tmp_path / "w")
    assert message in refused(*line) and not trained


def test_a_flag_may_leave_a_recipes_value_without_a_meaning(trained, tmp_path):
    """It is at its default then; what is given as well is refused, and the line says what to do."""
    bias, chrono = "--config.model.forget_bias", "--config.model.chrono"
    assert call("--experiment=digits", f"{chrono}=784").code == 0
    assert call("--experiment=digits", "--config.model.cell=gru").code == 0
    assert call("--experiment=adding", f"{chrono}=0", f"{bias}=3").code == 0
    asked = [(config.model.forget_bias, config.model.chrono) for config, *_ in trained]
    assert asked == [(1.0, 784), (1.0, 0), (3.0, 0)]
    why = "means nothing beside model.chrono={}: leave it out, or take model.chrono=0"
    assert why.format(784) in refused("--experiment=digits", f"{chrono}=784", f"{bias}=1")
    assert why.format(100) in refused("--experiment=adding", f"{bias}=3")
    swept = ["--experiment=embedded_reber", f"{bias}=3", "--sweep.model.chrono=0,9"]
    said = refused(*swept, "--workdir=s")
    assert f"the run chrono=9: model.forget_bias=3.0 {why.format(9)}" in said
    put_run(tmp_path / "w", CONFIG.replace({"model.forget_bias": 5}))
    assert call("--config_file=w/config.json", f"{chrono}=9").code == 0
    assert trained[-1][0].model.forget_bias == 1.0


@pytest.fixture(scope="module")
def run_of_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    (folder / "my.txt").write_bytes(TEXT)
    (folder / "text").write_bytes(TEXT[::-1])
    flags = {k: v for k, v in TRAIN.items() if k != "workdir"} | {"config.data.path": "my.txt"}
    with process_in(folder):
        assert call(*line_of(flags)).code == 0
    return folder


def test_a_runs_name_is_its_title_and_the_same_flags_find_it(run_of_text):
    with process_in(run_of_text):
        summary = json.loads((run_of_text / "runs/shakespeare-my/summary.json").read_text())
        assert summary["title"] == "shakespeare-my"
        found = call("--mode=evaluate", "--config.data.path=my.txt")
        assert found.code == 0 and "characters of my.txt" in found.stderr
        found = call("--mode=sample", "--config.data.path=my.txt", "--length=4")
        assert found.code == 0 and len(found.stdout) == 1 + 4 + 1
        again = call("--workdir=runs/shakespeare-my")
        assert again.code == 0 and "resuming at step 1" in again.stderr


def test_a_run_goes_on_with_its_own_values_and_no_others(run_of_text):
    with process_in(run_of_text):
        line = ["--workdir=runs/shakespeare-my", "--config.model.hidden_size=5"]
        assert "another run: model.hidden_size is 4 there and 5 here; ch" in refused(*line)
        said = refused("--workdir=runs/shakespeare-my", "--config.data.path=text")
        assert "text is another: my.txt (410 characters) there, text (410 char" in said
        assert "\\n" not in said and "sha256" not in said
        (run_of_text / "my.txt").write_bytes(TEXT[:-1])
        said = refused("--workdir=runs/shakespeare-my")
        assert "is not the text that this model was trained on" in said
        (run_of_text / "my.txt").write_bytes(TEXT)
