"""Bisects a fault of XLA's CUDA compiler: several steps of time per round of the rows' scan.

On an H100 (JAX 0.11.2) the float64 gradient of the first of two layers was wrong where the scan
takes eight steps per round, as no training does; BUILD_NOTES.md says what is known. This is for
whoever has a GPU and wants the cause.

    python -m experiments.studies.cuda_scan             the table; minutes on an H100
    python -m experiments.studies.cuda_scan --only=pdl  the first, and those whose name holds it
    python -m experiments.studies.cuda_scan --dump=DIR  also XLA's dumps of the first setting

Each line gives the largest error of a leaf of layers[0] against the NumPy reference, relative to
the leaf's largest gradient; the same of the other leaves; how far two runs of one program differ;
and what is wrong. XLA reads its flags once, so every setting of flags is a process of its own.
`cuda_scan_alone` is the same form of program without this package.
"""

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import lax

from experiments.studies.verify_gradients import cases_of, get_config
from experiments.support.output import end_with
from lstm_jax.cells import lstm, passes
from lstm_jax.heads import softmax
from lstm_jax.model import ModelParams, named_leaves
from lstm_jax.terminal import show, write
from lstm_jax.verification import compare
from lstm_jax.verification.cases import Problem
from lstm_jax.verification.notebook import reference_gradient

# Each is what differs from `Trial`. Case 0 is plain, case 1 has everything on.
PLAIN: dict[str, Any] = {"case": 0}
FULL: dict[str, Any] = {"case": 1}
OWN_IDS = {"case": 0, "own_ids": True}  # dW's rows then are dz, step by step and lane by lane
SHAPES: dict[str, list[dict[str, Any]]] = {
    "base": [PLAIN, FULL, OWN_IDS],
    "base, as verified": [{"case": 0, "beside": True, "unoptimized": True, "both": True}],
    "beside truncated": [PLAIN | {"beside": True}, FULL | {"beside": True}],
    "autodiff": [PLAIN | {"autodiff": True}],
    "unroll 1 and 2": [PLAIN | {"unroll": 1}, PLAIN | {"unroll": 2}, FULL | {"unroll": 2}],
    "unroll 4 and 16": [PLAIN | {"unroll": 4}, FULL | {"unroll": 4}, PLAIN | {"unroll": 16}],
    "T 15, 17, 32": [PLAIN | {"T": 15}, PLAIN | {"T": 17}, PLAIN | {"T": 32}],
    "B 1, H 6": [PLAIN | {"B": 1}, PLAIN | {"H": 6}, FULL | {"B": 1}],
    "one layer, no dropout": [PLAIN | {"L": 1}, FULL | {"L": 1}, PLAIN | {"dropout": 0.0}],
    "float32": [PLAIN | {"dtype": "float32"}, FULL | {"dtype": "float32"}],
    "precision default": [PLAIN | {"precision": "default"}],
    "no barrier": [PLAIN | {"barrier": False}, FULL | {"barrier": False}],
    "barrier around dx": [PLAIN | {"dx_barrier": True}, FULL | {"dx_barrier": True}],
}
FLAGS = {
    "pdl off": "--xla_gpu_enable_pdl=false",
    "pdl launch off": "--xla_gpu_enable_pdl_launch=false",
    "command buffers off": "--xla_gpu_enable_command_buffer=",
    "autotune 0": "--xla_gpu_autotune_level=0",
    "triton gemm off": "--xla_gpu_enable_triton_gemm=false",
    "cublaslt off": "--xla_gpu_enable_cublaslt=false",
    "slice fusion off": "--xla_gpu_enable_dynamic_slice_fusion=false",
    "slice offsets verified": "--xla_gpu_experimental_dynamic_slice_fusion_verify_offsets=true",
    "slice copies not async": "--xla_disable_hlo_passes=dynamic-slice-copy-fusion-async-wrapper",
    "gemm rewriter off": "--xla_disable_hlo_passes=cublas-gemm-rewriter",
    "fusion autotuner off": "--xla_gpu_experimental_enable_fusion_autotuner=false",
}


