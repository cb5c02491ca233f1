"""The persistent kernels on a device: are they right, and how long does a step take?

    python -m experiments.studies.persistent               all; under 4 minutes on an H100
    python -m experiments.studies.persistent --only=768    the lines whose name holds it
    python -m experiments.studies.persistent --out=FOLDER  where persistent.json goes

A line per shape and tiles. Each is a process of its own, which is killed where it takes too long: a
kernel that hangs must not take the others with it. All compile side by side, and run on the GPU
one after another. The error is the largest of any leaf against rows in float64 on the CPU,
relative to the leaf's largest entry: outputs, states and gradients, with resets, an initial state
and what arrives at the final one. Three runs must have the same bits. The lines of rows are there
to compare: the same error, and the times of its two scans. Exit code 0 only if all is right.
"""

import argparse
import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.persistent import kernels, layer
from experiments.studies.persistent.kernels import Tiles, find_tiles
from experiments.support.output import end_with
from experiments.support.timing import describe_machine
from lstm_jax.cells.cell import Marks, Passes
from lstm_jax.cells.lstm import ROWS_CALCULUS, LSTMParams, LSTMState
from lstm_jax.cells.passes import ROWS, backward_in_time, forward_in_time
from lstm_jax.errors import UserError
from lstm_jax.files import write_json
from lstm_jax.terminal import say, show, write


class Shape(NamedTuple):
    B: int
    T: int
    H: int
    L: int  # layers of the model that the shape is from; the kernels do one

    def __str__(self) -> str:
        return f"B {self.B:3} T {self.T:4} H {self.H:3}"


SHAPES = (
    Shape(16, 1024, 768, 1),
    Shape(32, 128, 896, 2),
    Shape(64, 128, 512, 2),
    Shape(256, 784, 128, 1),
    Shape(64, 1020, 128, 1),
)
CHECKED_STEPS, INPUTS = 64, 32  # T and D of the check
# JAX's precision of products, and the error allowed with it.
PRECISIONS = {"TF32": (None, 5e-3), "precise": ("highest", 2e-5)}
ALL_S = 230  # seconds for everything
JOB_S = 60  # for one job's turn on the GPU
WORKERS = 6
TURNS, CALLS = 5, 4  # of a timing: the median of so many turns of so many calls


# ---- one job, in a process of its own


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """The GPU for this process, and its end where it keeps it for longer than JOB_S.

    By a signal that nobody handles: Python may be stuck inside a call of the driver.
    """
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(JOB_S)
        yield
        signal.alarm(0)


def draw_problem(shape: Shape) -> tuple[Any, ...]:
    """Parameters, state, input, resets, and what arrives at the outputs and the final state."""
    rng = np.random.default_rng(0)
    T, B, D, H = min(CHECKED_STEPS, shape.T), shape.B, INPUTS, shape.H

    def draw(*size: int, scale: float = 1.0) -> Any:
        return rng.normal(scale=scale, size=size).astype(np.float32)

    W, U, b = draw(D, 4 * H, scale=0.2), draw(H, 4 * H, scale=0.6 * H**-0.5), draw(4 * H)
    state, dfinal = (LSTMState(np.tanh(draw(B, H)), draw(B, H)) for _ in range(2))
    return (
        LSTMParams(W, U, b),
        state,
        draw(T, B, D),
        rng.random((T, B)) < 0.05,
        draw(T, B, H),
        dfinal,
    )


def run_passes(
    passes: Passes, params: Any, state: Any, x: Any, resets: Any, e: Any, dfinal: Any
) -> dict[str, Any]:
    """All that a layer puts out, there and back."""
    marks = Marks(resets=resets)
    final, h, kept = passes.forward(params, state, x, None, marks)
    dparams, dstart, dx = passes.backward(params, kept, None, marks, e, dfinal)
    return {"h": h, "final": final, "dparams": dparams, "dstart": dstart, "dx": dx}


