"""The kernels: how they are divided for which shape, compiled, and called from JAX.

NVRTC, which comes with `jax[cuda13]`, makes PTX of them; the driver makes machine code of that. XLA
launches it itself, by its own custom call for PTX, so nothing is registered and nothing is built
beforehand.
"""

import ctypes
import importlib.util
import re
from collections.abc import Iterator
from ctypes.util import find_library
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.errors import UserError

HERE = Path(__file__).parent
MULTIPROCESSORS = 132  # of an H100: so many blocks, and no more, are sure to run at once
SHARED_BYTES = 227 * 1024  # that a block may have there; XLA asks the driver for it
# The oldest that has a cluster's barrier as the kernels use it, so that the driver may be as old:
# NVRTC writes its own, which a driver that is older than NVRTC refuses.
PTX_VERSION = "8.0"


class Tile(NamedTuple):
    """How a kernel is divided; `common.cuh` explains the words."""

    hidden: int
    units: int
    lanes: int
    warps: int
    cluster: int
    batch: int

    def blocks(self, B: int) -> int:
        """Of the grid."""
        return self.hidden // self.units * (B // self.lanes)


class Tiles(NamedTuple):
    """A layer's two kernels."""

    forward: Tile
    backward: Tile


def both(hidden: int, forward: tuple[int, ...], backward: tuple[int, ...]) -> Tiles:
    return Tiles(Tile(hidden, *forward), Tile(hidden, *backward))


# By B and H. The first of each is what `layer` takes; the others are candidates for the study.
TILES = {
    (16, 768): (
        both(768, (8, 16, 8, 1, 6), (8, 16, 8, 1, 4)),
        both(768, (8, 16, 8, 2, 6), (8, 16, 8, 2, 6)),
        both(768, (8, 16, 8, 4, 3), (8, 16, 6, 4, 4)),
    ),
    (32, 896): (
        both(896, (8, 32, 8, 1, 7), (8, 32, 8, 1, 4)),
        both(896, (8, 32, 8, 2, 7), (8, 32, 7, 2, 5)),
        both(896, (8, 32, 7, 4, 4), (8, 32, 14, 4, 4)),
    ),
    (64, 512): (
        both(512, (8, 32, 8, 1, 8), (8, 32, 8, 1, 8)),
        both(512, (16, 16, 8, 1, 8), (16, 16, 8, 1, 4)),
        both(512, (8, 32, 8, 2, 8), (8, 32, 8, 2, 4)),
    ),
    (256, 128): (
        both(128, (8, 32, 8, 1, 4), (8, 32, 8, 1, 4)),
        both(128, (16, 32, 8, 1, 4), (16, 32, 8, 1, 4)),
        both(128, (8, 32, 8, 2, 2), (8, 32, 4, 2, 4)),
    ),
    (64, 128): (
        both(128, (8, 8, 8, 1, 1), (8, 8, 8, 1, 1)),
        both(128, (8, 16, 8, 1, 2), (8, 16, 8, 1, 2)),
        both(128, (8, 16, 4, 2, 2), (8, 16, 4, 2, 4)),
    ),
}


def find_tiles(B: int, H: int) -> tuple[Tiles, ...]:
    """How the kernels may be divided for a shape; UserError where nobody has worked it out."""
    if (B, H) not in TILES:
        known = ", ".join(f"B {b} H {h}" for b, h in sorted(TILES))
        raise UserError(f"no persistent kernel for B {B} H {H}: there are tiles for {known}")
    return TILES[B, H]


def exchange_words(kind: str, tile: Tile, B: int) -> int:
    """Of both slots of all teams."""
    shares = tile.hidden // tile.units // tile.cluster if kind == "backward" else 1
    return 2 * B * tile.hidden * shares


