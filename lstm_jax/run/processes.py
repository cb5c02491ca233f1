"""One run in several processes, on one machine or many, that `jax.distributed` has joined.

Each process computes with its own devices on its own lanes. The first alone reads and writes the
run's folder; what it decides the others are told. They work in a folder of their own, which goes
with them, and say nothing.

A process that ends, or answers no longer, ends all of them: each says in one line which it was.
JAX would notice, too, and fill a page. So each process has a beat, by which the others see that
it lives, in the store that JAX keeps in the first. Where the first is gone, JAX aborts the others,
and that abort is made to say so.
"""

import atexit
import ctypes
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from lstm_jax import terminal
from lstm_jax.config import Config
from lstm_jax.data.batches import Batch, stack_batches
from lstm_jax.errors import UserError
from lstm_jax.gradients.lanes import Placement, own_lanes
from lstm_jax.meshes import put
from lstm_jax.run.signals import STOPPING, Interrupted
from lstm_jax.tasks import Task
from lstm_jax.terminal import one_line, say
from lstm_jax.train import mesh_of

BEAT_S = 1.0
LATE_S = 20.0  # without a beat: the process is gone, or hangs
ALARMED_S = 5.0  # the same, where a computation with the others has failed
HEARD_S = 3.0  # in which all have heard why one ends
JAX_NOTICES_S = 30  # by itself: after us, but for the first process
JOIN_S = 300  # for all to come
LONGEST_S = 24 * 3600  # for all to be at one place: the first may have much to draw at the end
BEATS, REASONS = "lstm_jax/beats", "lstm_jax/reasons"
FAILED = 2  # the exit code
AGAIN = "the same command, given to all again, goes on from the last checkpoint"


class Peers(threading.Thread):
    """The processes of a run, as one of them sees them.

    Args:
      client: JAX's, of the store that all can write in.
      address: of the first process.
      index: which of how many (`count`) this one is.
    """

    def __init__(self, client: Any, address: str, index: int, count: int) -> None:
        super().__init__(name="peers", daemon=True)
        self._client, self._address = client, address
        self._index, self._count = index, count
        self._me = f"{os.getpid()} on {socket.gethostname()}"
        # By process: its last beat, and when that was first seen; the same of why it ends.
        self._beats: dict[int, tuple[str, float]] = {}
        self._reasons: dict[int, tuple[str, float]] = {}
        self._looked, self._over = time.monotonic(), threading.Event()
        self.alarmed, self.failed, self.parted = False, False, False

    def run(self) -> None:
        beat = 0
        while not self._over.wait(BEAT_S):
            beat += 1
            try:
                self._put(BEATS, f"{beat} {self._me}")
                self._look()
            except RuntimeError:  # the first process is gone, and `aborted` comes
                continue
            if not self._over.is_set() and (why := self._why_over(time.monotonic())):
                self._end(why)

    def _put(self, folder: str, value: str) -> None:
        """Puts this process's value into the store."""
        self._client.key_value_set(f"{folder}/{self._index}", value, allow_overwrite=True)

    def _look(self) -> None:
        """Notes what is new in the store."""
        now = time.monotonic()
        if now - self._looked > ALARMED_S:  # it was this process that stood still
            self._beats = {n: (beat, now) for n, (beat, _) in self._beats.items()}
        self._looked = now
        for seen, folder in ((self._beats, BEATS), (self._reasons, REASONS)):
            for key, value in self._client.key_value_dir_get(folder):
                n = int(key.rpartition("/")[2])
                if n not in seen or seen[n][0] != value:
                    seen[n] = value, now

    def _why_over(self, now: float, at_once: bool = False) -> str | None:
        """Why all end, by what was seen last; None: they go on."""
        mine = self._index
        for n, (reason, since) in self._reasons.items():
            if n != mine and (at_once or now - since > HEARD_S / 2):
                return f"{self._named(n)} has ended: {reason}"
        patience = ALARMED_S if self.alarmed or at_once else LATE_S
        late = [n for n, (_, since) in self._beats.items() if n != mine and now - since > patience]
        return f"{self._named(min(late))} was killed or hangs; {AGAIN}" if late else None

    def _named(self, n: int) -> str:
        """`process 1 of 2 (4711 on node7)`."""
        beat = self._beats.get(n, ("", 0.0))[0].partition(" ")[2]
        return f"process {n} of {self._count}" + (f" ({beat})" if beat else "")

    def aborted(self, *_: int) -> None:
        """In place of JAX's abort: it cannot reach the first process, or was told to end."""
        why = None
        if time.monotonic() - self._looked < ALARMED_S:  # the first was well until just now
            why = self._why_over(time.monotonic(), at_once=True)
        if why is None and (self._answers_late() or not self._is_reachable()):
            why = f"{self._named(0)} was killed or hangs; {AGAIN}"
        self._end(why or f"JAX gives up (TF_CPP_MIN_LOG_LEVEL=0 shows why); {AGAIN}")

    def _answers_late(self) -> bool:
        return self._index > 0 and time.monotonic() - self._looked > ALARMED_S

    def _is_reachable(self) -> bool:
        """Whether somebody listens where the first process did, in a second from now."""
        time.sleep(BEAT_S)  # its connections may have ended before it has
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ALARMED_S).close()
        except OSError:
            return False
        return True

    def tell(self, error: BaseException) -> None:
        """Has the others know why this process ends; returns when they do.

        Where what failed was a computation with them, that may be because one of them is gone. Then
        this process ends in here, with the name of that one."""
        self.failed = self.alarmed = True
        ours = isinstance(error, UserError | OSError | MemoryError | KeyboardInterrupt)
        if not ours:
            time.sleep(ALARMED_S + 2 * BEAT_S)
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        reason = one_line(f"{kind}{error}")
        try:
            self._put(REASONS, reason)
        except RuntimeError:
            return
        self._over.set()
        self._keep_store()

    def _end(self, why: str) -> NoReturn:
        end_at_once(why, self._keep_store)

    def _keep_store(self) -> None:
        """Gives the others the time to look, too: the store goes with the first process."""
        if self._index == 0:
            time.sleep(HEARD_S)

    def meet(self, name: str) -> None:
        """Waits until all are here: for hours, where a computation with the others would not."""
        self._client.wait_at_barrier(f"lstm_jax/{name}", int(LONGEST_S * 1000))

    def part(self) -> None:
        """Waits until all are here, and leaves them."""
        self.meet("end")
        self._over.set()
        jax.distributed.shutdown()
        self.parted = True

    def leave(self) -> None:
        """Ends a process that has not parted: JAX would wait for those that are gone."""
        if not self.parted:
            sys.stdout.flush()
            os._exit(1)


