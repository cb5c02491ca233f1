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
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from lstm_jax import terminal
from lstm_jax.errors import UserError
from lstm_jax.meshes import put
from lstm_jax.run.signals import STOPPING, Interrupted
from lstm_jax.terminal import one_line, say

BEAT_S = 1.0
LATE_S = 20.0  # without a beat: the process is gone, or hangs
ALARMED_S = 5.0  # the same, where a computation with the others has failed
HEARD_S = 3.0  # in which all have heard why one ends
JAX_NOTICES_S = 30  # by itself: after us, but for the first process
JOIN_S = 300  # for all to come
END_S = 24 * 3600  # for all to end: the first may have much to score and draw
BEATS, REASONS = "lstm_jax/beats", "lstm_jax/reasons"
FAILED = 2  # the exit code
AGAIN = "the same command, given to all again, goes on from the last checkpoint"


class Peers(threading.Thread):
    """The processes of a run, as one of them sees them.

    Args:
      client: JAX's, of the store that all can write in.
      address: of the first process.
    """

    def __init__(self, client: Any, address: str) -> None:
        super().__init__(name="peers", daemon=True)
        self._client, self._address = client, address
        self._me = f"{os.getpid()} on {socket.gethostname()}"
        # By process: its last beat, and when that was first seen; the same of why it ends.
        self._beats: dict[int, tuple[str, float]] = {}
        self._reasons: dict[int, tuple[str, float]] = {}
        self._looked, self._over = time.monotonic(), threading.Event()
        self.alarmed, self.failed = False, False

    def run(self) -> None:
        count = 0
        while not self._over.wait(BEAT_S):
            count += 1
            try:
                beat, mine = f"{count} {self._me}", f"{BEATS}/{jax.process_index()}"
                self._client.key_value_set(mine, beat, allow_overwrite=True)
                self._look()
            except RuntimeError:  # the first process is gone, and `aborted` comes
                continue
            if not self._over.is_set() and (why := self._why_over(time.monotonic())):
                end_at_once(why)

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
        mine = jax.process_index()
        for n, (reason, since) in self._reasons.items():
            if n != mine and (at_once or now - since > HEARD_S / 2):
                return f"{self._named(n)} has ended: {reason}"
        patience = ALARMED_S if self.alarmed or at_once else LATE_S
        late = [n for n, (_, since) in self._beats.items() if n != mine and now - since > patience]
        return f"{self._named(min(late))} was killed or hangs; {AGAIN}" if late else None

    def _named(self, n: int) -> str:
        """`process 1 of 2 (4711 on node7)`."""
        beat = self._beats.get(n, ("", 0.0))[0].partition(" ")[2]
        return f"process {n} of {jax.process_count()}" + (f" ({beat})" if beat else "")

    def aborted(self, *_: int) -> None:
        """In place of JAX's abort: it cannot reach the first process, or was told to end."""
        why = None
        if time.monotonic() - self._looked < ALARMED_S:  # the first was well until just now
            why = self._why_over(time.monotonic(), at_once=True)
        if why is None and (self._answers_late() or not self._is_reachable()):
            why = f"{self._named(0)} was killed or hangs; {AGAIN}"
        end_at_once(why or f"JAX gives up (TF_CPP_MIN_LOG_LEVEL=0 shows why); {AGAIN}")

    def _answers_late(self) -> bool:
        return jax.process_index() > 0 and time.monotonic() - self._looked > ALARMED_S

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
            mine = f"{REASONS}/{jax.process_index()}"
            self._client.key_value_set(mine, reason, allow_overwrite=True)
        except RuntimeError:
            return
        self._over.set()
        if jax.process_index() == 0:  # the store goes with it
            time.sleep(HEARD_S)

    def part(self) -> None:
        """Waits until all are here, and leaves them."""
        self._client.wait_at_barrier("lstm_jax/end", int(END_S * 1000))
        self._over.set()
        jax.distributed.shutdown()


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
    _peers = Peers(state.client, str(state.coordinator_address))
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


Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handlers: list[Any] = []  # as long as the process lives: C calls them


def on_abort(handle: Any) -> None:
    """Calls a function where C++ ends the process: a handler of Python's would come too late."""
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


def end_at_once(why: str) -> NoReturn:
    """Ends this process with a line that says why."""
    if terminal.on_terminal(sys.stderr):
        print(file=sys.stderr)  # the end of the line that a bar of progress stands in
    print(f"error: {one_line(why)}", file=sys.stderr, flush=True)
    if jax.process_index() == 0:
        time.sleep(HEARD_S)  # the others look for themselves, and lose the store with this one
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
            if isinstance(error, Exception) and not isinstance(
                error, UserError | OSError | MemoryError
            ):
                traceback.print_exc()
                os._exit(1)
        raise


def end(code: int) -> int:
    """The end of a process, with an exit code: together with the others, unless it failed."""
    if _peers is None:
        return code
    if _peers.failed:
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
    folder = tempfile.TemporaryDirectory(prefix="lstm_jax-")
    atexit.register(folder.cleanup)
    return Path(folder.name, "run")


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
    """Waits for the others."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


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
