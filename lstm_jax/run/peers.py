"""The processes of one run, as each of them sees the others: who is there, and why all end.

`jax.distributed` joins them. A process that ends, or answers no longer, ends all of them, and each
says in one line which it was. JAX would notice, too, and fill a page. So each process has a beat,
by which the others see that it lives, in the store that JAX keeps in the first. Where the first is
gone, JAX aborts the others, and that abort is made to say so.
"""

import atexit
import ctypes
import itertools
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import jax

from lstm_jax import terminal
from lstm_jax.errors import UserError
from lstm_jax.run.signals import Interrupted
from lstm_jax.terminal import one_line, say

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
        self._last_word = threading.Lock()  # of the thread that ends this process
        self.alarmed, self.failed, self.parted = False, False, False

    def run(self) -> None:
        for beat in itertools.count(1):
            with suppress(RuntimeError):  # the first process is gone, and `aborted` comes
                self._put(BEATS, f"{beat} {self._me}")
                self._look()
                if not self._over.is_set() and (why := self._why_over(time.monotonic())):
                    self._end(why)
            if self._over.wait(BEAT_S):
                return

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
        self._last_word.acquire()
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        reason = one_line(f"{kind}{error}")
        try:
            self._put(REASONS, reason)
        except RuntimeError:
            return
        self._over.set()
        self._keep_store()

    def _end(self, why: str) -> NoReturn:
        self._last_word.acquire()
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
    terminal.silent = False
    if terminal.on_terminal(sys.stderr):
        say("")  # the end of the line that a bar of progress stands in
    say(f"error: {why}")
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


_folders: list[Path] = []


def delete_at_end(folder: Path) -> None:
    """Has a temporary folder deleted when this process ends, but where it is killed."""
    _folders.append(folder)
    atexit.register(tidy_up)


def tidy_up() -> None:
    """Deletes what is to go with this process."""
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)


def are_joined() -> bool:
    """Whether the processes that JAX knows of are those of one run."""
    return jax.process_count() == 1 or _peers is not None


def meet(name: str) -> None:
    """Waits for the others, before the first computation with them: gloo does for a minute."""
    if _peers is not None:
        _peers.meet(name)
