"""One process at a time in a folder; the lock of a dead one locks nothing."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys

import pytest

from lstm_jax.errors import UserError
from lstm_jax.run import lock
from lstm_jax.run.lock import LOCK, only_process

HOLD = """
import signal, sys, time
from pathlib import Path
from lstm_jax.run.lock import only_process

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs are born deaf to it
with only_process(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the folder's lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_the_second_is_refused_with_the_firsts_process_id(holder, tmp_path):
    with pytest.raises(UserError, match=rf"in use by process {holder.pid} on "):
        only_process(tmp_path).__enter__()
    assert holder.poll() is None and f"process {holder.pid} on" in (tmp_path / LOCK).read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_lock_goes_with_its_process(number, holder, tmp_path):
    holder.send_signal(number)
    holder.wait()
    assert (tmp_path / LOCK).exists() == (number == signal.SIGKILL)
    with only_process(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_deleted_between_two_looks_is_made_anew(tmp_path, monkeypatch):
    """The holder ends, and deletes it, after the other has opened it: what is locked is gone."""
    try_lock, opened = lock.try_lock, []

    def after_deletion(file):
        opened.append(file)
        if len(opened) == 1:
            (tmp_path / LOCK).unlink()
        try_lock(file)

    monkeypatch.setattr(lock, "try_lock", after_deletion)
    with only_process(tmp_path):
        assert len(opened) == 2 and (tmp_path / LOCK).exists()
        with pytest.raises(UserError, match=f"process {os.getpid()}"):
            only_process(tmp_path).__enter__()


def test_where_nothing_can_be_locked_a_warning_says_so(tmp_path, monkeypatch, capsys):
    def unsupported(file):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock, "try_lock", unsupported)
    with only_process(tmp_path):
        assert "cannot be locked (Operation not supported)" in capsys.readouterr().err


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / LOCK).symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="cannot write"):
        only_process(tmp_path).__enter__()
    assert (tmp_path / "other").read_text() == "precious"


# What may become of a folder, or of the lock file in it, under the process that holds the lock.
FATES = {
    "deleted": shutil.rmtree,
    "deleted and made again": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "moved": lambda folder: folder.rename(f"{folder} moved"),
    "a file now": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
    "its lock deleted": lambda folder: (folder / LOCK).unlink(),
    "its lock exchanged": lambda folder: replace(folder / LOCK, "process 1 on elsewhere\n"),
    "its lock copied": lambda folder: replace(folder / LOCK, (folder / LOCK).read_text()),
    "its lock a link": lambda folder: os.symlink(
        (folder / LOCK).rename(folder / "x"), folder / LOCK
    ),
    "taken where nothing is locked": lambda folder: (folder / LOCK).write_text("process 1\n"),
}


def replace(path, content):
    path.unlink()
    path.write_text(content)


def below(folder):
    paths = [folder, *folder.rglob("*")] if folder.exists() else []
    return {path: path.read_text() for path in paths if path.is_file()}


@pytest.mark.parametrize("fate", FATES)
def test_a_lock_does_not_outlive_its_folder(fate, tmp_path):
    """The holder can tell, and when it ends it leaves what is there now as it is."""
    folder = tmp_path / "run"
    with only_process(folder) as held:
        held.check()
        FATES[fate](folder)
        before = below(folder)
        with pytest.raises(UserError, match="was deleted, moved or taken over while this process"):
            held.check()
    assert below(folder) == before
    with pytest.raises(UserError, match="is closed"):
        held.check()


def test_the_end_of_the_first_does_not_let_in_a_third(tmp_path):
    folder = tmp_path / "run"
    with only_process(folder) as first:
        shutil.rmtree(folder)
        second = only_process(folder)
        held = second.__enter__()
        assert not first.is_held() and held.is_held()
    with pytest.raises(UserError, match="in use by process"):
        only_process(folder).__enter__()
    held.check()
    second.__exit__(None, None, None)
    assert below(folder) == {}


def test_on_a_full_disk_it_locks_all_the_same(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock, "open_here", lambda path: Full(path, "w+"))
    with only_process(tmp_path) as held:
        held.check()
        with pytest.raises(UserError, match="in use by another process"):
            only_process(tmp_path).__enter__()
