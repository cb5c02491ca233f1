"""Run folders that somebody else made: nothing in them is executed, nothing outside is written."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_jax.files import check_plain
from lstm_jax.run.checkpoint import SMALL_BYTES
from lstm_jax.run.checksums import write_sums
from lstm_jax.run.description import FORMAT
from lstm_jax.run.folder import RUN_FILES
from tests.cli import EVALUATE, SAMPLE, TEXT, TRAIN, call, is_one_line, line_of, process_in

ROOT = Path(__file__).parent.parent.parent
MODES = {"train": TRAIN, "evaluate": EVALUATE, "sample": SAMPLE}
CONTENTS = {
    "empty": b"",
    "nul": bytes(100),
    "binary": bytes(range(256)) * 10,
    "null": b"null",
    "list": b"[]",
    "object": b"{}",
    "text": b'"x"',
    "not a number": b"NaN",
    "infinite": b"1e999",
    "enormous": b"9" * 5000,
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "one line of 10 MB": b'"' + b"a" * 10_000_000 + b'"',
    "pickle": b"cos\nsystem\n(S'touch pwned'\ntR.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text and a finished run of one step."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "text").write_bytes(TEXT)
    with process_in(folder):
        assert call(*line_of(TRAIN)).code == 0
        (folder / "run").rename(folder / "finished")
        yield folder


@pytest.fixture
def workdir(folder):
    """The finished run, to be spoilt."""
    yield shutil.copytree(folder / "finished", folder / "run")
    shutil.rmtree(folder / "run")


def around(folder):
    """All that lies beside the run's folder, with its content."""
    paths = [path for path in folder.rglob("*") if folder / "run" not in (path, *path.parents)]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def look(mode, folder):
    """A mode's outcome on the run: what it should do, or one clear line, and nothing outside."""
    before = around(folder)
    code, stdout, stderr = call(*line_of(MODES[mode]))
    assert around(folder) == before
    if code == 0:
        assert stdout
    else:
        *warnings, error = stderr.splitlines(keepends=True)
        assert code == 2 and stdout == "" and is_one_line(error), stderr
        assert all(line.startswith("warning: ") for line in warnings), stderr
    return code, stderr


def put(path, content):
    """Gives a file of the run its content, and its checkpoint the right checksums again."""
    path.write_bytes(content + b"\n" * (path.suffix == ".jsonl"))
    for parent in path.parents:
        if parent.parent.name == "checkpoints" and path.name != "SHA256SUMS":
            write_sums(parent)


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


# What reads a file, and what it must not take for good.
READ = {
    "config.json": "train",
    "metrics.jsonl": "train",
    "checkpoints/1/description/metadata": "sample",
    "checkpoints/1/metrics/metrics": "sample",
    "checkpoints/1/state/_METADATA": "sample",
    "checkpoints/1/state/array_metadatas/process_0": "sample",
    "checkpoints/1/state/manifest.ocdbt": "sample",
    "checkpoints/1/SHA256SUMS": "sample",
}


@pytest.mark.parametrize("name", READ)
def test_any_content_of_what_is_read(name, workdir, folder):
    original = (workdir / name).read_bytes()
    refused = []
    for kind, content in CONTENTS.items():
        put(workdir / name, content)
        if look(READ[name], folder)[0] == 2:
            refused.append(kind)
        put(workdir / name, original.rstrip(b"\n") if name.endswith("l") else original)
    assert not (folder / "pwned").exists()
    told = 1 if "array_metadatas" in name else len(CONTENTS) - 2
    assert len(refused) >= told, refused


@pytest.mark.long
def test_any_content_of_every_file_in_every_mode(folder):
    counts = {0: 0, 2: 0}
    for name in files_of(folder / "finished"):
        for content in CONTENTS.values():
            for mode in MODES:
                workdir = shutil.copytree(folder / "finished", folder / "run")
                put(workdir / name, content)
                counts[look(mode, folder)[0]] += 1
                shutil.rmtree(workdir)
    assert not (folder / "pwned").exists()
    print(counts)
    assert counts[2] > 100


