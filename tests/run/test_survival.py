"""The real process, killed, interrupted, out of room, run twice: what it was worth is still there.

    python -m pytest -m long tests/run/test_survival.py

kills one run 40 times, and watches the memory of 2,000 dispatches; the others are in every run.
"""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from lstm_jax.run.checkpoint import Checkpoints
from lstm_jax.run.metrics import read_metrics
from tests.small import without_times

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 300  # what waits longer than that is broken, not slow
STEPS = 60


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A text of a few hundred characters, and the compiled programs of this file's processes."""
    folder = tmp_path_factory.mktemp("shared")
    letters = random.Random(0).choices("abcd \n", k=600)
    (folder / "text").write_text("".join(letters))
    return folder


def command(shared, workdir, *flags):
    """Trains with dropout, and validates, samples and saves every third dispatch."""
    return [
        *(sys.executable, "-m", "experiments.run", f"--workdir={workdir}"),
        f"--compile_cache={shared / 'programs'}",
        f"--config.data.path={shared / 'text'}",
        "--config.model.hidden_size=8",
        "--config.model.dropout=0.2",
        "--config.train.batch_size=4",
        "--config.train.sequence_length=8",
        f"--config.train.steps={STEPS}",
        "--config.train.steps_per_dispatch=2",
        "--config.train.validate_every=6",
        "--config.train.sample_length=20",
        "--config.evaluate.window_length=16",
        "--config.evaluate.warmup=4",
        *flags,
    ]


def start(*args):
    return subprocess.Popen(
        command(*args), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*args, code=0, **kwargs):
    done = subprocess.run(
        command(*args), cwd=ROOT, capture_output=True, text=True, check=False, **kwargs
    )
    assert done.returncode == code, done.stderr
    return done


def wait_until(happens, process):
    """Looks every millisecond; False where the process has ended before."""
    end = time.monotonic() + PATIENCE_S
    while not happens():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end
        time.sleep(0.001)
    return True


def outcome(workdir):
    """Every bit that a run leaves but its pictures and times, and the names of what it leaves."""
    checkpoints = Checkpoints(workdir)
    assert checkpoints.sort_out()[1] == {}
    with jax.numpy_dtype_promotion("standard"):
        states = {step: checkpoints.restore(step)[0] for step in checkpoints.steps()}
    leaves = {n: [np.asarray(x).tobytes() for x in jax.tree.leaves(s)] for n, s in states.items()}
    return {
        "states": leaves,
        "metrics": without_times(workdir),
        "samples": (workdir / "samples.txt").read_bytes(),
        "names": sorted(path.name for path in workdir.iterdir()),
        "checkpoints": sorted(path.name for path in (workdir / "checkpoints").iterdir()),
    }


@pytest.fixture(scope="module")
def untouched(shared, tmp_path_factory):
    """A finished run that nobody disturbed, and what it printed."""
    workdir = tmp_path_factory.mktemp("untouched") / "run"
    return workdir, run(shared, workdir).stdout


def test_two_runs_of_one_seed_give_the_same_bits(untouched, shared, tmp_path):
    """Dropout and sampling included; and --verbosity shows what the libraries log, on stderr."""
    workdir, stdout = untouched
    again = run(shared, tmp_path / "run", "--verbosity=0")
    assert outcome(tmp_path / "run") == outcome(workdir)
    untimed = re.compile(r"^training_time .*$", re.MULTILINE)
    assert untimed.sub("", again.stdout) == untimed.sub("", stdout)
    assert re.match(r"training_loss .*(\nvalidation_loss_\w+ .*){2}\ntraining_time ", stdout)
    assert re.search(r"^I\d{4} .*\.py:\d+\]", again.stderr, re.MULTILINE)


