"""StableHLO by `jax.export`: a model as two programs that run without this package.

    NAME.step        (x B, or BxD, *states BxH) -> (outputs BxV, *states)
    NAME.sequence    (x TxB, or TxBxD, *states BxH) -> (outputs TxBxV, *states)

The weights are in the programs; T and B are free; the platforms are CPU, CUDA and TPU. States come
layer by layer, the h of an LSTM before its c. In a process that has JAX alone:

    step = jax.export.deserialize(open("NAME.step", "rb").read()).call
    outputs_BxV, *states = step(ids_B, *states)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, export

from lstm_jax.errors import UserError
from lstm_jax.files import write_atomically
from lstm_jax.interchange.libraries import needing
from lstm_jax.model import Interface, ModelParams, apply, init_carry
from lstm_jax.run.description import Description

ENDINGS = (".step", ".sequence")
PLATFORMS = ("cpu", "cuda", "tpu")


def sequence_of(params: ModelParams) -> Callable[..., tuple[Array, ...]]:
    """What a model does, with its states one by one."""
    structure = jax.tree.structure(init_carry(params, 1))

    def sequence(x: Array, *states: Array) -> tuple[Array, ...]:
        outputs_TxBxV, carry = apply(params, jax.tree.unflatten(structure, states), x)
        return outputs_TxBxV, *jax.tree.leaves(carry)

    return sequence


def step_of(params: ModelParams) -> Callable[..., tuple[Array, ...]]:
    """One step of it."""
    sequence = sequence_of(params)

    def step(x: Array, *states: Array) -> tuple[Array, ...]:
        outputs_TxBxV, *after = sequence(x[None], *states)
        return outputs_TxBxV[0], *after

    return step


def exported(params: ModelParams, interface: Interface, which: str) -> bytes:
    """A program, `step` or `sequence`, as bytes."""
    with needing("flatbuffers"):  # by jax.export
        import flatbuffers  # noqa: F401
    params = jax.tree.map(jnp.asarray, params)
    T, B = export.symbolic_shape("T, B")
    time = (T,) if which == "sequence" else ()
    dtype = jnp.int32 if interface.reads_ids else params.readout.b.dtype
    D = () if interface.reads_ids else (interface.input_size,)
    states = [
        jax.ShapeDtypeStruct((B, *leaf.shape[1:]), leaf.dtype)
        for leaf in jax.tree.leaves(init_carry(params, 1))
    ]
    function = (sequence_of if time else step_of)(params)
    program: Any = export.export(jax.jit(function), platforms=PLATFORMS)
    return program(jax.ShapeDtypeStruct((*time, B, *D), dtype), *states).serialize()


def save_stablehlo(params: ModelParams, description: Description, path: Path) -> None:
    """Writes both programs, beside each other: NAME.step and NAME.sequence."""
    if path.suffix in ENDINGS:
        raise UserError(f"name {path} without its ending: there are two files, step and sequence")
    for ending in ENDINGS:
        program = exported(params, description.interface, ending.removeprefix("."))
        write_atomically(path.with_name(f"{path.name}{ending}"), program)
