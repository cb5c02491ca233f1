"""One run in several processes: the same numbers, one folder, and an end that says whose it is.

    python -m pytest -m long tests/run/test_processes.py

also stops, hangs and kills some of them, and goes on with one, two and four.
"""

import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lstm_jax.errors import UserError
from lstm_jax.gradients import lanes
from lstm_jax.run import peers, processes
from lstm_jax.run.checkpoint import Checkpoints, load_model
from lstm_jax.run.metrics import read_metrics
from lstm_jax.run.trained import evaluate
from tests.cli import call, is_one_line, process_in
from tests.small import CONFIG, TEXT, TextTask, without_times

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 300  # what waits longer than that is broken, not slow


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "text"
    path.write_text("".join(random.Random(0).choices("abcd \n", k=600)))
    return path


def command(text, workdir, *flags):
    """Trains with all that is drawn, and validates and saves every third dispatch."""
    return [
        f"--workdir={workdir}",
        f"--config.data.path={text}",
        "--config.model.hidden_size=8",
        "--config.model.dropout=0.2",
        "--config.model.weight_drop=0.2",
        "--config.model.zoneout_hidden=0.1",
        "--config.optimizer.schedule=constant",
        "--config.optimizer.warmup_steps=2",
        "--config.train.reset_rate=0.2",
        "--config.train.average=ema",
        "--config.train.batch_size=8",
        "--config.train.sequence_length=4",
        "--config.train.steps=12",
        "--config.train.steps_per_dispatch=2",
        "--config.train.validate_every=6",
        "--config.train.sample_length=10",
        "--config.evaluate.window_length=16",
        "--config.evaluate.warmup=4",
        *flags,
    ]


def a_free_port():
    with socket.create_server(("localhost", 0)) as taken:
        return taken.getsockname()[1]


def start(count, text, *args):
    """So many processes of one device each, side by side; `text`: one, or one for each."""
    texts = text if isinstance(text, list) else [text] * count
    several = f"--coordinator=localhost:{a_free_port()}", f"--num_processes={count}"
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "experiments.run", "--cpu_devices=1"),
                *command(text, *args),
                *((*several, f"--process_id={n}") if count > 1 else ()),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n, text in enumerate(texts)
    ]


def outcomes(started):
    """The exit code, stdout and stderr of each, but for what gloo says."""
    ends = []
    for process in started:
        try:
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
        finally:
            for each in started if process.returncode is None else ():
                each.kill()
        lines = [line for line in stderr.splitlines(True) if not line.startswith("[Gloo]")]
        ends.append((process.returncode, stdout, "".join(lines)))
    return ends


def run(count, *args):
    ends = outcomes(start(count, *args))
    assert [code for code, *_ in ends] == [0] * count, ends
    return ends