CHANGES = [
    ({"identity": {"alphabet": 3}}, "3 is no alphabet"),
    ({"identity": {"alphabet": ["a", "b"]}}, r"\['a', 'b'\] is no alphabet"),
    ({"identity": {"alphabet": ""}}, "'' is no alphabet"),
    ({"identity": {"alphabet": "ba"}}, "'ba' is no alphabet"),
    ({"identity": {"alphabet": "aab"}}, "'aab' is no alphabet"),
    ({"identity": {"alphabet": "a\ud800"}}, r"'a\\ud800' is no alphabet"),
    ({"identity": {"alphabet": "".join(map(chr, range(40)))}}, "is of no text of 40 symbols"),
    ({"identity": "abc"}, "its identity is 'abc'"),
    ({"interface": {"input_size": 40, "output_size": 40}}, "cannot be read"),
    ({"interface": {"input_size": 10**13}}, "its interface is"),
    ({"interface": {"input_size": 2**39}}, "TB of memory"),
    ({"interface": {"output_size": 0}}, "its interface is"),
    ({"interface": {"output_size": 10**400}}, "its interface is"),
    ({"interface": {"input_size": True}}, "its interface is"),
    ({"interface": {"reads_ids": 1}}, "its interface is"),
    ({"interface": {"head": "other"}}, "its interface is"),
    ({"interface": {"head": ["softmax"]}}, "its interface is"),
    ({"interface": {"more": 1}}, "its interface is"),
    ({"config": []}, r"its config is \[\]"),
    ({"config": {"model.hidden_size": 65536, "model.num_layers": 64}}, "TB of memory"),
    ({"config": {"model.hidden_size": 10**400}}, "lies between 1 and 65536"),
    ({"config": {"optimizer.learning_rate": 10**400}}, "lies between 0 and"),
    ({"config": {"optimizer.learning_rate": float("nan")}}, "not nan"),
    ({"config": {"model.hidden_size": "x" * 10**7}}, "takes an integer, not 'xxx"),
    ({"config": {"x\n" * 10**6: 1}}, "the config has no key 'x"),
    ({"config": {"model.hidden_size": 3}}, "cannot be read"),
    ({"config": {"optimizer.name": "sgd"}}, "cannot be read"),
    ({"config": {"train.batch_size": 2**20, "model.hidden_size": 65536}}, "of memory"),
    ({"format": 10**30}, "another version of lstm_jax"),
    ({"format": "1"}, "its format is '1'"),
    ({"dtype": "float64; rm -rf /"}, "cannot be read|computes in"),
    ({"unit": 3}, "its unit is 3"),
    ({"unit": "x" * 10**7}, "its unit is 'xxx"),
]


@pytest.mark.parametrize("change, message", CHANGES, ids=range(len(CHANGES)))
def test_a_description_that_is_none(change, message, workdir, folder):
    path = workdir / "checkpoints" / "1" / "description" / "metadata"
    described = json.loads(path.read_bytes())
    (part, values), *_ = change.items()
    if values and type(values) is dict:
        change = {part: described[part] | values}
    put(path, json.dumps(described | change).encode())
    code, stderr = look("sample", folder)
    assert code == 2 and re.search(message, stderr), stderr


@pytest.mark.parametrize("name", ["val_loss_stream_average", "val_loss_windows_average"])
def test_one_of_two_losses_is_no_metrics(name, workdir, folder):
    path = workdir / "metrics.jsonl"
    line = json.loads(path.read_text().splitlines()[-1])
    put(path, json.dumps(line | {name: 1.0}).encode())
    code, stderr = look("train", folder)
    assert code == 2 and "some of an average's scores" in stderr