def moments(workdir, dice):
    """What a killer may wait for: any time, a checkpoint being written, some more lines."""
    checkpoints, metrics = workdir / "checkpoints", workdir / "metrics.jsonl"

    def after(seconds):
        end = time.monotonic() + seconds
        return lambda: time.monotonic() > end

    def writing(skip):
        seen = set()

        def happens():
            seen.update(checkpoints.glob("*.part"))
            return len(seen) > skip

        return happens

    def lines(count):
        size = metrics.stat().st_size if metrics.exists() else 0
        return lambda: metrics.exists() and metrics.stat().st_size > size + 150 * count

    return dice.choice(
        [
            after(dice.uniform(0, 6)),
            writing(dice.randrange(3)),
            writing(dice.randrange(3)),
            lines(dice.randrange(1, 9)),
        ]
    )


def kill_again_and_again(shared, workdir, kills, *flags):
    """Kills a run that many times, then lets it end; how often a checkpoint was being written."""
    dice, writing, killed = random.Random(kills), 0, 0
    while killed < kills:
        happens = moments(workdir, dice)
        with start(shared, workdir, *flags) as process:
            if wait_until(happens, process):
                time.sleep(dice.choice([0, dice.uniform(0, 0.05)]))
                process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run was too short for so many kills"
        killed += 1
        writing += any((workdir / "checkpoints").glob("*.part"))
        if killed == 2 and (workdir / "metrics.jsonl").exists():
            # As if killed in the middle of a line.
            for name, piece in (("metrics.jsonl", '{"step": 9'), ("samples.txt", "==== st")):
                with open(workdir / name, "a") as file:
                    file.write(piece)
    run(shared, workdir, *flags)
    return writing


def test_killed_at_any_moment(untouched, shared, tmp_path):
    writing = kill_again_and_again(shared, tmp_path / "run", 2)
    assert outcome(tmp_path / "run") == outcome(untouched[0])
    print(f"2 kills survived, {writing} of them while a checkpoint was being written")


@pytest.mark.long
def test_killed_40_times(shared, tmp_path):
    flags = ["--config.train.steps=3000"]
    run(shared, tmp_path / "untouched", *flags)
    writing = kill_again_and_again(shared, tmp_path / "run", 40, *flags)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "untouched")
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(2, 3001, 2))
    print(f"40 kills survived, {writing} of them while a checkpoint was being written")


def test_the_second_process_is_refused_and_a_dead_ones_lock_is_no_lock(shared, tmp_path):
    """Scoring and sampling need no lock."""
    flags = ["--config.train.steps=1000000", "--config.train.validate_every=200"]
    workdir = tmp_path / "run"
    with start(shared, workdir, *flags) as first:
        assert wait_until(lambda: list(workdir.glob("checkpoints/*00")), first)
        second = run(shared, workdir, *flags, code=2)
        assert f"error: {workdir} is in use by process {first.pid} on " in second.stderr
        assert second.stderr.count("\n") == 1 and second.stdout == ""
        score = [sys.executable, "-m", "experiments.run", "--mode=evaluate", f"--workdir={workdir}"]
        subprocess.run(score, cwd=ROOT, check=True, capture_output=True)
        assert first.poll() is None
        first.kill()
        first.communicate()
    assert (workdir / ".lock").exists()
    with start(shared, workdir, *flags) as third:
        assert any("resuming at step" in line for line in third.stderr)
        third.kill()
        third.communicate()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.long
def test_a_disk_that_fills_up(small_disk, untouched, shared):
    """The real command ends with one line and exit code 2; once there is room it goes on."""
    workdir, filler = small_disk / "run", small_disk / "filler"
    filler.write_bytes(bytes(2**20 - 60 * 1024))
    done = run(shared, workdir, code=2)
    error = done.stderr.splitlines()[-1]
    assert re.match(
        rf"error: cannot write {workdir}/checkpoints/\d+: No space left on device", error
    )
    assert "0.0" in error and "MB are free" in error and "Traceback" not in done.stderr
    assert Checkpoints(workdir).sort_out()[1] == {}
    filler.unlink()
    run(shared, workdir)
    assert outcome(workdir) == outcome(untouched[0])