_peers: Peers | None = None


def join(coordinator: str | None, processes: int | None, index: int | None) -> None:
    """Joins the others; before JAX has looked for devices. UserError where that cannot be.

    Args:
      coordinator: HOST:PORT of the first process; None: JAX finds out all three from the cluster.
      processes: how many there are.
      index: which this one is, from 0.
    """
    global _peers
    from jax._src import distributed  # its store has no public name; orbax takes it from there, too

    on_abort(lambda *_: end_at_once(not_all_came(coordinator, processes)))
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            index,
            cluster_detection_method=None if coordinator is None else "deactivate",
            initialization_timeout=JOIN_S,
            heartbeat_timeout_seconds=JAX_NOTICES_S,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(cannot_join(coordinator, error)) from error
    state = distributed.global_state
    if state.num_processes == 1:
        jax.distributed.shutdown()
        return
    address = str(state.coordinator_address)
    _peers = Peers(state.client, address, state.process_id, state.num_processes)
    atexit.register(_peers.leave)
    on_abort(_peers.aborted)
    keep_stdout()
    terminal.silent = state.process_id > 0
    _peers.start()


def cannot_join(coordinator: str | None, error: Exception) -> str:
    """What to say where JAX cannot join the processes."""
    if coordinator is None:
        return (
            "--distributed=auto finds no cluster (SLURM, Open MPI, Kubernetes, Cloud TPU): name "
            "--coordinator=HOST:PORT, --num_processes and --process_id "
            f"({one_line(error)})"
        )
    return f"cannot join the other processes at {coordinator}: {one_line(error)}"


def not_all_came(coordinator: str | None, processes: int | None) -> str:
    """What to say where some process has waited for the others in vain."""
    count = "the" if processes is None else f"all {processes}"
    where = "" if coordinator is None else f" to {coordinator}"
    return f"within {JOIN_S} seconds not {count} processes came{where}: start each with its own id"


Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handlers: list[Any] = []  # as long as the process lives: C calls them


def on_abort(handle: Any) -> None:
    """Calls a function where C++ ends the process: a handler of Python's would come too late."""
    if sys.platform == "win32":
        return
    _handlers.append(Handler(handle))
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, Handler]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, _handlers[-1])


def keep_stdout() -> None:
    """Keeps stdout for results: what gloo and NCCL print there goes to stderr."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdout = open(ours, "w", encoding=encoding, errors=errors, buffering=1)  # noqa: SIM115


def end_at_once(why: str, last: Callable[[], None] = lambda: None) -> NoReturn:
    """Ends this process with a line that says why, from any thread."""
    if terminal.on_terminal(sys.stderr):
        print(file=sys.stderr)  # the end of the line that a bar of progress stands in
    print(f"error: {one_line(why)}", file=sys.stderr, flush=True)
    tidy_up()
    last()
    os._exit(FAILED)


@contextmanager
def told() -> Iterator[None]:
    """Around all that a process does: the others are told where it fails."""
    try:
        yield
    except Interrupted:  # which all are
        raise
    except BaseException as error:
        if _peers is not None:
            _peers.tell(error)
        raise


def end(code: int) -> int:
    """The end of a process, with an exit code: together with the others, unless it failed."""
    if _peers is None:
        return code
    if _peers.failed:
        tidy_up()
        os._exit(code)
    _peers.part()
    return code


def are_joined() -> bool:
    """Whether the processes that JAX knows of are those of one run."""
    return jax.process_count() == 1 or _peers is not None


def is_first() -> bool:
    """Whether this process is the one that reads and writes the run's folder."""
    return jax.process_index() == 0


