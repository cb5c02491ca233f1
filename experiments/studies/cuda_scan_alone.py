"""The form of program that went wrong on CUDA (`cuda_scan`), by JAX alone: for a report to XLA.

An LSTM's reverse scan in float64, twice in a row: what arrives at the second is the first one's dz
times a matrix and a mask. In the larger program it was the second scan whose gradients were wrong.
Whether this one shows it has not been seen on a device.

    python experiments/studies/cuda_scan_alone.py
"""

import os
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

T, B, H = 16, 8, 64
ALLOWED = 1e-12


def step(xp: Any, UT: Any, dnext: Any, inputs: Any) -> Any:
    """One step of the chain rule, by NumPy or by JAX: what goes to the step before, and dz."""
    i, f, g, o, before, c, e, keep = inputs
    tanh_c = xp.tanh(c)
    dh = e + dnext[0]
    dc = dh * o * (1 - tanh_c * tanh_c) + dnext[1]
    dz = [dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g)]
    dz = xp.concatenate([*dz, dh * tanh_c * o * (1 - o)], axis=-1)
    return (keep * (dz @ UT), keep * (dc * f)), dz


def by_jax(unroll: int, resets: Any, U: Any, W: Any, mask: Any, e: Any, kept: Any) -> Any:
    """dz of both scans, so many steps of time per round."""

    def backward(U: Any, e: Any, kept: Any) -> Any:
        start = (jnp.zeros((B, H)), jnp.zeros((B, H)))
        keep = jnp.ones((T, 1, 1)) if resets is None else resets
        body = partial(step, jnp, lax.optimization_barrier(U.T))
        return lax.scan(body, start, (*kept, e, keep), reverse=True, unroll=unroll)[1]

    dz = backward(U[0], e, kept[0])
    return dz, backward(U[1], (dz @ W.T) * mask, kept[1])


def by_numpy(resets: Any, U: Any, W: Any, mask: Any, e: Any, kept: Any) -> Any:
    """The same, by a loop."""

    def backward(U: Any, e: Any, kept: Any) -> Any:
        state, out = (np.zeros((B, H)), np.zeros((B, H))), [np.empty(0)] * T
        for t in reversed(range(T)):
            keep = 1.0 if resets is None else resets[t]
            state, out[t] = step(np, U.T, state, [*(a[t] for a in kept), e[t], keep])
        return np.stack(out)

    dz = backward(U[0], e, kept[0])
    return dz, backward(U[1], (dz @ W.T) * mask, kept[1])


def draw_kept(rng: np.random.Generator) -> Any:
    """What a layer's forward pass would have kept: four gates, the cell before, the cell."""
    i, f, o = (1 / (1 + np.exp(-rng.normal(size=(T, B, H)))) for _ in range(3))
    g, before, c = (np.tanh(rng.normal(size=(T, B, H))) for _ in range(3))
    return i, f, g, o, before, c


def main() -> None:
    """Prints a line for each number of steps per round, without and with resets."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    U, W = rng.normal(size=(2, H, 4 * H)) / 8, rng.normal(size=(H, 4 * H)) / 8
    mask, e = (rng.random((B, H)) < 0.75) / 0.75, rng.normal(size=(T, B, H))
    arrays = (U, W, mask, e, (draw_kept(rng), draw_kept(rng)))
    some = (rng.random((T, B, 1)) > 0.25) * 1.0
    print(jax.__version__, jax.devices()[0].device_kind)
    for name, resets in (("plain", None), ("resets", some)):
        wanted = by_numpy(resets, *arrays)
        for unroll in (1, 2, 4, 8, 16):
            compiled = jax.jit(partial(by_jax, unroll))
            with jax.default_matmul_precision("highest"):
                found = [[*map(np.asarray, compiled(resets, *arrays))] for _ in range(2)]
            pairs = zip(found[0], wanted, strict=True)
            first, second = (abs(a - b).max() / abs(b).max() for a, b in pairs)
            moved = max(abs(a - b).max() for a, b in zip(*found, strict=True))
            print(
                f"{name:6}  {unroll:2} steps per round  first scan {first:.1e}  second {second:.1e}"
                f"  again differs by {moved:.1e}  {'ok' if second <= ALLOWED else 'WRONG'}"
            )


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough: end as by SIGPIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