def shared_words(kind: str, tile: Tile) -> int:
    """Of a block's shared memory, as the kernels lay it out; the last four are for a flag."""
    elements, rows = tile.units * tile.lanes, 4 * tile.units * tile.cluster
    if kind == "forward":
        stride = 8 if tile.lanes == 8 else tile.lanes + 8
        received = 2 * rows * tile.lanes if tile.cluster > 1 else 0
        return tile.warps * rows * stride + received + 4
    shares = tile.hidden // tile.units // tile.cluster
    adders = min(tile.warps * 32 // (elements // 4), shares)
    buffers = 2 if tile.cluster > 1 else 1
    return adders * elements + buffers * rows * tile.lanes + 4


def macros(tile: Tile, precise: bool) -> list[str]:
    """What the source is compiled with."""
    sizes = [f"-D{name.upper()}={size}" for name, size in tile._asdict().items()]
    return sizes + ["-DPRECISE"] * precise


def nvrtc_files() -> Iterator[str]:
    """NVRTC, wherever pip or the system may have put it; pip's first."""
    found = importlib.util.find_spec("nvidia")
    for place in (found and found.submodule_search_locations) or ():
        yield from map(str, sorted(Path(place).glob("*/lib/libnvrtc.so.*")))
    if name := find_library("nvrtc"):
        yield name


@cache
def nvrtc() -> ctypes.CDLL:
    """NVRTC; UserError where there is none."""
    for file in nvrtc_files():
        try:
            # It looks for its own second library by name only, so that has to be here already.
            for part in sorted(Path(file).parent.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(part), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(file)
        except OSError:
            continue
    raise UserError("NVRTC, which compiles the kernels, is not here: pip install 'jax[cuda13]'")


def text_of(program: ctypes.c_void_p, name: str) -> str:
    """What NVRTC has to say of a program: its PTX or its ProgramLog."""
    library, size = nvrtc(), ctypes.c_size_t()
    getattr(library, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{name}")(program, text)
    return text.value.decode()


@cache
def compile_ptx(kind: str, tile: Tile, precise: bool) -> str:
    """The PTX of a kernel."""
    library, program = nvrtc(), ctypes.c_void_p()
    source, header = ((HERE / f).read_bytes() for f in (f"{kind}.cu", "common.cuh"))
    headers, names = ((ctypes.c_char_p * 1)(text) for text in (header, b"common.cuh"))
    name = f"{kind}.cu".encode()
    library.nvrtcCreateProgram(ctypes.byref(program), source, name, 1, headers, names)
    options = ["--gpu-architecture=compute_90", "-std=c++17", *macros(tile, precise)]
    given = (ctypes.c_char_p * len(options))(*map(str.encode, options))
    if library.nvrtcCompileProgram(program, len(options), given):
        raise UserError(f"NVRTC refuses {kind}.cu for {tile}: {text_of(program, 'ProgramLog')}")
    ptx = text_of(program, "PTX")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return re.sub(r"^\.version .*$", f".version {PTX_VERSION}", ptx, flags=re.MULTILINE)


class Forward(NamedTuple):
    h: Array  # TxBxH
    c: Array  # TxBxH
    gates: Array  # TxBxG, activated
    failed: Array  # of each block: 1 where it waited in vain


class Backward(NamedTuple):
    dz: Array  # TxBxG
    dh: Array  # BxH, of the initial state
    dc: Array  # BxH
    failed: Array


def call(
    kind: str, tile: Tile, precise: bool, outputs: list[tuple[int, ...]], *inputs: Array
) -> list[Array]:
    """The kernel's outputs, but for the exchange."""
    T, B, _ = outputs[0]
    exchange = jnp.zeros(exchange_words(kind, tile, B), jnp.uint32)
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in outputs]
    results += [jax.ShapeDtypeStruct(exchange.shape, exchange.dtype)]
    results += [jax.ShapeDtypeStruct((tile.blocks(B),), jnp.int32)]
    arguments = (jnp.array([T, B], jnp.int32), *inputs, exchange)
    run = jax.ffi.ffi_call(
        "__gpu$xla.gpu.ptx",
        results,
        input_output_aliases={len(arguments) - 1: len(outputs)},
    )
    one = np.int32(1)
    *got, _, failed = run(
        *arguments,
        name=f"lstm_{kind}",
        kernel_type="ptx",
        kernel_data=compile_ptx(kind, tile, precise),
        grid_x=np.int32(tile.blocks(B)),
        grid_y=one,
        grid_z=one,
        block_x=np.int32(tile.warps * 32),
        block_y=one,
        block_z=one,
        shared_mem_bytes=np.int32(4 * shared_words(kind, tile)),
    )
    return [*got, failed]


def forward(
    tile: Tile,
    xw_TxBxG: Array,
    U_HxG: Array,
    h0_BxH: Array,
    c0_BxH: Array,
    resets_TxB: Array,
    *,
    precise: bool = False,
) -> Forward:
    """(S1) and (F1) to (F4) for all steps, on CUDA; `resets_TxB` are uint8."""
    T, B, G = xw_TxBxG.shape
    states = (T, B, G // 4)
    inputs = (xw_TxBxG, U_HxG, h0_BxH, c0_BxH, resets_TxB)
    return Forward(*call("forward", tile, precise, [states, states, (T, B, G)], *inputs))


def backward(
    tile: Tile,
    gates_TxBxG: Array,
    c_TxBxH: Array,
    c0_BxH: Array,
    U_HxG: Array,
    e_TxBxH: Array,
    dh_BxH: Array,
    dc_BxH: Array,
    resets_TxB: Array,
    *,
    precise: bool = False,
) -> Backward:
    """(T1), (B1) to (B3) and (T4) for all steps, on CUDA."""
    shapes: list[tuple[int, ...]] = [gates_TxBxG.shape, c0_BxH.shape, c0_BxH.shape]
    inputs: tuple[Any, ...] = (gates_TxBxG, c_TxBxH, c0_BxH, U_HxG, e_TxBxH, dh_BxH, dc_BxH)
    return Backward(*call("backward", tile, precise, shapes, *inputs, resets_TxB))