def right_answer(problem: tuple[Any, ...]) -> Any:
    """By rows in float64 on the CPU."""

    def widen(a: np.ndarray) -> np.ndarray:
        return a if a.dtype == bool else a.astype(np.float64)

    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        answer = jax.jit(partial(run_passes, layer.BY_ROWS))(*jax.tree.map(widen, problem))
        return jax.tree.map(np.asarray, answer)


def largest_error(found: Any, wanted: Any) -> tuple[float, str]:
    """Of all leaves, relative to the leaf's largest entry, and which leaf it is in; a NaN wins."""
    named = jax.tree_util.tree_flatten_with_path(wanted)[0]
    errors = [
        (float(np.abs(a - b).max() / np.abs(b).max()), jax.tree_util.keystr(path))
        for a, (path, b) in zip(jax.tree.leaves(found), named, strict=True)
    ]
    return max(errors, key=lambda error: np.inf if np.isnan(error[0]) else error[0])


def check(compiled: Callable[..., Any], problem: tuple[Any, ...], wanted: Any) -> dict[str, Any]:
    """The error, and whether three runs have the same bits."""
    runs = [jax.tree.map(np.asarray, compiled(*problem)) for _ in range(3)]
    error, where = largest_error(runs[0], wanted)
    first, *others = (b"".join(a.tobytes() for a in jax.tree.leaves(run)) for run in runs)
    return {"error": error, "where": where, "same": all(other == first for other in others)}


def compile_passes(passes: Passes, problem: tuple[Any, ...]) -> Callable[..., Any]:
    return jax.jit(partial(run_passes, passes)).lower(*problem).compile()


def microseconds(call: Callable[..., Any], inputs: tuple[Any, ...], steps: int) -> float:
    """Per step of time."""
    jax.block_until_ready(call(*inputs))
    turns = []
    for _ in range(TURNS):
        start = time.perf_counter()
        jax.block_until_ready([call(*inputs) for _ in range(CALLS)])
        turns.append((time.perf_counter() - start) / CALLS)
    return statistics.median(turns) / steps * 1e6


def long_inputs(shape: Shape) -> tuple[Any, ...]:
    """xw, U, h0, c0, resets, e for all of T: the numbers of the check, over and over."""
    params, state, x, resets, e, _ = draw_problem(shape)
    T = shape.T
    xw, marks, e = (np.resize(a, (T, *a.shape[1:])) for a in (x @ params.W + params.b, resets, e))
    return jax.tree.map(jnp.asarray, (xw, params.U, state.h, state.c, marks, e))


def time_kernels(tiles: Tiles, shape: Shape, precise: bool, inputs: tuple[Any, ...]) -> list[float]:
    """A step of each kernel, forward and backward."""
    xw, U, h0, c0, resets, e = inputs
    marks = resets.astype(jnp.uint8)
    forward = jax.jit(partial(kernels.forward, tiles.forward, precise=precise))
    backward = jax.jit(partial(kernels.backward, tiles.backward, precise=precise))
    there = (xw, U, h0, c0, marks)
    kept = forward(*there)
    back = (kept.gates, kept.c, c0, U, e, h0, c0, marks)
    if bool(kept.failed.any()) or bool(backward(*back).failed.any()):
        raise RuntimeError("a block waited in vain")
    return [microseconds(forward, there, shape.T), microseconds(backward, back, shape.T)]


def time_rows(shape: Shape, inputs: tuple[Any, ...]) -> list[float]:
    """A step of each of rows' scans, without the large products before and after them."""
    xw, U, h0, c0, resets, e = inputs
    calculus = ROWS_CALCULUS._replace(
        prepare=lambda params, x, mask: x, collect=lambda *args: (args[-1], None)
    )
    params: Any = LSTMParams(xw, U, xw)  # W and b have no part in it
    marks, state = Marks(resets=resets), LSTMState(h0, c0)

    def there(params: Any, state: Any, xw: Any, marks: Any) -> Any:
        return forward_in_time(calculus, ROWS, params, state, xw, None, marks)

    def back(params: Any, kept: Any, marks: Any, e: Any, dfinal: Any) -> Any:
        return backward_in_time(calculus, ROWS, params, kept, None, marks, e, dfinal)[:2]

    there, back = jax.jit(there), jax.jit(back)
    kept = there(params, state, xw, marks)[2]
    return [
        microseconds(there, (params, state, xw, marks), shape.T),
        microseconds(back, (params, kept, marks, e, state), shape.T),
    ]


