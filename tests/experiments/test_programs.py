"""Compiled programs kept for the next process: found there, never needed, and no bit changes."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.command import process
from experiments.support import programs
from experiments.support.programs import delete_oldest, keep_programs_unasked
from lstm_jax.container import schedulable_cpus
from lstm_jax.data.fetch import cache_folder
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.checksums import SUMS
from lstm_jax.run.metrics import read_metrics

ROOT = Path(__file__).parent.parent.parent
TRAIN = [
    "--config.data.corpus=python_topics",
    "--config.data.validation_fraction=0.01",
    "--config.evaluate.warmup=16",
    "--config.model.hidden_size=8",
    "--config.model.dropout=0.2",
    "--config.train.batch_size=4",
    "--config.train.sequence_length=16",
    "--config.train.steps=4",
    "--config.train.steps_per_dispatch=1",
    "--config.train.validate_every=2",
    "--config.train.sample_length=8",
]
# One small program, and how many were compiled.
DOUBLE = """
import sys
from pathlib import Path
import jax
from experiments.support.programs import keep_programs

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
keep_programs(Path(sys.argv[1]))
print(jax.jit(lambda x: 2 * x)(21), events.count("/jax/compilation_cache/cache_misses"))
"""


def python(*args, **kwargs):
    """A process in the repository's root; its stdout and stderr, which are its own alone."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        **kwargs,
    )
    return done.stdout, done.stderr


def double(folder):
    return python("-c", DOUBLE, folder)


def kept(folder):
    return sorted(path.name for path in folder.rglob("*-cache"))


def test_the_second_process_compiles_nothing(tmp_path):
    assert double(tmp_path / "kept") == ("42 1\n", "")
    assert len(kept(tmp_path / "kept" / f"cores-{schedulable_cpus()}")) == 1
    assert double(tmp_path / "kept") == ("42 0\n", "")
    shutil.rmtree(tmp_path / "kept")
    assert double(tmp_path / "kept") == ("42 1\n", "")


def cut_short(program):
    program.write_bytes(program.read_bytes()[:-1])


def garbage(program):
    program.write_bytes(b"garbage" * 1000)


def a_folder(program):
    program.unlink()
    (program / "below").mkdir(parents=True)


