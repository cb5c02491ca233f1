"""A run in several processes, on one machine or many: what each computes, reads and decides.

Each computes with its own devices on its own lanes. The first alone reads and writes the run's
folder, and the others are told what it decides. They work in a folder of their own, which goes
with them, and say nothing.
"""

import hashlib
import json
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from lstm_jax.config import Config
from lstm_jax.data.batches import Batch, stack_batches
from lstm_jax.errors import UserError
from lstm_jax.gradients.lanes import Placement, own_lanes
from lstm_jax.meshes import put
from lstm_jax.run.peers import are_joined, delete_at_end
from lstm_jax.run.signals import STOPPING
from lstm_jax.tasks import Task
from lstm_jax.terminal import say
from lstm_jax.train import division_of, mesh_of


def is_first() -> bool:
    """Whether this process is the one that reads and writes the run's folder."""
    return jax.process_index() == 0


def own_folder(workdir: Path) -> Path:
    """Where this process works: the run's folder, or a temporary one."""
    if is_first():
        return workdir
    folder = Path(tempfile.mkdtemp(prefix="lstm_jax-"))
    delete_at_end(folder)
    return folder / "run"


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


def check_lanes(config: Config) -> None:
    """Refuses lanes that several processes cannot divide evenly among them."""
    if division_of(config).processes < (count := jax.process_count()):
        lanes = config.train.batch_size // config.train.accumulate
        parts = " / train.accumulate" if config.train.accumulate > 1 else ""
        raise UserError(
            f"{lanes} lanes (train.batch_size{parts}) are not divided evenly among {count} "
            f"processes: take a multiple of {count}, or fewer processes"
        )


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
