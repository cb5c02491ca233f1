"""The forward kernel once more, in Pallas for Mosaic GPU: a second try, which never ran either.

It is what Pallas makes natural, and so differs from forward.cu: U' of a block's units lies in
shared memory, h comes in pieces of K units by TMA, wgmma multiplies 64 lanes by 4u gates, and all
blocks meet at a semaphore after each step. The barrier costs more than the exchange by parity, and
wgmma computes 64 lanes however few there are. It is here because it needs no CUDA C++, and to be
timed beside the other. Only with 64 lanes, in TF32, without resets, and forward.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

plgpu: Any = mosaic_gpu  # its signatures do not say all that it takes
LANES = 64  # the rows of a wgmma
UNITS = 8  # of a block
PIECE, PIECES = 128, 3  # units of h that are loaded at once, and how many such loads at a time


def fence() -> None:
    """Orders what ordinary stores wrote before what TMA reads, in global memory."""

    @plgpu.inline_mgpu(arg_types=(), return_type=None)
    def emit(ctx: Any) -> None:
        from jaxlib.mlir import ir
        from jaxlib.mlir.dialects import llvm

        void = ir.Type.parse("!llvm.void")
        llvm.inline_asm(void, [], "fence.proxy.async.global;", "", has_side_effects=True)

    emit()


def sigmoid(x: Array) -> Array:
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)


def make_forward(T: int, H: int) -> Callable[..., list[Array]]:
    """What `arrange` returns -> h of all steps, Tx64xH, and c of the last, blocks x 64 x UNITS."""
    blocks, pieces = H // UNITS, H // PIECE

    def kernel(*refs: Any) -> None:
        xw, U, c0, h0, h, c_final, U_s, h_s, xw_s, U_here, h_here, xw_here = refs
        block = lax.axis_index("block")
        everyone = pl.get_global(plgpu.SemaphoreType.REGULAR)
        plgpu.copy_gmem_to_smem(U.at[block], U_s, U_here)
        plgpu.barrier_wait(U_here)

        def load(h_before: Any, n: int) -> None:
            slot, piece = n % PIECES, pl.ds(n * PIECE, PIECE)
            plgpu.copy_gmem_to_smem(h_before.at[:, piece], h_s.at[slot], h_here.at[slot])

        def load_first(h_before: Any) -> None:
            for n in range(min(PIECES, pieces)):
                load(h_before, n)

        def load_next(t: Array, n: int) -> None:
            pl.when(t == 0)(partial(load, h0, n))
            pl.when(t > 0)(partial(load, h.at[jnp.maximum(t - 1, 0)], n))

        load_first(h0)
        plgpu.copy_gmem_to_smem(xw.at[0, block], xw_s, xw_here)

        def step(t: Array, c: Array) -> Array:
            def multiply(sum_: Any) -> Array:
                for n in range(pieces):
                    plgpu.barrier_wait(h_here.at[n % PIECES])
                    U_piece = U_s.at[:, pl.ds(n * PIECE, PIECE)].transpose((1, 0))
                    plgpu.wgmma(sum_, h_s.at[n % PIECES], U_piece)
                    plgpu.wgmma_wait(0)
                    if n + PIECES < pieces:
                        load_next(t, n + PIECES)
                return sum_[...]

            z = pl.run_scoped(multiply, plgpu.ACC((LANES, 4 * UNITS), jnp.float32))
            plgpu.barrier_wait(xw_here)
            z = z + plgpu.load(xw_s, layout=plgpu.Layout.WGMMA)  # (F1)
            i, f, g, o = (z[:, gate * UNITS : (gate + 1) * UNITS] for gate in range(4))
            c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)  # (F2), (F3)
            h.at[t, :, pl.ds(block * UNITS, UNITS)][...] = sigmoid(o) * jnp.tanh(c)  # (F4)
            plgpu.commit_smem()  # xw_s has been read before TMA writes it again

            @pl.when(t + 1 < T)
            def _() -> None:
                plgpu.copy_gmem_to_smem(xw.at[t + 1, block], xw_s, xw_here)

            fence()
            plgpu.semaphore_signal(everyone, 1, memory_scope="gpu")
            plgpu.semaphore_wait(everyone, (t + 1) * blocks, decrement=False, memory_scope="gpu")
            fence()
            pl.when(t + 1 < T)(lambda: load_first(h.at[t]))
            return c

        start = plgpu.load(c0.at[block], layout=plgpu.Layout.WGMMA, optimized=False)
        c_final[block] = lax.fori_loop(0, T, step, start)

    float32 = jnp.float32
    scratch = [
        plgpu.SMEM((4 * UNITS, H), float32),
        plgpu.SMEM((PIECES, LANES, PIECE), float32),
        plgpu.SMEM((LANES, 4 * UNITS), float32),
        plgpu.Barrier(),
        plgpu.Barrier(num_barriers=PIECES),
        plgpu.Barrier(),
    ]
    return plgpu.kernel(
        kernel,
        out_type=[
            jax.ShapeDtypeStruct((T, LANES, H), float32),
            jax.ShapeDtypeStruct((blocks, LANES, UNITS), float32),
        ],
        scratch_types=scratch,
        compiler_params=plgpu.CompilerParams(approx_math=True),
        grid=(blocks,),
        grid_names=("block",),
    )


def arrange(xw_TxBxG: Array, U_HxG: Array, h0_BxH: Array, c0_BxH: Array) -> tuple[Array, ...]:
    """xw, U, c0 and h0 as the kernel reads them: 64 lanes, and each block's own part together."""
    T, B, G = xw_TxBxG.shape
    H, blocks = G // 4, G // 4 // UNITS

    def fill(a: Array, axis: int) -> Array:
        return jnp.pad(a, [(0, LANES - B if n == axis else 0) for n in range(a.ndim)])

    xw = fill(xw_TxBxG, 1).reshape(T, LANES, 4, blocks, UNITS).transpose(0, 3, 1, 2, 4)
    U = U_HxG.reshape(H, 4, blocks, UNITS).transpose(2, 1, 3, 0)
    c0 = fill(c0_BxH, 0).reshape(LANES, blocks, UNITS).transpose(1, 0, 2)
    by_gates = (T, blocks, LANES, 4 * UNITS)
    return xw.reshape(by_gates), U.reshape(blocks, 4 * UNITS, H), c0, fill(h0_BxH, 0)


def forward(xw_TxBxG: Array, U_HxG: Array, h0_BxH: Array, c0_BxH: Array) -> tuple[Array, Array]:
    """h of all steps and c of the last, TxBxH and BxH."""
    T, B, G = xw_TxBxG.shape
    h, c = make_forward(T, G // 4)(*arrange(xw_TxBxG, U_HxG, h0_BxH, c0_BxH))
    return h[:, :B], c.transpose(1, 0, 2).reshape(LANES, G // 4)[:B]
