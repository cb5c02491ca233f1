"""The signals that ask a run to stop, collected while it trains.

| signal | where it comes from |
|---|---|
| SIGINT, SIGTERM | Ctrl-C, `kill`, and what schedulers send before they kill |
| SIGHUP | the terminal or the connection is gone |
| SIGUSR1, SIGUSR2, SIGXCPU | schedulers, some time before a limit |

SIGQUIT (Ctrl-\\) is left alone: it ends a process that listens to nothing else.
"""

import os
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from lstm_jax.terminal import say

BY_HAND = (signal.SIGINT, signal.SIGTERM)
# Where nobody ignores or handles them, as `nohup` does SIGHUP. Windows has none of these.
BY_MACHINES = [
    getattr(signal, name)
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
]
STOPPING = "stopping and saving; a second Ctrl-C or SIGTERM stops at once, without saving"
BROKEN_PIPE = 13  # SIGPIPE, which Python ignores, and Windows does not know


class Interrupted(Exception):
    """The run was asked to stop and has saved what it had."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(signal_number, step)
        self.signal_number, self.step = signal_number, step


@contextmanager
def catch_signals(others: Collection[int] = ()) -> Iterator[list[int]]:
    """Collects the signals that ask to stop; SIGINT or SIGTERM once more ends the process at once.

    `others`: signals that somebody else listens to.

    The others do not: a terminal that closes sends SIGHUP twice, a limit SIGXCPU each second. In
    a thread other than the main one nothing is collected: Python lets none but that one listen.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers: list[int] = [number for number in BY_HAND if signal.getsignal(number) is not None]
    numbers += [number for number in BY_MACHINES if signal.getsignal(number) is signal.SIG_DFL]
    numbers = [number for number in numbers if number not in others]
    ends = os.pipe()
    with open(ends[0], "rb", 0) as reader, open(ends[1], "wb", 0) as writer:
        watcher = threading.Thread(
            target=watch, args=(reader, numbers, received), name="signals", daemon=True
        )
        watcher.start()
        try:
            with written_to(writer, numbers):
                yield received
        finally:
            writer.close()  # which ends the thread, once it has read what is left
            watcher.join()


@contextmanager
def written_to(pipe: BinaryIO, numbers: list[int]) -> Iterator[None]:
    """Has the system write the number of each such signal into a pipe.

    Python runs a handler between two instructions of its own, so not while XLA compiles or a
    validation computes. What the system calls writes at any time.
    """
    os.set_blocking(pipe.fileno(), False)
    previous_fd = signal.set_wakeup_fd(pipe.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)


def watch(pipe: BinaryIO, numbers: list[int], received: list[int]) -> None:
    """Notes the signals that come through the pipe, until its other end is closed."""
    while byte := pipe.read(1):
        number = byte[0]
        if number not in numbers:
            continue
        if number in BY_HAND and any(earlier in BY_HAND for earlier in received):
            os._exit(128 + number)
        received.append(number)
        if len(received) == 1:
            say("")  # the end of the line that a bar of progress stands in
            say(STOPPING)