def run_tiles(shape: Shape, tiles: Tiles, lock: Path) -> dict[str, Any]:
    """The line of some tiles. What needs no GPU is done before its turn."""
    problem = draw_problem(shape)
    wanted, compiled = right_answer(problem), {}
    passes = layer.make_persistent(layer.CUDA, lambda B, H: tiles)
    for name, (precision, _) in PRECISIONS.items():
        with jax.default_matmul_precision(precision):
            compiled[name] = compile_passes(passes, problem)
    with alone(lock):
        inputs = long_inputs(shape)
        return {
            name: check(compiled[name], problem, wanted)
            | {"us": time_kernels(tiles, shape, name == "precise", inputs)}
            for name in PRECISIONS
        }


def run_rows(shape: Shape, lock: Path) -> dict[str, Any]:
    """The line of rows. XLA times products while it compiles, so that is in its turn, too."""
    problem = draw_problem(shape)
    wanted, line = right_answer(problem), {}
    with alone(lock):
        inputs = long_inputs(shape)
        for name, (precision, _) in PRECISIONS.items():
            with jax.default_matmul_precision(precision):
                line[name] = check(compile_passes(layer.BY_ROWS, problem), problem, wanted)
                line[name]["us"] = time_rows(shape, inputs)
    return line


def run_pallas(shape: Shape, lock: Path) -> dict[str, Any]:
    """The line of the try in Pallas: forward, without resets, in TF32."""
    from experiments.studies.persistent import pallas  # it needs JAX 0.11

    problem = draw_problem(shape)
    (W, U, b), state, x, resets = problem[:4]
    answer = right_answer((*problem[:3], np.zeros_like(resets), *problem[4:]))
    wanted = {"h": answer["h"], "c": answer["final"].c}

    def run(xw: Any, U: Any, state: Any) -> dict[str, Any]:
        return dict(zip("hc", pallas.forward(xw, U, *state), strict=True))

    inputs = (x @ W + b, U, state)
    compiled = jax.jit(run).lower(*inputs).compile()
    with alone(lock):
        line = check(compiled, inputs, wanted)
        arranged = jax.jit(pallas.arrange)(*long_inputs(shape)[:4])
        forward = jax.jit(pallas.make_forward(shape.T, shape.H))
        line["us"] = [microseconds(forward, arranged, shape.T), float("nan")]
    return {"TF32": line}


class Job(NamedTuple):
    shape: int  # of SHAPES
    what: int | str  # the number of the shape's tiles, or "rows", or "pallas"

    def __str__(self) -> str:
        shape = SHAPES[self.shape]
        if isinstance(self.what, str):
            return f"{shape} {self.what}"
        tiles = find_tiles(shape.B, shape.H)[self.what]
        forward, backward = (" ".join(map(str, tile[1:])) for tile in tiles)
        return f"{shape} {forward} | {backward}"


def work(job: Job, lock: Path) -> None:
    """A job's result, as a line of JSON."""
    shape = SHAPES[job.shape]
    if job.what == "rows":
        line = run_rows(shape, lock)
    elif job.what == "pallas":
        line = run_pallas(shape, lock)
    else:
        line = run_tiles(shape, find_tiles(shape.B, shape.H)[int(job.what)], lock)
    write(json.dumps(line) + "\n")


# ---- all jobs