@pytest.fixture(scope="module")
def two(text, tmp_path_factory):
    """A finished run of two processes, and what each printed."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    return workdir, run(2, text, workdir)


def losses(workdir):
    names = re.compile("train_loss|grad_norm$|val_")
    lines = read_metrics(workdir)
    return np.array([[v for k, v in line.items() if names.match(k)][:2] for line in lines])


def test_two_processes_compute_what_one_does_and_one_of_them_writes(two, text, tmp_path):
    workdir, ((_, stdout, stderr), (_, *silence)) = two
    with process_in(tmp_path):
        code, alone, _ = call(*command(text, tmp_path / "alone"))
    assert code == 0
    np.testing.assert_allclose(losses(workdir), losses(tmp_path / "alone"), rtol=2e-6)
    (state, _), (wanted, _) = (load_model(folder) for folder in (workdir, tmp_path / "alone"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, wanted)
    assert "lanes: 8 on 2 devices of 2 processes, 4 each\n" in stderr
    assert silence == ["", ""]
    untimed = re.compile("training_time.*")
    assert untimed.sub("", stdout) == untimed.sub("", alone)
    names = [{path.name for path in folder.iterdir()} for folder in (workdir, tmp_path / "alone")]
    assert names[0] == names[1]


def test_its_model_is_scored_by_one_process(two):
    state, description = load_model(two[0])
    scores = {f"val_{name}_average": loss for name, loss in evaluate(state, description).items()}
    last = read_metrics(two[0])[-1]
    assert scores == pytest.approx({name: last[name] for name in scores}, rel=1e-6)


@pytest.mark.parametrize(
    "line, error",
    [
        ("--coordinator=node1:12", "--coordinator needs --num_processes, too"),
        ("--coordinator=a:1 --num_processes=2", "--coordinator needs --process_id, too"),
        ("--coordinator=a:1 --num_processes=2 --process_id=2", "--process_id=2 is none of --num_"),
        ("--coordinator=node1 --num_processes=2", "--coordinator takes HOST:PORT, such as node1:1"),
        ("--num_processes=2", "--num_processes means nothing without --coordinator"),
        ("--distributed=auto --process_id=2", "--process_id means nothing beside --distributed="),
        ("--distributed=auto --mode=sample", "--distributed means nothing to --mode=sample, which"),
        (
            "--distributed=auto --experiment=verify_gradients",
            "--distributed means nothing to --experiment=verify_gradients, which is one process",
        ),
        (
            "--distributed=auto --sweep.train.seed=0,1",
            "--distributed means nothing beside --sweep.train.seed",
        ),
    ],
)
def test_flags_that_do_not_say_who_is_who(line, error, tmp_path):
    with process_in(tmp_path):
        code, stdout, stderr = call(*line.split())
    assert code == 2 and stdout == "" and is_one_line(stderr) and f"error: {error}" in stderr


@pytest.fixture
def two_of_two(monkeypatch):
    """This process as the second of two, each with two devices, as JAX would have it."""
    devices = [SimpleNamespace(process_index=n // 2, id=n, platform="cpu") for n in range(4)]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "local_devices", lambda n=1: devices[2 * n : 2 * n + 2])
    monkeypatch.setattr(lanes, "Mesh", lambda used, _: SimpleNamespace(devices=np.array(used)))
    return devices


@pytest.mark.parametrize(
    "B, ids, why",
    [
        (8, [0, 1, 2, 3], ""),
        (6, [0, 2], "6 lanes are not divided evenly"),
        (5, [2], "5 lanes are not divided evenly"),
    ],
)
def test_each_process_has_as_many_devices_of_a_batch(B, ids, why, two_of_two):
    division = lanes.divide_lanes(B, 8)
    assert [device.id for device in division.mesh.devices] == ids and division.why_fewer == why
    assert division.processes == (1 if B == 5 else 2)


def test_lanes_that_two_cannot_share_are_refused(two_of_two):
    with pytest.raises(UserError, match=r"^3 lanes \(train.batch_size\) are not divided evenly am"):
        processes.check_lanes(CONFIG)


def test_a_process_reads_its_own_lanes_alone():
    task = TextTask(CONFIG.replace({"train.batch_size": 4}), TEXT)
    own, all_of = task.lanes_at(7, slice(1, 3)), task.training_batch(7)
    for values, whole in zip(own, all_of, strict=True):
        assert values is whole is None or np.array_equal(values, whole[:, 1:3])


class Store:
    """JAX's, in a dict."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite):
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [item for item in self.values.items() if item[0].startswith(folder)]


def test_who_has_no_beat_is_named(two_of_two, monkeypatch):
    now = 100.0
    monkeypatch.setattr(peers, "time", SimpleNamespace(monotonic=lambda: now))
    store = Store()
    others = peers.Peers(store, "localhost:1", 1, 2)
    store.values |= {"lstm_jax/beats/0": "1 17 on node0", "lstm_jax/beats/1": "1 18 on node1"}
    others._look()
    now = 102.0
    others._look()
    assert others._why_over(now + peers.LATE_S - 3) is None
    late = others._why_over(now + peers.LATE_S)
    assert late.startswith("process 0 of 2 (17 on node0) was killed or hangs; the same command")
    store.values["lstm_jax/beats/0"] = "2 17 on node0"
    others._look()
    assert others._why_over(now + peers.LATE_S) is None
    others.alarmed = True  # what it was to compute with this process has failed
    assert others._why_over(now + peers.ALARMED_S + 1) == late
    store.values["lstm_jax/reasons/0"] = "a full disk"
    others._look()
    told = others._why_over(now + peers.HEARD_S)
    assert told == "process 0 of 2 (17 on node0) has ended: a full disk"


def test_a_process_that_stood_still_does_not_take_the_others_for_dead(two_of_two, monkeypatch):
    now = 100.0
    monkeypatch.setattr(peers, "time", SimpleNamespace(monotonic=lambda: now))
    store = Store()
    others = peers.Peers(store, "localhost:1", 1, 2)
    store.values["lstm_jax/beats/0"] = "1 17 on node0"
    others._look()
    now = 1000.0
    others._look()
    assert others._why_over(now) is None


