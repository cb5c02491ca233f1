"""What a container may use of the machine: the limits of Linux's control groups, both versions.

A process that takes more memory than its group may have is killed. One that computes on more
processors than its group may have is put to sleep. Both see the whole machine all the same.
"""

import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path


def groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in, for a controller, outermost first.

    A container may see its own group as the outermost, under the name that it has outside: what is
    not there is left out.
    """
    try:
        memberships = (root / "proc/self/cgroup").read_text(errors="surrogateescape")
    except OSError:  # no Linux, or nothing to be seen of it
        return
    for controllers, path in re.findall(r"(?m)^\d+:([^:\n]*):(.*)$", memberships):
        if not controllers:  # version 2: one tree for all
            trees = ["", "unified"]
        elif controller in controllers.split(","):
            trees = [controllers, controller]
        else:
            continue
        names = [name for name in path.split("/") if name]
        for tree in dict.fromkeys(trees):
            for depth in range(len(names) + 1):
                yield root.joinpath("sys/fs/cgroup", tree, *names[:depth])


def numbers(file: Path) -> list[int]:
    """The numbers in a file of a group; none where it is not there, or says `max`."""
    try:
        words = file.read_text().split()
        return [int(word) for word in words if word != "max"]
    except (OSError, ValueError):
        return []


def memory_limit(root: Path = Path("/")) -> int | None:
    """The bytes that the tightest of the groups may take; None: no group says."""
    limits = []
    for group in groups("memory", root):
        limits += numbers(group / "memory.max") + numbers(group / "memory.limit_in_bytes")
    return min(limits, default=None)


def cpu_limit(root: Path = Path("/")) -> int | None:
    """The processors that the tightest of the groups may keep busy, a part counted as one."""
    shares = []
    for group in groups("cpu", root):
        for quota in (
            numbers(group / "cpu.max"),
            numbers(group / "cpu.cfs_quota_us") + numbers(group / "cpu.cfs_period_us"),
        ):
            if len(quota) == 2 and min(quota) > 0:  # a quota of -1 is none
                shares.append(quota[0] / quota[1])
    return math.ceil(min(shares)) if shares else None


def schedulable_cpus() -> int:
    """The processors this process may run on, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cpus() -> int:
    """The processors this process can keep busy: a container may be allowed fewer than it sees."""
    return min(schedulable_cpus(), cpu_limit() or sys.maxsize)
