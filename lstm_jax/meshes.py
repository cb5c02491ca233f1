"""What JAX's types say of many devices: meshes with Explicit axes, and `shard_map`.

On such a mesh an array's type says how it is split. Where JAX cannot tell how a result is to be
split, it asks. Inside `shard_map` a type says over which axes the values differ from device to
device; they are said to vary over them. A state that a scan carries must be split, and vary, from
the first step as it will after it.

Elsewhere, on one device or a mesh with Auto axes, nothing here changes anything.

`put` and `whole` are the ways onto devices of several processes, and back.
"""

from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec


def result_sharding(a: Array, *axes: Any) -> NamedSharding | None:
    """How a result of `a` is split, axis by axis, where `a` itself is split; else None."""
    sharding = jax.typeof(a).sharding
    if all(axis is None for axis in sharding.spec):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(*axes))


def axes_of(a: Array) -> tuple[Any, ...]:
    """The mesh axes that each axis of an array is split over; None: over none."""
    return tuple(jax.typeof(a).sharding.spec)


def look_up(table_VxN: Array, ids_TxB: Array) -> Array:
    """`table_VxN[ids_TxB]`: a row for each id, split as the ids are."""
    sharding = result_sharding(ids_TxB, *axes_of(ids_TxB), None)
    return table_VxN.at[ids_TxB].get(out_sharding=sharding)


def split_lanes(state: Any, x: Array) -> Any:
    """A state whose leaves BxH are split among the devices as the lanes of x (TxB...) are."""
    lanes = axes_of(x)[1]
    if lanes is None:
        return state
    mesh = jax.typeof(x).sharding.mesh
    return jax.tree.map(
        lambda s: jax.reshard(s, NamedSharding(mesh, PartitionSpec(lanes, *axes_of(s)[1:]))), state
    )


def split_alike(state: Any, x: Array, marks: Any) -> tuple[Any, Array, Any]:
    """A state BxH, x and marks TxB..., with the lanes of all split as those of one of them are.

    The derivative comes back split as each was.
    """
    lane_axes = [(x, 1), *((a, 1) for a in jax.tree.leaves(marks))]
    lane_axes += [(s, 0) for s in jax.tree.leaves(state)]
    split = [(a, axes_of(a)[axis]) for a, axis in lane_axes if axes_of(a)[axis] is not None]
    if not split:
        return state, x, marks
    mesh, lanes = jax.typeof(split[0][0]).sharding.mesh, split[0][1]

    def put(a: Array, axis: int) -> Array:
        axes = axes_of(a)
        spec = PartitionSpec(*axes[:axis], lanes, *axes[axis + 1 :])
        return jax.reshard(a, NamedSharding(mesh, spec))

    state = jax.tree.map(lambda s: put(s, 0), state)
    return state, put(x, 1), jax.tree.map(lambda a: put(a, 1), marks)


def vary_alike(tree: Any, *others: Any) -> Any:
    """The tree, each leaf of which varies over all axes that a leaf of tree or others varies over.

    The derivative sums over the axes that a leaf did not vary over.
    """

    def varying(leaf: Array) -> frozenset[str]:
        return jax.typeof(leaf).manual_axis_type.varying

    axes = frozenset().union(*map(varying, jax.tree.leaves((tree, others))))
    return jax.tree.map(
        lambda leaf: lax.pcast(leaf, tuple(sorted(axes - varying(leaf))), to="varying"), tree
    )


def put(tree: Any, placement: Any) -> Any:
    """`jax.device_put`, also onto the devices of several processes, each of which has all values.

    `placement`: a sharding, or a tree of them for parts of the tree.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, placement)

    def put_leaf(leaf: Any, sharding: NamedSharding) -> Array:
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)

    return jax.tree.map(
        lambda sharding, part: jax.tree.map(lambda leaf: put_leaf(leaf, sharding), part),
        placement,
        tree,
    )


def whole(tree: Any) -> Any:
    """The tree with what other processes have of its arrays, for use in this process alone.

    All of them call it where some array is divided among them.
    """

    def whole_leaf(leaf: Any) -> Any:
        if not isinstance(leaf, Array) or leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return leaf.addressable_data(0)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole_leaf, tree)