def own_folder(workdir: Path) -> Path:
    """Where this process works: the run's folder, or a temporary one."""
    if is_first():
        return workdir
    folder = Path(tempfile.mkdtemp(prefix="lstm_jax-"))
    _folders.append(folder)
    atexit.register(tidy_up)
    return folder / "run"


_folders: list[Path] = []  # temporary ones


def tidy_up() -> None:
    """Deletes the temporary folder that this process worked in."""
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)


def check_devices() -> None:
    """Refuses processes that were not joined for one run, and those with unlike devices."""
    processes, here = jax.process_count(), jax.local_device_count()
    if not are_joined():
        raise UserError(
            f"jax.distributed has joined {processes} processes, each of which would train the same "
            "apart: join them by --distributed=auto, or --coordinator, --num_processes and "
            "--process_id; or start each without, with a seed and a folder of its own"
        )
    if jax.device_count() != processes * here:
        raise UserError(
            f"this process has {here} of the {jax.device_count()} devices of {processes} "
            "processes: give each as many"
        )


def meet(name: str) -> None:
    """Waits for the others, before the first computation with them: gloo does for a minute."""
    if _peers is not None:
        _peers.meet(name)


def check_alike(described: Mapping[str, Any]) -> None:
    """Refuses a process whose run is another than the first's: of another text, say."""
    text = json.dumps(described, sort_keys=True).encode()
    mine = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
    if not np.array_equal(of_first(mine), mine):
        raise UserError(
            "its config or its data are not the first process's: give all the same command, and "
            "the same files"
        )


def share(tree: Any, placement: Any) -> Any:
    """The first process's values, on the devices of all."""
    return put(of_first(tree), placement)


def of_first(tree: Any) -> Any:
    """The first process's values in each, bit for bit; the tree's shapes are the same in all."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, jax.device_get(tree)))
    # As integers: sums, by which they come, would make 0 of -0, and 32 bits of 64.
    bits = [leaf.reshape(-1).view(f"u{min(leaf.itemsize, 4)}") for leaf in leaves]
    bits = multihost_utils.broadcast_one_to_all(bits)
    values = [
        np.asarray(bit).view(leaf.dtype).reshape(leaf.shape)
        for bit, leaf in zip(bits, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def agreed(scores: Mapping[str, float]) -> dict[str, float]:
    """What the first process has measured, for all, whose decisions hang on it."""
    values = of_first(np.array([*scores.values()], np.float64))
    return dict(zip(scores, map(float, values), strict=True))


class OwnLanes:
    """The lanes of a run's batches that this process reads: all, where it is the only one."""

    def __init__(self, task: Task, config: Config) -> None:
        self._task, self._lanes = task, config.train.batch_size
        self._places = Placement.of(mesh_of(config))
        self._alone = jax.process_count() == 1

    def batch(self, step: int) -> Batch:
        """What is read for a step."""
        if self._alone:
            return self._task.training_batch(step)
        return self._task.lanes_at(step, own_lanes(self._places.batch, self._lanes))

    def placed(self, batches: Batch) -> Batch:
        """Several such, as parts of the whole batches, on the devices of all."""
        if self._alone:
            return batches

        def place(own: np.ndarray) -> Array:
            shape = *own.shape[:2], self._lanes, *own.shape[3:]
            return jax.make_array_from_process_local_data(self._places.batches, own, shape)

        return jax.tree.map(place, batches)

    def batches(self, first: int, last: int) -> Batch:
        """Those of the steps from `first` to before `last`, as one dispatch takes them."""
        return self.placed(stack_batches([self.batch(step) for step in range(first, last)]))


def left_to_jax() -> tuple[int, ...]:
    """The signals of which several processes are told by JAX."""
    return () if jax.process_count() == 1 else (signal.SIGTERM,)


class Stops:
    """Whether a run is asked to stop: before the same dispatch in all of its processes.

    Args:
      received: the signals that this process has received, as they come.
    """

    def __init__(self, received: list[int]) -> None:
        self._received, self._alone = received, jax.process_count() == 1
        self._passed_on, self._reached, self._dispatches = False, False, 0

    def reached(self) -> bool:
        """Asked once before each dispatch."""
        if self._alone:
            return bool(self._received)
        if self._received and not self._passed_on:
            self._passed_on = True
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX hears, and tells all
        self._dispatches += 1
        self._reached = multihost_utils.reached_preemption_sync_point(self._dispatches)
        return self._reached

    def settle(self) -> None:
        """Leaves in `received` what all have heard of: nothing, where the run ended before."""
        if self._alone:
            return
        if not self._reached:
            self._received.clear()
        elif not self._received:
            self._received.append(signal.SIGTERM)
            say(STOPPING.partition(";")[0] + ": one of the processes was told to")
