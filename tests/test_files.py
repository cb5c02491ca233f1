"""Where a run's files are put and who may read them: as the user says, and as the umask does."""

import os
import pwd
from pathlib import Path

import platformdirs
import pytest

from lstm_jax.data import fetch
from lstm_jax.errors import UserError
from lstm_jax.files import named, write_atomically
from tests.cli import EVALUATE, SAMPLE, TEXT, TRAIN, call, is_one_line, line_of, process_in


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text").write_bytes(TEXT)
    with process_in(tmp_path):
        yield tmp_path


@pytest.fixture
def umask():
    """Sets the umask, for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0o077, 0o002, 0o027])
def test_who_may_read_a_run_is_for_the_umask_to_say(mask, umask, folder):
    umask(mask)
    for _ in range(2):  # a new run, and one that is gone on with, which writes files again
        assert call(*line_of(TRAIN)).code == 0
    (folder / "folder").mkdir()
    (folder / "folder" / "file").open("w").close()
    plain = (folder / "folder", folder / "folder" / "file")
    wanted = {path.is_dir(): path.stat().st_mode for path in plain}
    run = [folder / "run", *(folder / "run").rglob("*")]
    assert len(run) > 20
    assert [path for path in run if path.stat().st_mode != wanted[path.is_dir()]] == []


@pytest.mark.parametrize("name", ["gs://bucket/run", "s3://bucket", "file:///run"])
def test_an_address_is_no_folder(name, folder):
    found = call(*line_of(TRAIN | {"workdir": name}))
    assert found.code == 2 and is_one_line(found.stderr) and "is an address" in found.stderr
    assert [path.name for path in folder.iterdir()] == ["text"]


def test_a_file_system_may_refuse_to_change_who_may_read(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    monkeypatch.setattr(Path, "chmod", refuse)
    for flags in (TRAIN, EVALUATE, SAMPLE):
        code, _, stderr = call(*line_of(flags))
        assert code == 0 and "warning" not in stderr


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"before")

    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"cannot write .*file: Operation not permitted"):
        write_atomically(path, b"after")
    assert [p.read_bytes() for p in path.parent.iterdir()] == [b"before"]


@pytest.fixture
def home(folder, monkeypatch):
    """A home with a text and, once trained, a run."""
    (folder / "home").mkdir()
    (folder / "text").rename(folder / "home" / "text")
    monkeypatch.setenv("HOME", str(folder / "home"))
    return folder / "home"


def test_a_home_in_every_flag_that_names_a_path(folder, home):
    at_home = {"config.data.path": "~/text", "workdir": "~/run"}
    assert call(*line_of(TRAIN | at_home)).code == 0
    other = at_home | {"workdir": "other", "config.train.seed": "1"}
    assert call(*line_of(TRAIN | other)).code == 0
    assert call(*line_of(SAMPLE | {"workdir": "~/run"})).code == 0
    # The text is where the run's own config says: `~/text`.
    scored = call(*line_of(EVALUATE | {"workdir": "other", "ensemble": "~/run"}))
    assert scored.code == 0 and "2 models" in scored.stdout
    (home / "flags").write_text("--mode=sample\n--workdir=~/run\n--length=4\n")
    assert call("--flagfile=~/flags").code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["home", "other"]


@pytest.mark.parametrize(
    "path, wanted",
    [
        ("~", "{home}"),
        ("~/a b/~", "{home}/a b/~"),
        ("./~/x", "./~/x"),
        ("a~/~x", "a~/~x"),
        ("/~", "/~"),
        (f"~{pwd.getpwuid(0).pw_name}/x", f"{pwd.getpwuid(0).pw_dir}/x"),
    ],
)
def test_what_stands_for_a_home(path, wanted, home):
    assert named(path) == Path(wanted.format(home=home))


@pytest.mark.parametrize("path", ["~nobody-of-this-name/run", "~no\x1bbody", "~\ud800"])
@pytest.mark.parametrize("flag", ["workdir", "config.data.path", "ensemble"])
def test_nobodys_home_is_one_line(path, flag, folder):
    mode = EVALUATE if flag == "ensemble" else TRAIN
    found = call(*line_of(mode | {flag: path}))
    assert found.code == 2 and is_one_line(found.stderr) and "nobody's home" in found.stderr
    assert [path.name for path in folder.iterdir()] == ["text"]


@pytest.fixture
def nobody(monkeypatch):
    """A user of whom the system knows no home, as in a container that is given a number."""

    def unknown(*args):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_user_without_a_home_trains(nobody, folder):
    assert fetch.cache_folder() is None
    assert call(*line_of(TRAIN)).code == 0
    found = call(*line_of(TRAIN | {"workdir": "~/run"}))
    assert found.code == 2 and is_one_line(found.stderr) and "nobody's home" in found.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["run", "text"]


@pytest.mark.parametrize("found", ["~/.cache/lstm_jax", "relative/lstm_jax"])
def test_no_cache_is_a_folder_named_like_a_home(found, monkeypatch):
    """What older releases of platformdirs answer where there is no home."""
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *args, **kwargs: found)
    assert fetch.cache_folder() is None