def resident_mb(process):
    """The memory that a process has in use, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1e3


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_memory_does_not_grow_from_dispatch_to_dispatch(shared, tmp_path):
    """2,000 dispatches; every 50th with a validation, a sample and a checkpoint."""
    workdir = tmp_path / "run"
    flags = ["--config.train.steps=2000", "--config.train.steps_per_dispatch=1"]
    sizes = {}
    with start(shared, workdir, *flags, "--config.train.validate_every=50") as process:
        for step in range(100, 2000, 100):
            assert wait_until(has_line_of(workdir, step), process)
            sizes[step] = resident_mb(process)
        process.communicate()
    assert process.returncode == 0
    print("resident MB after dispatches:", sizes)
    # Until then libraries are still being imported, in the background.
    assert max(sizes.values()) - sizes[300] < 20


def interrupt(shared, workdir, flags, happens, *numbers):
    """The return code and stderr of a run that gets signals, the first when something happens."""
    with start(shared, workdir, *flags) as process:
        assert wait_until(happens, process)
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.3)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in stderr
    return process.returncode, stderr


def saved_at(workdir, stderr):
    """The step that the run says it was saved at, where there is a good checkpoint of it."""
    step = int(re.search(r"saved at step (\d+); the same command goes on from there", stderr)[1])
    last = [0, *(line["step"] for line in read_metrics(workdir))][-1]
    assert Checkpoints(workdir).sort_out()[0][-1] == step == last
    return step


def has_line_of(workdir, step):
    path = workdir / "metrics.jsonl"
    return lambda: path.exists() and f'"step": {step},' in path.read_text()


def test_a_signal_during_a_validation(shared, tmp_path):
    """Which is finished, and saved with its step: it comes right after the line of step 4."""
    workdir, flags = tmp_path / "run", ["--config.evaluate.lanes=3"]  # which nobody has compiled
    happens = has_line_of(workdir, 4)
    code, stderr = interrupt(shared, workdir, flags, happens, signal.SIGINT)
    assert code == 130 and "stopping and saving" in stderr
    assert saved_at(workdir, stderr) == 6 and "val_loss_stream" in read_metrics(workdir)[-1]


def test_a_signal_while_a_checkpoint_is_being_written(untouched, shared, tmp_path):
    workdir = tmp_path / "run"
    happens = lambda: any((workdir / "checkpoints").glob("*.part"))  # noqa: E731
    code, stderr = interrupt(shared, workdir, [], happens, signal.SIGTERM)
    assert code == 143 and 6 <= saved_at(workdir, stderr) <= STEPS
    run(shared, workdir)
    assert without_times(workdir) == without_times(untouched[0])


def under_way(workdir):
    """A moment after the training began: it is compiling for the first time."""
    began = []

    def happens():
        if not began and (workdir / "config.json").exists():
            began.append(time.monotonic())
        return bool(began) and time.monotonic() > began[0] + 0.5

    return happens


def test_a_second_signal_in_the_first_compilation_stops_at_once(shared, tmp_path):
    workdir, numbers = tmp_path / "run", [signal.SIGINT, signal.SIGINT]
    flags = ["--config.model.num_layers=6", "--compile_cache=off"]  # seconds to compile
    code, stderr = interrupt(shared, workdir, flags, under_way(workdir), *numbers)
    assert code == 130 and "stopping and saving" in stderr
    assert "saved at step" not in stderr and "step 2/" not in stderr
    assert Checkpoints(workdir).steps() == []


def test_a_signal_in_the_first_compilation(shared, tmp_path):
    workdir, flags = tmp_path / "run", ["--config.model.num_layers=2", "--compile_cache=off"]
    code, stderr = interrupt(shared, workdir, flags, under_way(workdir), signal.SIGTERM)
    # 0: on a slow machine the loop may not have come to its first dispatch yet.
    assert code == 143 and saved_at(workdir, stderr) in (0, 2)


@pytest.mark.long
def test_a_reader_that_goes_away(untouched, shared, tmp_path):
    """`2>&1 | head`: what was done is saved, the exit code is a shell's of SIGPIPE."""
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        command(shared, workdir),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for _ in range(4):
        process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 141
    assert Checkpoints(workdir).steps()[-1] == read_metrics(workdir)[-1]["step"] > 0
    run(shared, workdir)
    assert without_times(workdir) == without_times(untouched[0])
