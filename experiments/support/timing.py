"""Timing contenders in turn, in one process: what slows the machine for a while slows them all."""

import importlib.metadata
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lstm_jax.container import usable_cpus

MIN_ROUNDS = 5
# A turn lasts about this long: as many calls as fit, one at least.
TURN_S = 0.2
# The rest before a turn, in which the threads of the contender before stop spinning.
SETTLE_S = 0.02
DISTRIBUTIONS = ("jax", "jaxlib", "optax", "numpy", "torch", "flax", "dm-haiku", "equinox")


class Contender(NamedTuple):
    call: Callable[[], Any]  # does the work, and returns when it is done
    steps: int = 1  # steps (or characters, or whatever is counted) that a call makes


class Warm(NamedTuple):
    """A contender that has been called twice."""

    contender: Contender
    first_s: float  # seconds of the first call, which compiles
    call_s: float  # seconds of the second


class Timing(NamedTuple):
    """A contender's times, in seconds per step."""

    first_s: float  # seconds of the first call, all its steps
    steps: int  # steps of a call
    rounds: list[float]  # the mean step of each round's turn

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return low, high

    @property
    def compile_s(self) -> float:
        """What the first call took beyond a usual one."""
        return max(self.first_s - self.steps * self.median, 0.0)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def warm_up(contender: Contender) -> Warm:
    """Two calls that are not counted: the first compiles, the second tells how long one takes."""
    return Warm(contender, seconds(contender.call), seconds(contender.call))


def take_turn(warm: Warm, turn_s: float) -> float:
    """Seconds per step, over as many calls as a turn takes."""
    call, steps = warm.contender
    calls = max(1, round(turn_s / max(warm.call_s, 1e-9)))
    time.sleep(SETTLE_S)
    if calls > 1:  # the caches were somebody else's; beside one long call that is nothing
        call()
    return seconds(lambda: [call() for _ in range(calls)]) / (calls * steps)


def in_turn(
    warm: dict[str, Warm],
    budget_s: float,
    report: Callable[[int], None],
    turn_s: float | None = None,
) -> dict[str, Timing]:
    """Rounds of A B C … until the budget is spent, MIN_ROUNDS at least.

    Args:
      report: is told the number of rounds done.
      turn_s: about how long a turn lasts; TURN_S, if it is left out.
    """
    times: dict[str, list[float]] = {name: [] for name in warm}
    start, done = time.perf_counter(), 0
    while done < MIN_ROUNDS or time.perf_counter() - start < budget_s:
        for name, contender in warm.items():
            times[name].append(take_turn(contender, TURN_S if turn_s is None else turn_s))
        done += 1
        report(done)
    return {name: Timing(w.first_s, w.contender.steps, times[name]) for name, w in warm.items()}


def processor() -> str:
    """The CPU's name where the system tells, or else its architecture."""
    with suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M):
            return found[1]
    return platform.machine()


def machine_in_words(machine: dict[str, Any], **libraries: str) -> str:
    """A described machine for people, with the versions of some distributions, such as
    `JAX="jax"`."""
    cores = f"{machine['cpus']} core{'s' * (machine['cpus'] > 1)} of {machine['processor']}"
    on = cores if machine["device"] == "cpu" else machine["device"]
    versions = ((name, machine["versions"].get(known)) for name, known in libraries.items())
    return ", ".join([on, *(f"{name} {version}" for name, version in versions if version)])


def commit() -> str:
    """The commit of the source, and whether it has changes; unknown outside a clone."""
    here = Path(__file__).parent
    try:
        said = [
            subprocess.run(["git", *line], cwd=here, capture_output=True, text=True, check=True)
            for line in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said[0].stdout.strip() + (" with changes" if said[1].stdout.strip() else "")


def describe_machine() -> dict[str, Any]:
    """What a time means nothing without: the machine, and the version of whatever is installed."""
    versions: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "system": platform.system(),
        "processor": processor(),
        "cpus": usable_cpus(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": versions,
    }