def all_jobs(only: str) -> list[Job]:
    """What `layer` would take first, then rows, then the other candidates, then Pallas."""
    shapes = range(len(SHAPES))
    candidates = {n: range(1, len(find_tiles(SHAPES[n].B, SHAPES[n].H))) for n in shapes}
    jobs = [Job(n, 0) for n in shapes] + [Job(n, "rows") for n in shapes]
    jobs += [Job(n, tiles) for n in shapes for tiles in candidates[n]]
    jobs += [Job(0, "pallas")]
    return [job for job in jobs if only in str(job)]


def start(job: Job, folder: Path, deadline: float) -> dict[str, Any]:
    """What a job's process says; {"error": …} where it says nothing of use."""
    command = [sys.executable, "-m", "experiments.studies.persistent"]
    command += [f"--job={json.dumps(job)}", f"--lock={folder / 'lock'}"]
    environment = os.environ | {
        "JAX_PLATFORMS": "cuda,cpu",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if job.what != "rows":  # its products are not what is timed, and others may be on the GPU
        flags = os.environ.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()
    left = deadline - time.monotonic()
    if left < 1:
        return {"error": "no time was left"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=left
        )
    except subprocess.TimeoutExpired:
        return {"error": "killed: no time was left"}
    if done.returncode == -signal.SIGALRM:
        return {"error": f"killed: longer than {JOB_S} s on the GPU"}
    if done.returncode:
        return {"error": f"exit {done.returncode}: {done.stderr.strip().rpartition(chr(10))[2]}"}
    return json.loads(done.stdout.splitlines()[-1])


def is_right(line: dict[str, Any]) -> bool:
    """Whether every precision has its error and the same bits each time."""
    return "error" not in line and all(
        found["error"] <= PRECISIONS[name][1] and found["same"] for name, found in line.items()
    )


def in_words(job: Job, line: dict[str, Any]) -> str:
    """A line of the table."""
    if "error" in line:
        return f"{job!s:58}  WRONG  {line['error']}"
    numbers = "".join(
        f"  {found['error']:.1e} {'same ' if found['same'] else 'MOVED'}"
        f" {found['us'][0]:6.2f} {found['us'][1]:6.2f}"
        for found in line.values()
    )
    where = (
        "" if is_right(line) else f"  worst: {', '.join(found['where'] for found in line.values())}"
    )
    return f"{job!s:58}  {'right' if is_right(line) else 'WRONG'}{numbers}{where}"


def check_machine() -> None:
    """UserError where the study cannot run."""
    try:
        jax.devices("cuda")
    except RuntimeError as error:
        raise UserError("the study needs a CUDA GPU, and JAX finds none here") from error
    kernels.nvrtc()


def run_all(only: str, out: Path) -> int:
    """Prints the table, writes persistent.json; the exit code."""
    check_machine()
    machine, began = describe_machine(), time.monotonic()
    show(f"{machine['device']}, JAX {jax.__version__}")
    jobs = all_jobs(only)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        run = partial(start, folder=Path(folder), deadline=began + ALL_S)
        lines = []
        for job, line in zip(jobs, pool.map(run, jobs), strict=True):
            say(in_words(job, line))
            lines.append(line)
    show("shape; units lanes warps cluster batch of the forward | of the backward kernel; then")
    for name, (_, allowed) in PRECISIONS.items():
        show(f"  {name}: error (allowed {allowed:.0e}), bits, µs per step forward and backward")
    for job, line in sorted(zip(jobs, lines, strict=True), key=lambda pair: pair[0].shape):
        show(in_words(job, line))
    everything = [{"job": str(job), **line} for job, line in zip(jobs, lines, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "persistent.json", {"machine": machine, "lines": everything})
    show(f"{time.monotonic() - began:.0f} s; written: {out / 'persistent.json'}")
    return 0 if all(map(is_right, lines)) else 1


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.studies.persistent")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/persistent"))
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--lock", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.job is not None:
        work(Job(*args.job), args.lock)
        return 0
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        return run_all(args.only, args.out)
    except UserError as error:
        say(f"error: {error}")
        return 2


if __name__ == "__main__":
    end_with(main)