LONG = ["--config.train.steps=1000000", "--config.train.validate_every=60"]


def disturbed(text, workdir, who, number):
    """Two processes, one of which gets a signal after the first checkpoint; how long the other
    took to end, and what each printed."""
    started = start(2, text, workdir, *LONG)
    end = time.monotonic() + PATIENCE_S
    while not [*workdir.glob("checkpoints/*0")]:
        assert time.monotonic() < end and not any(p.poll() for p in started), outcomes(started)
        time.sleep(0.05)
    began = time.monotonic()
    started[who].send_signal(number)
    other = started[1 - who]
    other.wait(PATIENCE_S)
    seconds = time.monotonic() - began
    if number == signal.SIGSTOP:
        started[who].kill()
    return seconds, outcomes(started)


def saved(workdir):
    """The bits of all checkpoints by their steps, of which none is damaged."""
    checkpoints = Checkpoints(workdir)
    good, damaged = checkpoints.sort_out()
    assert damaged == {}
    states = {step: checkpoints.restore(step)[0] for step in good}
    return {n: [np.asarray(x).tobytes() for x in jax.tree.leaves(s)] for n, s in states.items()}


@pytest.mark.long
@pytest.mark.parametrize(
    "number, who",
    [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 0), (signal.SIGSTOP, 1)],
)
def test_one_is_killed_or_hangs(number, who, text, tmp_path):
    """The other ends with a line, and the same command goes on bit for bit."""
    seconds, ends = disturbed(text, tmp_path / "run", who, number)
    code, _, stderr = ends[1 - who]
    found = re.search(r"^error: (process \d of 2 \(\d+ on \S+\) .*)\n", stderr, re.M)
    assert code == 2 and found and found[1].startswith(f"process {who} of 2"), stderr
    assert stderr.count("error") == 1 and stderr.endswith(found[0]) and "Traceback" not in stderr
    print(f"{number.name} to process {who}: {seconds:.1f} s, {found[1]}")
    last = max(saved(tmp_path / "run")) + 60
    flags = [f"--config.train.steps={last}", "--config.train.validate_every=60"]
    run(2, text, tmp_path / "run", *flags)
    run(2, text, tmp_path / "untouched", *flags)
    assert saved(tmp_path / "run")[last] == saved(tmp_path / "untouched")[last]
    assert without_times(tmp_path / "run") == without_times(tmp_path / "untouched")


@pytest.mark.long
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_is_told_to_stop(number, code, who, text, tmp_path):
    """All stop before the same dispatch, and save."""
    seconds, ends = disturbed(text, tmp_path / "run", who, number)
    codes = [end[0] for end in ends]
    assert codes[who] == code and codes[1 - who] == 143, ends
    step = int(re.search(r"saved at step (\d+); the same command goes on", ends[0][2])[1])
    assert max(saved(tmp_path / "run")) == step == read_metrics(tmp_path / "run")[-1]["step"]
    assert ends[0][2].count("stopping and saving") == 1 and "Traceback" not in ends[0][2]
    assert ends[1][2] == "" or who == 1
    print(f"{number.name} to process {who}: saved at step {step}, {seconds:.1f} s")


@pytest.mark.long
def test_an_error_of_one_ends_all(text, tmp_path):
    """Of another text in the second; the first says so, and writes nothing."""
    (tmp_path / "other").write_text(text.read_text()[::-1])
    ends = outcomes(start(2, [text, tmp_path / "other"], tmp_path / "run"))
    (code, _, stderr), (other, *_) = ends
    assert code == other == 2
    assert re.match(r"error: process 1 of 2 \(.*\) has ended: its config or its data", stderr)


@pytest.mark.long
def test_a_run_of_two_goes_on_with_one_and_with_four(two, text, tmp_path):
    numbers = {}
    for count in (1, 2, 4):
        shutil.copytree(two[0], tmp_path / f"{count}")
        run(count, text, tmp_path / f"{count}", "--config.train.steps=24")
        numbers[count] = losses(tmp_path / f"{count}")
    for count in (1, 4):
        np.testing.assert_allclose(numbers[count], numbers[2], rtol=2e-6)


@pytest.mark.long
def test_four_processes_compute_what_two_do(two, text, tmp_path):
    run(4, text, tmp_path / "run")
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(two[0]), rtol=2e-6)