@dataclasses.dataclass
class Trial:
    case: int = 1
    H: int = 64
    L: int = 2
    B: int = 8
    T: int = 16
    unroll: int = 8
    dropout: float = 0.4
    dtype: str = "float64"
    precision: str = "highest"
    barrier: bool = True
    dx_barrier: bool = False
    beside: bool = False  # the truncated rule in the same program
    unoptimized: bool = False
    both: bool = False  # float32 in the same program, as `verify` compiles case 0
    autodiff: bool = False
    own_ids: bool = False

    def __str__(self) -> str:
        set_ = {k: v for k, v in vars(self).items() if v != getattr(Trial, k) or k == "case"}
        return " ".join(f"{k}={v}" for k, v in set_.items())


def change_rows(trial: Trial) -> None:
    """Has the LSTM by rows scan and fence as the trial says, in this process."""
    barrier = lax.optimization_barrier if trial.barrier else (lambda a: a)
    changed = {
        "scan": functools.partial(lax.scan, unroll=trial.unroll),
        "optimization_barrier": barrier,
    }
    for module in (passes, lstm):
        module.lax = types.SimpleNamespace(**(vars(lax) | changed))  # type: ignore[attr-defined]
    if trial.dx_barrier:
        original = lstm.project_backward

        def project_backward(*args: Any, **named: Any) -> Any:
            dW, dx = original(*args, **named)
            return dW, dx if dx is None else lax.optimization_barrier(dx)

        lstm.project_backward = project_backward


def problem_of(trial: Trial) -> Problem:
    """The numbers of the verification's case."""
    config = get_config()
    model = dataclasses.replace(
        config.model, hidden_size=trial.H, num_layers=trial.L, dropout=trial.dropout
    )
    train = dataclasses.replace(config.train, batch_size=trial.B, sequence_length=trial.T)
    case = cases_of(dataclasses.replace(config, model=model, train=train))[trial.case]
    if not trial.own_ids:
        return compare.make_problem(case)
    problem = compare.make_problem(dataclasses.replace(case, vocabulary_size=trial.T * trial.B))
    ids = np.arange(trial.T * trial.B).reshape(trial.T, trial.B)
    return problem._replace(batch=problem.batch._replace(inputs=ids))


def gradients_of(trial: Trial, problem: Problem) -> list[ModelParams]:
    """The gradient under suspicion, three times by one program."""
    suspects = compare.Suspects()
    gradients = [suspects.autodiff if trial.autodiff else suspects.rows]
    gradients += [suspects.truncated_rows] * trial.beside
    gradients = [compare.with_head(gradient, softmax) for gradient in gradients]
    dtypes = [trial.dtype] + ["float32"] * trial.both

    def all_of(*problem: Any) -> Any:
        return [[g(*compare.cast(problem, d))[1] for g in gradients] for d in dtypes]

    compiled = jax.jit(all_of, compiler_options=compare.UNOPTIMIZED if trial.unoptimized else None)
    with jax.enable_x64("float64" in dtypes), jax.default_matmul_precision(trial.precision):
        return [jax.tree.map(np.asarray, compiled(*problem)[0][0]) for _ in range(3)]


def largest(numbers: Iterable[float]) -> float:
    """The largest number; NaN where one of them is NaN, which `max` may lose."""
    return float(np.max([0.0, *numbers]))


def run(trial: Trial) -> dict[str, Any]:
    """One line of the table."""
    change_rows(trial)
    problem = problem_of(trial)
    gradients = gradients_of(trial, problem)
    wanted, leaves = named_leaves(reference_gradient(problem)), named_leaves(gradients[0])
    errors = {n: float(abs(leaves[n] - w).max() / abs(w).max()) for n, w in wanted.items()}
    runs = [jax.tree.leaves(f) for f in gradients]
    pairs = [(a, b) for run in runs for a, b in zip(runs[0], run, strict=True)]
    first = {n: e for n, e in errors.items() if n.startswith("layers[0]")}
    limit = compare.TOLERANCES[trial.dtype]
    return {
        "trial": str(trial),
        "first": largest(first.values()),
        "rest": largest(e for n, e in errors.items() if n not in first),
        "moved": largest(float(abs(a - b).max()) for a, b in pairs),
        "limit": limit,
        "where": "" if largest(first.values()) <= limit else where(trial, wanted, leaves, first),
    }


