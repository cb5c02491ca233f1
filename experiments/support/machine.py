"""What a run asks of the process that it runs in, before anything is computed."""

import ctypes
import os
import sys

import jax

from lstm_jax.container import schedulable_cpus, usable_cpus
from lstm_jax.errors import UserError

# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_memory() -> None:
    """Has glibc keep what it was given back, in one arena, instead of returning it to the system.

    XLA allocates its buffers in every call, and each page fresh from the system costs a fault:
    a third of a training step in the worst case (BUILD_NOTES.md). Other C libraries have no such
    parameters and are left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def asked_for_devices() -> bool:
    """Whether the environment says how many devices a CPU is to be."""
    of_xla = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    return of_xla or "JAX_NUM_CPU_DEVICES" in os.environ


def use_devices(count: int) -> None:
    """Makes each core of the CPU a device, so that the lanes of a batch can share them.

    `count` of them; 0: as many as the environment asks for, or else as this process may run on.
    Whether a run uses them, `lanes.divide_lanes` decides. UserError for a count where the backend
    is another, and where JAX finds no device of the kind that it is set to.
    """
    if usable_cpus() < schedulable_cpus():
        # XLA has a thread for each processor that it sees, and reads this when it starts.
        os.environ.setdefault("NPROC", str(usable_cpus()))
    try:
        if count or not asked_for_devices():
            jax.config.update("jax_num_cpu_devices", count or usable_cpus())
    except RuntimeError as error:
        raise UserError(
            "the experiment's file computes with JAX while it is loaded, before the devices are "
            "set up: put that into a function, such as get_config"
        ) from error
    try:
        backend = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter without a word, for cuda
        # JAX's types say nothing of the values in its config.
        platforms = jax.config.jax_platforms or ""  # type: ignore[attr-defined]
        raise UserError(
            f"JAX finds no device for JAX_PLATFORMS={platforms}: "
            f"{str(error) or 'there is none of the kind'}; unset it, or take JAX_PLATFORMS=cpu"
        ) from error
    if count and backend != "cpu":
        raise UserError(f"--cpu_devices means nothing on a {backend}: leave it out")