@pytest.mark.parametrize(
    "spoil",
    [
        cut_short,
        pytest.param(garbage, marks=pytest.mark.long),
        pytest.param(a_folder, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("summed", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_spoilt_program_is_one_line_and_mended(spoil, summed, tmp_path):
    """Also where the process that compiled it was killed, and so wrote no checksums."""
    double(tmp_path)
    (program,) = tmp_path.rglob("*-cache")
    spoil(program)
    if not summed:
        (program.parent / "SHA256SUMS").unlink()
    stdout, stderr = double(tmp_path)
    assert stdout == "42 1\n"
    assert stderr.startswith("warning: ") and stderr.count("\n") == 1
    noticed = "1 compiled programs in" if summed or spoil is a_folder else "reading compiled"
    assert noticed in stderr
    assert double(tmp_path) == ("42 0\n", "")


def test_exchanged_programs_are_not_run(tmp_path):
    """Each would do the other's work: here 3 * 21 for 2 * 21, with nothing said."""
    both = DOUBLE.replace("2 * x)(21)", "2 * x)(21), jax.jit(lambda x: 3 * x)(21)")
    assert python("-c", both, tmp_path) == ("42 63 2\n", "")
    one, other = tmp_path.rglob("*-cache")
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])
    stdout, stderr = python("-c", both, tmp_path)
    assert stdout == "42 63 2\n"
    assert stderr.startswith("warning: 2 compiled programs in ") and stderr.count("\n") == 1
    assert python("-c", both, tmp_path) == ("42 63 0\n", "")


@pytest.mark.parametrize("mode, warned", [(0o777, True), (0o700, False)])
def test_a_folder_that_is_asked_for_and_that_others_can_write(mode, warned, tmp_path):
    """It is used, with a warning."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept").chmod(mode)
    stdout, stderr = double(tmp_path / "kept")
    assert stdout.startswith("42 ") and ("warning: others can write" in stderr) == warned
    assert len(kept(tmp_path / "kept" / f"cores-{schedulable_cpus()}")) == 1


def test_a_pipe_for_the_checksums_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / SUMS)
    assert programs.read_sums(tmp_path) == set() and not (tmp_path / SUMS).exists()
    programs.write_sums(tmp_path)
    assert (tmp_path / SUMS).is_file()


def test_a_program_that_vanishes_costs_no_other_its_checksum(tmp_path, monkeypatch):
    for name in ("a-cache", "b-cache"):
        (tmp_path / name).write_text(name)
    original = programs.sha256_of

    def vanish(path):
        (tmp_path / "a-cache").unlink(missing_ok=True)
        return original(path)

    monkeypatch.setattr(programs, "sha256_of", vanish)
    assert programs.program_sums(tmp_path).split()[1::2] == ["b-cache"]


def test_a_full_disk_is_one_line_and_leaves_no_program_cut_short(tmp_path):
    # By the process itself: one that JAX runs in must not be forked with code of its own to run.
    no_file_grows = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    stdout, stderr = python("-c", f"{no_file_grows}\n{DOUBLE}", tmp_path)
    assert stdout.startswith("42 ")
    assert stderr.startswith("warning: writing compiled programs in ") and stderr.count("\n") == 1
    assert "File too large" in stderr and kept(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    stdout, stderr = double(tmp_path / "file" / "kept")
    assert stdout.startswith("42 ")
    assert (
        stderr.startswith("warning: compiled programs are not kept in ") and stderr.count("\n") == 1
    )


@pytest.fixture
def kept_in(monkeypatch):
    """Where programs would be kept, without a word to JAX."""
    folders = []
    monkeypatch.setattr(programs, "keep_programs", folders.append)
    return folders


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o000])
def test_a_cache_that_was_not_asked_for_is_the_users_alone(umask, kept_in, tmp_path, capsys):
    before = os.umask(umask)
    try:
        for _ in range(2):
            keep_programs_unasked(tmp_path / "new" / "cache")
    finally:
        os.umask(before)
    folder = tmp_path / "new" / "cache" / "programs"
    modes = {path: path.stat().st_mode & 0o777 for path in folder.parent.rglob("*")}
    assert modes == {folder: 0o700, folder / f"cores-{schedulable_cpus()}": 0o700}
    assert kept_in == [folder] * 2 and capsys.readouterr().err == ""


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
@pytest.mark.parametrize("below", ["", f"cores-{schedulable_cpus()}"])
def test_a_cache_that_others_can_write_is_not_used_unasked(mode, below, kept_in, tmp_path, capsys):
    (tmp_path / "programs" / below).mkdir(parents=True)
    (tmp_path / "programs" / below).chmod(mode)
    keep_programs_unasked(tmp_path)
    stderr = capsys.readouterr().err
    assert kept_in == [] and stderr.count("\n") == 1
    assert stderr.startswith(f"warning: compiled programs are not kept in {tmp_path}/programs: oth")


@pytest.mark.parametrize("owner, others", [(5, False), (0, False), (6, True)])
def test_a_cache_that_is_anothers_is_not_used_unasked(owner, others, monkeypatch):
    """The administrator's may be: he can do all else, too."""
    folder = SimpleNamespace(stat=lambda: SimpleNamespace(st_uid=owner, st_mode=0o40755))
    monkeypatch.setattr(os, "geteuid", lambda: 5)
    assert programs.others_can_write(folder) == others


@pytest.mark.parametrize("cache", [None, "a file"])
def test_without_a_cache_folder_the_run_goes_on(cache, kept_in, tmp_path, capsys):
    (tmp_path / "a file").touch()
    keep_programs_unasked(cache and tmp_path / cache)
    stderr = capsys.readouterr().err
    assert kept_in == [] and stderr.count("\n") == 1
    assert stderr.startswith("warning: compiled programs are not kept in ")


def test_the_least_recently_used_are_deleted(tmp_path):
    for name, used in (("a", 3), ("b", 1), ("c", 2), ("d", 4)):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (used, 0))
    delete_oldest(tmp_path, 40)
    assert len(list(tmp_path.iterdir())) == 4
    delete_oldest(tmp_path, 25)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "d"}


