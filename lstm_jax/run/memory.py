"""What a run needs of memory at the least, against what there is.

A lower bound: a run that is refused could not have fitted, one that is not may still be too large
by a small factor. Better than a process that the system kills after it has been slow for minutes.
"""

import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from humanize import naturalsize

from lstm_jax.cells import CELLS
from lstm_jax.cells.cell import Cell, Marks
from lstm_jax.cells.passes import ROWS
from lstm_jax.config import Config
from lstm_jax.container import memory_limit
from lstm_jax.data.batches import Batch
from lstm_jax.errors import UserError
from lstm_jax.heads import HEADS
from lstm_jax.model import Interface, ModelParams, init_carry, output_size
from lstm_jax.pieces import steps_at_once
from lstm_jax.sample import PIECE
from lstm_jax.train import init_train_state

FLOAT_BYTES = 4


def memory_bytes() -> int:
    """The memory of all devices together; on a CPU, the machine's, or the container's."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    known = [limit for limit in limits if limit]
    if len(known) == len(limits):
        return sum(known)
    return min(psutil.virtual_memory().total, memory_limit() or sys.maxsize)


def state_bytes(config: Config, interface: Interface) -> int:
    """A TrainState: parameters, optimizer state, carry."""
    return bytes_of(jax.eval_shape(lambda: init_train_state(config, interface)))


def bytes_of(tree: Any) -> int:
    """What arrays, or the shapes of some, take."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def residual_floats(cell: Cell, hidden_size: int) -> int:
    """What a layer's backward needs of each step of a lane, besides what the layer read."""
    if not cell.by_hand:
        return len(cell.state._fields) * hidden_size  # the state before, at the least

    def forward() -> Any:
        params = cell.init(jax.random.key(0), 1, hidden_size)
        x_1x1x1 = jnp.zeros((1, 1, 1))
        _, _, residuals = cell.by_hand[ROWS.name].forward(
            params, cell.init_state(params, 1), x_1x1x1, None, Marks()
        )
        return residuals

    leaves = jax.tree.leaves(jax.eval_shape(forward))
    # Not x; and of the outputs, which are the states before moved by a step, one copy.
    return sum(math.prod(leaf.shape) for leaf in leaves) - 1 - hidden_size


def batch_bytes(config: Config, interface: Interface, batch: Batch) -> int:
    """What one step keeps of its batch for the backward, one block of outputs (a piece of them, if
    they are made in pieces), and the batches of one dispatch."""
    model, train = config.model, config.train
    T = batch.inputs.shape[0]
    B = batch.inputs.shape[1] // train.accumulate  # lanes whose residuals exist at once
    kept = min(T, train.remat_every or T)  # steps whose residuals exist at once
    cell = CELLS[model.cell]
    residuals = sum(residual_floats(cell, H) for H in model.layer_sizes)
    V = interface.output_size
    read_out = steps_at_once(kept, B, V, HEADS[interface.head].most_outputs)
    floats_B = kept * residuals + read_out * V
    K = min(train.steps_per_dispatch, train.validate_every, train.steps)
    return FLOAT_BYTES * B * floats_B + K * bytes_of(batch)


def batch_of_ids(config: Config) -> Batch:
    """The shapes of a batch as a text has them whose symbols number at most 256."""
    shape = config.train.sequence_length, config.train.batch_size
    # As a step is traced with them, they stand for arrays.
    ids: Any = jax.ShapeDtypeStruct(shape, np.uint8)
    flags: Any = jax.ShapeDtypeStruct(shape, np.bool_)
    return Batch(ids, ids, resets=flags)


def check_state_fits(config: Config, interface: Interface) -> None:
    """Refuses a model whose TrainState no memory of this machine could hold."""
    need, have = state_bytes(config, interface), memory_bytes()
    if need > have:
        raise UserError(
            f"the model with its optimizer takes {naturalsize(need)} of memory and this machine "
            f"has {naturalsize(have)}: take a smaller model.hidden_size (or model.hidden_sizes), "
            f"model.num_layers or model.embedding_size (it has {interface.input_size:,} inputs and "
            f"{interface.output_size:,} outputs), or a larger machine"
        )


def check_run_fits(config: Config, interface: Interface, batch: Batch) -> None:
    """Refuses a run of which the model, or a batch like this beside it, could not be in memory."""
    check_state_fits(config, interface)
    state, need = state_bytes(config, interface), batch_bytes(config, interface, batch)
    need //= jax.process_count()  # each has as many lanes
    if state + need > (have := memory_bytes()):
        raise UserError(
            f"a batch takes {naturalsize(need)} of memory beside the model's "
            f"{naturalsize(state)} and this machine has {naturalsize(have)}: take a smaller "
            "train.batch_size, train.sequence_length or train.steps_per_dispatch, or keep less "
            "with train.remat_every or train.accumulate"
        )


def check_samples_fit(params: ModelParams, num_samples: int) -> None:
    """Refuses more samples than the memory has room for beside the logits of a prompt's piece."""
    V = output_size(params)
    carry = bytes_of(jax.eval_shape(lambda: init_carry(params, num_samples)))
    need = FLOAT_BYTES * V * (PIECE + num_samples) + carry
    if need > (have := memory_bytes()):
        raise UserError(
            f"{num_samples:,} samples take {naturalsize(need)} of memory and this machine has "
            f"{naturalsize(have)}: take a smaller --num_samples"
        )
