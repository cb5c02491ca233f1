"""What a run asks of its process, where the backend is not a CPU's."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from experiments.studies import long_sequences, speedrun
from experiments.support import machine
from lstm_jax.errors import UserError
from tests.cli import is_one_line

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def a_gpu(monkeypatch):
    asked = {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)
    return asked


def test_a_count_of_cores_is_refused_on_a_gpu(a_gpu):
    with pytest.raises(UserError, match="--cpu_devices means nothing on a gpu"):
        machine.use_devices(2)


def test_all_cores_are_no_count(a_gpu):
    machine.use_devices(0)
    assert a_gpu == {"jax_num_cpu_devices": machine.usable_cpus()}


FORCED = "--xla_cpu_enable_fast_math=true --xla_force_host_platform_device_count=4"


@pytest.mark.parametrize(
    "name, value, count, there",
    [("JAX_NUM_CPU_DEVICES", "4", 0, 4), ("XLA_FLAGS", FORCED, 0, 4), ("XLA_FLAGS", FORCED, 3, 3)],
)
def test_devices_that_the_environment_asks_for_are_there(name, value, count, there):
    """Unless a flag asks for others."""
    code = (
        "import jax; from experiments.support.machine import use_devices; "
        f"use_devices({count}); print(jax.local_device_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", name: value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == there


@pytest.mark.parametrize("error", [RuntimeError("Unable to initialize"), AssertionError()])
def test_no_device_is_one_line(error, a_gpu, monkeypatch):
    def refuse():
        raise error

    monkeypatch.setattr(jax, "default_backend", refuse)
    with pytest.raises(UserError, match=r"no device for JAX_PLATFORMS=.*: .+; unset it, or take"):
        machine.use_devices(0)


def test_a_platform_that_there_is_not(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", "--experiment=notebook_audit"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and is_one_line(done.stderr), done.stderr
    assert "no device for JAX_PLATFORMS=nonsense" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_memory_is_the_cpus(a_gpu, tmp_path):
    with pytest.raises(UserError, match="set JAX_PLATFORMS=cpu"):
        long_sequences.main(long_sequences.get_config(), tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("asked", "cores", "said"), [(3, 8, 3), (8, 8, 0), (-1, 8, 0)])
def test_the_races_have_the_cores_that_were_asked_for(asked, cores, said, monkeypatch, tmp_path):
    monkeypatch.setattr(speedrun, "usable_cpus", lambda: cores)
    monkeypatch.setattr(
        speedrun, "jax", SimpleNamespace(config=SimpleNamespace(jax_num_cpu_devices=asked))
    )
    command = speedrun.command_of(speedrun.get_config(), tmp_path, tmp_path)
    assert f"--cpu_devices={said}" in command