def test_a_state_of_another_shape(workdir, folder):
    """What the description says of the sizes is held against what the arrays are."""
    other = TRAIN | {"config.model.hidden_size": "5", "workdir": "other"}
    assert call(*line_of(other)).code == 0
    state = workdir / "checkpoints" / "1" / "state"
    shutil.rmtree(state)
    (folder / "other" / "checkpoints" / "1" / "state").rename(state)
    shutil.rmtree(folder / "other")
    write_sums(state.parent)
    for mode in MODES:
        code, stderr = look(mode, folder)
        assert code == 2 and "checkpoints/1 cannot be read" in stderr


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", ["link to a file", "link to a folder", "link to nothing", "pipe"])
def test_links_and_pipes_are_refused(make, mode, workdir, folder, tmp_path):
    """Wherever a run would write; what they lead to stays as it is, and nothing waits."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    before = around(tmp_path)
    below = [str(next((workdir / "checkpoints").rglob(name)).relative_to(workdir)) for name in "1d"]
    for name in [*RUN_FILES, "figures/curves.png", "checkpoints/2", *below]:
        path = workdir / name
        kept = path.rename(folder / "kept") if path.exists() else None
        if make == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(tmp_path / make.removeprefix("link to a ").replace("link to ", ""))
        before_here = sorted(workdir.rglob("*"))
        code, stderr = look(mode, folder)
        assert code == 2 and f"run/{name} is " in stderr, (name, stderr)
        assert sorted(workdir.rglob("*")) == before_here and around(tmp_path) == before
        path.unlink()
        if kept is not None:
            kept.rename(path)


# Beside a run that is as it should be; what is said goes elsewhere.
COMPARE = ("--mode=compare", "--workdirs=finished,run", "--workdir=pictures")


def refused_beside_another(folder):
    """The line with which the comparison of the run with a good one is refused."""
    before = around(folder)
    code, stdout, stderr = call(*COMPARE)
    assert code == 2 and stdout == "" and is_one_line(stderr) and around(folder) == before
    return stderr


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_runs_that_are_compared_are_looked_at_as_hard(name, workdir, folder, impatient):
    for content in CONTENTS.values():
        put(workdir / name, content)
        assert f"run/{name} " in refused_beside_another(folder)
    sparse(workdir / name, 2**40)
    assert "it has 1,099,511,627,776 bytes, more than" in refused_beside_another(folder)
    (workdir / name).unlink()
    os.mkfifo(workdir / name)
    assert f"run/{name} is neither a file nor a folder" in refused_beside_another(folder)


def test_what_a_run_deletes_while_its_folder_is_looked_at_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "checkpoints" / "1.part").mkdir(parents=True)
    (tmp_path / "checkpoints" / "1.part" / "file").write_text("")
    walk = os.walk

    def meanwhile(path):
        for found in walk(path):
            shutil.rmtree(path, ignore_errors=True)
            yield found

    monkeypatch.setattr(os, "walk", meanwhile)
    check_plain(tmp_path, ["checkpoints"])
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/1/SHA256SUMS"])
def test_the_other_runs_of_an_ensemble_are_looked_at_as_hard(name, workdir, folder):
    path = workdir / name
    shutil.move(path, folder / "kept")
    os.mkfifo(path)
    found = call("--mode=evaluate", "--workdir=finished", "--ensemble=run")
    assert found.code == 2 and found.stdout == "" and is_one_line(found.stderr)
    assert f"run/{name} is neither a file nor a folder" in found.stderr
    path.unlink()
    shutil.move(folder / "kept", path)


def test_a_run_in_a_folder_that_is_a_link_is_the_users_own_choice(folder, tmp_path):
    (folder / "run").symlink_to(tmp_path)
    assert call(*line_of(TRAIN)).code == 0
    assert (tmp_path / "summary.json").exists()
    (folder / "run").unlink()


# Trains on, scores and samples while Python itself reports what is unpickled, run and opened.
WATCHED = """
import json, os, pickle, sys
import matplotlib.font_manager  # has a program list the system's fonts, the first time
from tests.cli import EVALUATE, SAMPLE, TRAIN, call, line_of, process_in

COMPARE = {"mode": "compare", "workdirs": "run", "workdir": "run"}
opened, forbidden = [], ("pickle.find_class", "os.system", "os.exec", "subprocess.Popen")

def watch(event, args):
    if event in forbidden:
        raise RuntimeError(f"forbidden: {event}")
    if event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR):
        opened.append(os.path.abspath(args[0]))

sys.addaudithook(watch)
with process_in("."):
    outcomes = [call(*line_of(flags)) for flags in (TRAIN, EVALUATE, SAMPLE, COMPARE)]
try:
    pickle.loads(pickle.dumps(call))
except RuntimeError as error:
    outcomes.append([str(error)])
print(json.dumps([outcomes, sorted(set(opened))]))
"""


def test_nothing_is_unpickled_or_run_and_no_file_is_written_elsewhere(workdir, folder, tmp_path):
    shutil.rmtree(workdir / "figures")
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "MPLCONFIGDIR": str(tmp_path / "cache"),
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    outcomes, opened = json.loads(done.stdout)
    assert [outcome[0] for outcome in outcomes] == [0, 0, 0, 0, "forbidden: pickle.find_class"]
    assert (workdir / "figures" / "curves.png").exists()
    assert any(path.startswith(f"{workdir}/.summary.json") for path in opened)
    allowed = (str(workdir), f"{tmp_path}/cache", "/dev/")
    assert [path for path in opened if not path.startswith(allowed)] == []


@pytest.mark.parametrize("kind", ["deep object", "one line of 10 MB"])
def test_a_real_process_says_one_line(kind, workdir, folder):
    (workdir / "config.json").write_bytes(CONTENTS[kind])
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", *line_of(TRAIN)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == "" and is_one_line(done.stderr)


class Impatient(Exception):
    """What a folder made to be waited for would have been waited for."""


@pytest.fixture
def impatient():
    """Half a minute for a test, which takes a second where nothing waits."""

    def stop(*_):
        raise Impatient

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def redescribe(workdir, **changes):
    """Changes values of a run's config where its checkpoint describes it, checksums included."""
    path = workdir / "checkpoints" / "1" / "description" / "metadata"
    described = json.loads(path.read_bytes())
    described["config"] |= changes
    put(path, json.dumps(described).encode())


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket", "gone", "large", "empty"])
def test_a_text_that_a_folder_names_is_not_waited_for(kind, workdir, folder, impatient, tmp_path):
    path = tmp_path / "it"
    make = {
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "folder": Path.mkdir,
        "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
        "gone": lambda path: None,
        # As the system's own files say that they are, some of which are waited for.
        "empty": Path.touch,
        "large": lambda path: sparse(path, 2**29),
    }
    make[kind](path)
    redescribe(workdir, **{"data.path": str(path)})
    code, stderr = look("evaluate", folder)
    assert code == 2 and re.search("data.path=|is not the text that this model", stderr), stderr


