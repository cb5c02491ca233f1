"""Limits of containers, read from made-up trees of control groups."""

import pytest

from experiments.studies import long_sequences
from experiments.support import machine
from lstm_jax import container
from lstm_jax.run import memory

UNLIMITED = "9223372036854771712"  # what version 1 says where there is no limit


def tree(root, cgroup, files):
    """A machine's files: what a process is told of its groups, and theirs."""
    files = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
    for name, content in {"proc/self/cgroup": cgroup, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


V1 = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/"
CASES = {
    # The groups that a process sees, the files, and the limits of memory and processors.
    "version 2, a container's own tree": (
        "0::/",
        {"memory.max": "1200", "cpu.max": "200000 100000"},
        (1200, 2),
    ),
    "version 2, no limit": ("0::/a", {"a/memory.max": "max", "a/cpu.max": "max 100000"}, None),
    "version 2, an ancestor is the tightest": (
        "0::/a/b/c",
        {
            "a/memory.max": "5000",
            "a/b/memory.max": "3000",
            "a/b/c/memory.max": "max",
            "a/cpu.max": "150000 100000",
            "a/b/cpu.max": "max 100000",
            "a/b/c/cpu.max": "400000 100000",
        },
        (3000, 2),
    ),
    "version 2, the innermost is the tightest": (
        "0::/a/b",
        {
            "a/memory.max": "5000",
            "a/b/memory.max": "70",
            "a/cpu.max": "800000 100000",
            "a/b/cpu.max": "50000 100000",
        },
        (70, 1),
    ),
    "version 2, another group's are not its own": (
        "0::/a",
        {"a/memory.max": "9000", "b/memory.max": "1", "a/cpu.max": "300000 100000"},
        (9000, 3),
    ),
    "version 2, seen from inside a namespace": (
        "0::/../../other",
        {"memory.max": "800", "other/memory.max": "1", "cpu.max": "100000 100000"},
        (800, 1),
    ),
    "version 1, under the names of outside": (
        V1,
        {
            "memory/memory.limit_in_bytes": "1200",
            "cpu,cpuacct/cpu.cfs_quota_us": "250000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
        (1200, 3),
    ),
    "version 1, nested": (
        V1,
        {
            "memory/memory.limit_in_bytes": UNLIMITED,
            "memory/docker/memory.limit_in_bytes": "4000",
            "memory/docker/abc/memory.limit_in_bytes": "6000",
            "cpu/docker/cpu.cfs_quota_us": "200000",
            "cpu/docker/cpu.cfs_period_us": "100000",
            "cpu/docker/abc/cpu.cfs_quota_us": "-1",
            "cpu/docker/abc/cpu.cfs_period_us": "100000",
        },
        (4000, 2),
    ),
    "both versions": (
        V1.replace("0::/", "0::/x"),
        {
            "memory/memory.limit_in_bytes": "4000",
            "unified/x/memory.max": "3000",
            "unified/x/cpu.max": "500000 100000",
        },
        (3000, 5),
    ),
    "a colon in the name": (
        "0::/a:b",
        {"a:b/memory.max": "10", "a:b/cpu.max": "1 1"},
        (10, 1),
    ),
    "nonsense": ("\nnothing\n0:a\n0::/a", {"a/memory.max": "much", "a/cpu.max": "7"}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_tightest_limit_counts(case, tmp_path):
    cgroup, files, wanted = CASES[case]
    root = tree(tmp_path, cgroup, files)
    found = container.memory_limit(root), container.cpu_limit(root)
    assert found == (wanted or (None, None))


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert container.memory_limit(tmp_path) is None and container.cpu_limit(tmp_path) is None


def test_the_memory_is_the_containers(monkeypatch):
    found = []
    for limit in (None, 10**18, 1000):
        monkeypatch.setattr(memory, "memory_limit", lambda limit=limit: limit)
        found.append(memory.memory_bytes())
    assert found[0] == found[1] > 1000 and found[2] == 1000


def test_the_free_memory_is_the_containers(monkeypatch):
    monkeypatch.setattr(long_sequences, "memory_limit", lambda: 1000)
    assert long_sequences.free_bytes() == 1000
    monkeypatch.setattr(long_sequences, "memory_limit", lambda: None)
    assert long_sequences.free_bytes() > 1000


@pytest.mark.parametrize("limit, wanted", [(None, 8), (3, 3), (16, 8)])
def test_the_processors_are_the_containers(limit, wanted, monkeypatch):
    """XLA's threads, too; what its programs are divided for stays the machine's."""
    asked = {}
    monkeypatch.setattr(container, "cpu_limit", lambda: limit)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: range(8))
    monkeypatch.setattr(machine.jax.config, "update", asked.__setitem__)
    monkeypatch.setattr(machine.os, "environ", {})
    machine.use_devices(0)
    assert machine.usable_cpus() == wanted and machine.schedulable_cpus() == 8
    assert asked == {"jax_num_cpu_devices": wanted}
    assert machine.os.environ == ({"NPROC": "3"} if wanted == 3 else {})
