"""How a TrainState lies on disk: as orbax writes it.

orbax is imported where the first state is written or read: it takes half as long to import as JAX
does, and a new run is well under way before it saves.
"""

from pathlib import Path
from typing import Any

import jax

from lstm_jax.errors import UserError
from lstm_jax.run.description import Description, default_dtype
from lstm_jax.run.memory import check_state_fits
from lstm_jax.train import TrainState, init_train_state


def checkpointer_alone() -> Any:
    """orbax's, which waits for no other process: one has the whole state, and writes it."""
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def write_state(folder: Path, state: TrainState) -> None:
    """Writes a state into a folder that is not there yet."""
    import orbax.checkpoint as ocp

    if jax.process_count() > 1:
        state = jax.device_get(state)  # orbax asks the others about arrays of JAX
    with checkpointer_alone() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.StandardSave(to_plain(state)))


def read_state(folder: Path, description: Description) -> TrainState:
    """A run's state out of a folder, every bit as it was written.

    Raises UserError where no process like this one can hold it, and whatever orbax does where it
    is not of the described shapes.
    """
    import orbax.checkpoint as ocp

    if description.dtype != default_dtype():
        raise UserError(
            f"its parameters are {description.dtype} and this process computes in "
            f"{default_dtype()}: see JAX_ENABLE_X64"
        )
    check_state_fits(description.config, description.interface)
    shapes = jax.eval_shape(lambda: init_train_state(description.config, description.interface))
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes
    )
    with checkpointer_alone() as checkpointer:
        args = ocp.args.StandardRestore(to_plain(target))
        stored = checkpointer.restore(folder.absolute(), args=args)
    return from_plain(stored, target)


def to_plain(tree: Any) -> Any:
    """A TrainState as the dicts and lists that a checkpoint has; what is None is left out."""
    if hasattr(tree, "_asdict"):
        fields = tree._asdict().items()
        return {name: to_plain(value) for name, value in fields if value is not None}
    return [*map(to_plain, tree)] if isinstance(tree, tuple) else tree


def from_plain(stored: Any, like: Any) -> Any:
    """`to_plain` undone: what was stored, in the types of `like`."""
    if hasattr(like, "_asdict"):
        fields = like._asdict().items()
        return type(like)(**{name: from_plain(stored.get(name), value) for name, value in fields})
    if isinstance(like, tuple):
        return tuple(from_plain(*pair) for pair in zip(stored, like, strict=True))
    return stored