@pytest.mark.parametrize("name", ["data.validation_path", "data.test_path"])
def test_nor_is_a_file_of_a_split(name, workdir, folder, impatient, tmp_path):
    os.mkfifo(tmp_path / "it")
    redescribe(workdir, **{name: str(tmp_path / "it")})
    code, stderr = look("evaluate", folder)
    assert code == 2 and f"the run's {name}=" in stderr and "is no plain file" in stderr


def sparse(path, size):
    path.touch()
    os.truncate(path, size)


@pytest.mark.parametrize("lanes, warmup", [(2**20, 2**24), (2**20, 100), (286, 200)])
def test_lanes_that_would_never_end_are_refused(lanes, warmup, workdir, folder, impatient):
    """Here three groups of lanes that each read most of the split; in a long one, millions."""
    redescribe(
        workdir,
        **{
            "evaluate.lanes": lanes,
            "evaluate.warmup": warmup,
            "data.validation_fraction": 0.7,
        },
    )
    code, stderr = look("evaluate", folder)
    assert code == 2 and "steps, and the 286 of evaluate.lanes=1 are exact" in stderr


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name", ["SHA256SUMS", "state/d/sparse", "sparse", "description/metadata", "metrics/metrics"]
)
def test_a_checkpoint_larger_than_its_state_is_not_read(name, mode, workdir, folder, impatient):
    """A file of a terabyte that takes no room on the disk."""
    sparse(workdir / "checkpoints" / "1" / name, 2**40)
    code, stderr = look(mode, folder)
    assert code == 2 and re.search("too large to be one|it has 1,099,511,6", stderr), stderr


@pytest.mark.parametrize("mode", MODES)
def test_losses_that_are_none_are_refused_before_anything_is_done(mode, workdir, folder):
    put(workdir / "checkpoints" / "1" / "metrics" / "metrics", b"no JSON")
    code, stderr = look(mode, folder)
    assert code == 2 and "cannot be read" in stderr and is_one_line(stderr)


def test_a_large_checkpoint_of_another_version_is_not_called_damaged(workdir, folder, impatient):
    path = workdir / "checkpoints" / "1" / "description" / "metadata"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"format": FORMAT + 1}))
    sparse(workdir / "checkpoints" / "1" / "more", SMALL_BYTES + 1)
    write_sums(workdir / "checkpoints" / "1")
    code, stderr = look("evaluate", folder)
    assert code == 2 and "another version of lstm_jax" in stderr


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt", "config.json"])
def test_a_file_larger_than_a_run_writes_is_not_read(name, workdir, folder, impatient):
    sparse(workdir / name, 2**40)
    code, stderr = look("train", folder)
    assert code == 2 and "it has 1,099,511,627,776 bytes, more than" in stderr
    assert look("evaluate", folder)[0] == 0 and look("sample", folder)[0] == 0


@pytest.mark.long
def test_whatever_is_taken_out_of_a_finished_run(workdir, folder, impatient):
    """Each file and folder of it: a run trains, scores and samples, or says in a line why not."""
    names = sorted(path.relative_to(workdir) for path in workdir.rglob("*"))
    whole = {"config.json", "metrics.jsonl", "samples.txt", "summary.json", "figures"}
    assert whole < {str(name) for name in names} and len(names) > 20
    for name in names:
        taken = (workdir / name).rename(folder / "taken")
        codes = {mode: look(mode, folder)[0] for mode in MODES if mode != "train"}
        codes["train"] = look("train", folder)[0]
        # Without its one checkpoint there is nothing to score, and training begins.
        trains = name.parts[0] in whole or str(name) in ("checkpoints", "checkpoints/1")
        others = 0 if name.parts[0] in whole else 2
        wanted = {"train": 0 if trains else 2, "evaluate": others, "sample": others}
        assert codes == wanted, name
        if taken.is_dir():
            shutil.rmtree(taken)
        else:
            taken.unlink()
        shutil.rmtree(workdir)
        shutil.copytree(folder / "finished", workdir)
