"""Signals that ask a run to stop: which are collected, and which are left to others."""

import os
import signal
import threading

import pytest

from lstm_jax.run import signals
from lstm_jax.run.signals import catch_signals

COLLECTED = [
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
]


@pytest.fixture(autouse=True)
def dispositions():
    """What this process does on a signal, as it was again after the test."""
    before = {number: signal.getsignal(number) for number in COLLECTED}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def exits(monkeypatch):
    """The codes that the process would have ended with at once."""
    codes = []
    monkeypatch.setattr(signals.os, "_exit", codes.append)
    return codes


def collected(*numbers):
    with catch_signals() as received:
        for number in numbers:
            signal.raise_signal(number)
    return received


@pytest.mark.parametrize("number", COLLECTED, ids=lambda number: number.name)
def test_one_that_asks_to_stop_is_collected(number, dispositions, exits, capfd):
    signal.signal(number, signal.SIG_DFL)
    assert collected(number) == [number] and exits == []
    assert "stopping and saving" in capfd.readouterr().err
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", COLLECTED[2:], ids=lambda number: number.name)
def test_one_that_is_ignored_stays_so_and_one_that_is_handled_is_its_handlers(number):
    """`nohup` ignores SIGHUP; a program around the run may have its own use for SIGUSR1."""
    signal.signal(number, signal.SIG_IGN)
    assert collected(number) == []
    handled = []
    signal.signal(number, lambda *_: handled.append(1))
    assert collected(number) == [] and handled == [1]


@pytest.mark.parametrize(
    "names, code",
    [
        ("SIGINT SIGINT", 130),
        ("SIGINT SIGTERM", 143),
        ("SIGTERM SIGHUP SIGTERM", 143),
        ("SIGHUP SIGHUP", None),  # of a terminal that closes
        ("SIGXCPU SIGXCPU SIGXCPU", None),  # a limit's, each second
        ("SIGUSR1 SIGTERM", None),  # a scheduler's, before the limit and at it
        ("SIGTERM SIGHUP", None),  # systemd's
    ],
)
def test_only_the_second_that_somebody_sent_by_hand_ends_the_process(names, code, exits):
    for number in COLLECTED[2:]:
        signal.signal(number, signal.SIG_DFL)
    received = collected(*(getattr(signal, name) for name in names.split()))
    assert received[0] == getattr(signal, names.split()[0])
    assert exits == ([] if code is None else [code])


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("main", [True, False])
def test_nothing_stays_open_or_alive(main, raises):
    """In a thread of its own nothing is collected, and nothing raised: Python allows no more."""
    outcome = []

    def catch():
        try:
            with catch_signals():
                assert not raises, "a run failed"
            outcome.append("done")
        except BaseException as error:
            outcome.append(str(error).partition("\n")[0])

    before = threading.enumerate(), os.listdir("/dev/fd")
    handlers = [signal.getsignal(number) for number in COLLECTED]
    if main:
        catch()
    else:
        thread = threading.Thread(target=catch)
        thread.start()
        thread.join()
    assert outcome == ["a run failed" if raises else "done"]
    assert (threading.enumerate(), os.listdir("/dev/fd")) == before
    assert [signal.getsignal(number) for number in COLLECTED] == handlers


def test_a_stderr_that_takes_no_more_stops_no_signal(exits, monkeypatch):
    """Nor does it keep the second one from being heard."""

    class Gone:
        def write(self, text):
            raise BrokenPipeError

        flush = write

    for stderr in (Gone(), None):
        monkeypatch.setattr("sys.stderr", stderr)
        assert collected(signal.SIGTERM, signal.SIGTERM)[0] == signal.SIGTERM
    assert exits == [143, 143]