def where(trial: Trial, wanted: Any, leaves: Any, first: dict[str, float]) -> str:
    """Which entries of W are wrong, and by how much each leaf."""
    W = wanted["layers[0].W"]
    bad = ~(abs(leaves["layers[0].W"] - W) <= compare.TOLERANCES[trial.dtype] * abs(W).max())
    units = sorted({int(u) % trial.H for u in bad.any(0).nonzero()[0]})
    text = f"{bad.mean():.1%} of W, {len(units)} units {units[:1]} to {units[-1:]}; "
    sizes = {n: abs(leaves[n] - wanted[n]).max() for n in first}
    text += " ".join(f"{n[10:]} {e:.1e} (abs {sizes[n]:.1e})" for n, e in first.items())
    if trial.own_ids and bad.any():
        by_step = bad.reshape(trial.T, trial.B, -1)
        steps, lanes, _ = by_step.nonzero()
        columns = by_step[steps.max()].any(0).nonzero()[0].tolist()  # where the scan began
        text += f"; steps {sorted(set(steps.tolist()))} lanes {sorted(set(lanes.tolist()))}"
        text += f"; step {steps.max()} {len(columns)} columns {columns[:6]}..."
    return text


def child(trials: list[dict[str, Any]]) -> None:
    """One line of JSON for each trial."""
    for fields in trials:
        try:
            line = run(Trial(**fields))
        except Exception as error:  # the table says so, and the next trial goes on
            line = {"trial": str(Trial(**fields)), "error": str(error)[:200]}
        write(json.dumps(line) + "\n")


def start(name: str, trials: list[dict[str, Any]], flags: str = "") -> str:
    """The lines of a setting, computed in a process of its own."""
    old = os.environ.get("XLA_FLAGS", "")
    changed = {"XLA_FLAGS": f"{old} {flags}".strip(), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-m", "experiments.studies.cuda_scan", "--child", json.dumps(trials)]
    env = os.environ | changed
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = []
    for row in (json.loads(said) for said in done.stdout.splitlines() if said.startswith("{")):
        if "error" in row:
            lines.append(f"{name:23} {row['trial']:34} ERROR {row['error']}")
            continue
        verdict = "ok" if largest((row["first"], row["rest"])) <= row["limit"] else "WRONG"
        numbers = f"layers[0] {row['first']:.1e}  rest {row['rest']:.1e}  moved {row['moved']:.1e}"
        lines.append(f"{name:23} {row['trial']:34} {numbers}  {verdict:5} {row['where']}")
    if done.returncode:
        lines.append(f"{name:23} exit {done.returncode}: {done.stderr.strip()[-160:]!r}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child")
    parser.add_argument("--only", default="")
    parser.add_argument("--dump")
    parser.add_argument("--jobs", type=int, default=4)  # one GPU, 16 cores
    args = parser.parse_args()
    if args.child:
        return child(json.loads(args.child))
    dump = ""
    if args.dump:  # with what autotuning chose, for compiling the same without a device
        chosen = f"--xla_gpu_dump_autotune_results_to={args.dump}/autotune.txt"
        dump = f"--xla_dump_to={args.dump} --xla_dump_hlo_as_text {chosen}"
    show(start("base", SHAPES["base"], dump))  # alone, so that autotuning is quiet
    tasks = [(n, [PLAIN, FULL], f) for n, f in FLAGS.items()]
    tasks += [(n, trials, "") for n, trials in SHAPES.items() if n != "base"]
    tasks = [task for task in tasks if args.only in task[0]]
    with ThreadPoolExecutor(args.jobs) as pool:
        for text in pool.map(lambda task: start(*task), tasks):
            show(text)


if __name__ == "__main__":
    end_with(main)
