"""One batch on several devices: each takes some of its lanes.

Lanes never meet inside the model, so the devices work apart and add up their gradients once per
step. That serves several GPUs, and the cores of one CPU as well. Made a device each, they do
everything side by side, where XLA by itself would only divide the larger products between them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax.data.batches import Batch
from lstm_jax.gradients import GradFn
from lstm_jax.loss import Aux
from lstm_jax.model import Carry, Masks, ModelParams
from lstm_jax.precision import at_least_float32

LANES = "lanes"
# When it pays to make each core of a CPU a device (BUILD_NOTES.md has the times). Each needs a lane
# for every so many hidden units: with fewer, adding up the gradients, and the update of all
# parameters on each, take more than is gained. From a hidden size on, the weights that each core
# reads for itself no longer fit its cache.
UNITS_PER_LANE = 64
CORES_APART_BELOW = 512


class Placement(NamedTuple):
    """Where arrays live: the same everywhere, or divided by lanes along one axis."""

    replicated: NamedSharding
    carry: NamedSharding  # B first
    batch: NamedSharding  # TxB
    batches: NamedSharding  # KxTxB

    @classmethod
    def of(cls, mesh: Mesh) -> "Placement":
        specs = (P(), P(LANES), P(None, LANES), P(None, None, LANES))
        return cls(*(NamedSharding(mesh, spec) for spec in specs))


class Division(NamedTuple):
    """Which devices share a batch."""

    mesh: Mesh
    why_fewer: str  # than there are, in words; empty where all do

    @property
    def processes(self) -> int:
        """How many processes have these devices."""
        return len({device.process_index for device in self.mesh.devices.flat})


def divide_lanes(batch_size: int, hidden_size: int) -> Division:
    """The devices that share a batch: as many as divide its lanes evenly, where that pays.

    Of several processes each takes part with as many devices as the others. Where they do not
    divide the lanes evenly, this process has all lanes to itself.
    """
    mine, processes = jax.local_devices(), jax.process_count()
    if batch_size % processes:
        processes = 1
    most, lanes_per_device, why = len(mine), 1, f"{batch_size} lanes are not divided evenly"
    if mine[0].platform == "cpu":
        lanes_per_device = max(1, hidden_size // UNITS_PER_LANE)
        if hidden_size >= CORES_APART_BELOW:
            most, why = 1, f"from {CORES_APART_BELOW} units on, XLA shares the products out"
    lanes = batch_size // processes
    even = [n for n in range(1, most + 1) if lanes % n == 0]
    used = max((n for n in even if lanes >= n * lanes_per_device), default=1)
    if used < max(even):
        why = f"with {hidden_size} units one takes {lanes_per_device} lanes or more"
    whose = [mine] if processes == 1 else [jax.local_devices(n) for n in range(processes)]
    devices = [device for of_one in whose for device in of_one[:used]]
    return Division(Mesh(devices, (LANES,)), "" if used == len(mine) else why)


def lane_mesh(batch_size: int, hidden_size: int) -> Mesh:
    """The mesh of `divide_lanes`."""
    return divide_lanes(batch_size, hidden_size).mesh


def own_lanes(batch: NamedSharding, batch_size: int) -> slice:
    """Which lanes of a batch are on this process's devices; they stand side by side."""
    indices = batch.addressable_devices_indices_map((1, batch_size)).values()
    spans = [index[1].indices(batch_size) for index in indices if index is not None]
    return slice(min(first for first, *_ in spans), max(last for _, last, _ in spans))


def axis_of_mask(mask: Array) -> int | None:
    """Where a mask has its lanes: a row each, or TxBxH, drawn at each step; None: one number stands
    for all."""
    if mask.ndim == 2:
        return 0
    return None if mask.size == 1 else 1


def weigh(means: Any, count: Array, whole: Array) -> Any:
    """What means over so many targets add to those over the whole."""

    def share(mean: Array) -> Array:
        wide = at_least_float32(mean.dtype)  # in float16 65,520 targets are infinite
        part = count.astype(wide) / jnp.maximum(whole, 1).astype(wide)
        return mean * part.astype(mean.dtype)

    return jax.tree.map(share, means)


def over_lanes(value_and_grad: GradFn, mesh: Mesh) -> GradFn:
    """The same gradient, each device of the mesh taking its share of the lanes.

    The loss is the mean over the counted targets of all lanes, as without devices; only the order
    of its sums differs.
    """
    if mesh.size == 1:
        return value_and_grad

    def on_a_device(
        params: ModelParams, carry: Carry, batch: Batch, masks: Masks | None
    ) -> tuple[tuple[Array, Aux], ModelParams]:
        (loss, aux), grads = value_and_grad(params, carry, batch, masks)
        count = lax.psum(aux.count, LANES)
        loss, grads = lax.psum(weigh((loss, grads), aux.count, count), LANES)
        return (loss, Aux(aux.carry, count)), grads

    spec_of = {None: P(), 0: P(LANES), 1: P(None, LANES)}

    def on_devices(
        params: ModelParams, carry: Carry, batch: Batch, masks: Masks | None
    ) -> tuple[tuple[Array, Aux], ModelParams]:
        of_masks = jax.tree.map(lambda mask: spec_of[axis_of_mask(mask)], masks)
        return jax.shard_map(
            on_a_device,
            mesh=mesh,
            in_specs=(P(), spec_of[0], spec_of[1], of_masks),
            out_specs=((P(), Aux._make((spec_of[0], P()))), P()),
            check_vma=False,
        )(params, carry, batch, masks)

    return on_devices