def train(*runs, env):
    """Trains side by side, each run with its folder and its flags."""

    def one(run):
        workdir, *flags = run
        python("-m", "experiments.run", *TRAIN, f"--workdir={workdir}", *flags, env=env)

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, runs))


def outcome(workdir):
    """Every bit that a run leaves, as bytes."""
    timed = ("seconds", "compile_seconds", "targets_per_second")
    metrics = [{k: v for k, v in m.items() if k not in timed} for m in read_metrics(workdir)]
    with jax.numpy_dtype_promotion("standard"):
        state, _ = load_model(workdir, "latest")
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    return repr(metrics), (workdir / "samples.txt").read_text(), leaves


@contextmanager
def jax_cache_folder(folder):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", folder)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.long
def test_kept_programs_change_no_bit_of_a_new_run_or_a_resumed_one(tmp_path):
    """By default they are in the user's cache folder."""
    without, first, second = (tmp_path / name for name in ("without", "first", "second"))
    env = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    del env["JAX_COMPILATION_CACHE_DIR"]

    train((without, "--compile_cache=off"), (first,), env=env)
    wanted, programs = outcome(without), kept(tmp_path)
    assert len(programs) > 10 and outcome(first) == wanted

    shutil.rmtree(first / "checkpoints" / "4")
    train((first,), (second,), env=env)
    assert outcome(first) == outcome(second) == wanted
    new = set(kept(tmp_path)) - set(programs)
    # The resumed run's carry is divided among the cores.
    assert all(name.startswith("jit__multi_slice") for name in new)


@pytest.mark.parametrize(
    "flag, of_jax, experiment, wanted",
    [
        (None, None, "shakespeare", [cache_folder()]),
        (None, "jax's", "shakespeare", []),
        ("mine", None, "shakespeare", [Path("mine")]),
        ("~/mine", None, "shakespeare", [Path.home() / "mine"]),
        ("./~", None, "shakespeare", [Path("./~")]),
        ("mine", "jax's", "shakespeare", [Path("mine")]),
        ("off", None, "shakespeare", ["none"]),
        ("off", "jax's", "shakespeare", ["none"]),
        (None, "jax's", "benchmark", ["none"]),
        ("off", None, "benchmark", ["none"]),
    ],
)
def test_where_programs_are_kept(flag, of_jax, experiment, wanted, monkeypatch):
    called = []
    monkeypatch.setattr(process, "keep_programs", called.append)
    monkeypatch.setattr(process, "keep_programs_unasked", called.append)
    monkeypatch.setattr(process, "keep_no_programs", lambda: called.append("none"))
    for name, value in (("COMPILE_CACHE", flag), ("EXPERIMENT", experiment), ("MODE", "train")):
        monkeypatch.setattr(process, name, SimpleNamespace(value=value))
    with jax_cache_folder(of_jax):
        process.set_compile_cache()
    assert called == wanted


def test_the_folder_that_jax_is_set_up_with_may_be_in_the_home(monkeypatch):
    for name, value in (("COMPILE_CACHE", None), ("EXPERIMENT", "notebook"), ("MODE", "train")):
        monkeypatch.setattr(process, name, SimpleNamespace(value=value))
    with jax_cache_folder("~/jax"):
        process.set_compile_cache()
        assert jax.config.jax_compilation_cache_dir == str(Path.home() / "jax")
