"""Whether this device computes what it should: run it after any change to the numerics.

On the device that JAX takes by default: every source of every gradient, on small shapes and on the
recipes' own; `bptt_layer` under `jit`, `vmap` and `shard_map`; a short training run beside the same
run on a CPU; that run repeated, and resumed from a checkpoint, which may not change a bit. Minutes.
Exit code 0 only if all of it holds.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from experiments.studies import verify_gradients
from experiments.studies.verify_recipes import verify_recipes
from experiments.support.output import say_written
from experiments.support.timing import commit, describe_machine
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.config import Config
from lstm_jax.errors import UserError
from lstm_jax.files import write_json
from lstm_jax.gradients.bptt_layer import bptt_layer
from lstm_jax.layer import unroll
from lstm_jax.run.checkpoint import FOLDER, load_model
from lstm_jax.run.loop import Run
from lstm_jax.run.metrics import read_metrics
from lstm_jax.run.signals import Interrupted
from lstm_jax.tasks.text import TextTask
from lstm_jax.terminal import say, show
from lstm_jax.verification.compare import TOLERANCES, Row, make_row, verify, worst

READS = ()  # no config value changes what is checked
IGNORES = ("figures",)  # it draws nothing

# How far a loss of the short run may be from a CPU's, in nats: with float32 products everywhere,
# and with the device's own, which may have ten bits.
FLOAT32_NATS, DEFAULT_NATS = 1e-4, 2e-2


class Check(NamedTuple):
    """What one check came to."""

    name: str
    holds: bool
    found: str
    seconds: float = 0.0


def get_config() -> Config:
    """The short run: dropout, weight drop, resets and two layers, on a text that needs no net."""
    return Config().replace(
        {
            "data.corpus": "python_topics",
            "model.hidden_size": 128,
            "model.num_layers": 2,
            "model.dropout": 0.2,
            "model.weight_drop": 0.2,
            "train.steps": 60,
            "train.batch_size": 16,
            "train.sequence_length": 64,
            "train.reset_rate": 0.1,
            "train.validate_every": 20,
            "train.keep_checkpoints": 3,
            "train.sample_length": 20,
        }
    )


def errors(rows: list[Row]) -> tuple[bool, str]:
    """Whether all rows passed, and the largest error of each kind."""
    largest = [f"{row.kind} {row.relative:.1e}" for row in worst(rows, "kind")]
    failed = sorted({row.pair for row in rows if not row.passed})
    return not failed, ", ".join(largest) + (f"; FAILED: {', '.join(failed)}" if failed else "")


def small_shapes() -> tuple[bool, str]:
    """The verification's grid, and a layer's width that once failed on CUDA alone."""
    wide = verify_gradients.get_config().replace(
        {
            "model.hidden_size": 64,
            "model.num_layers": 2,
            "model.dropout": 0.4,
            "train.batch_size": 8,
            "train.sequence_length": 16,
        }
    )
    cases = [*verify_gradients.all_cases(), *verify_gradients.cases_of(wide)]
    return errors(verify(cases, verify_gradients.report))


def trained_shapes() -> tuple[bool, str]:
    """The shapes of the recipes."""
    return errors([row for rows in verify_recipes().values() for row in rows])


def layer_problem(dtype: str) -> tuple[LSTMParams, LSTMState, jax.Array]:
    """Parameters, a state and vectors for a layer: T 16, B 8, D 24, H 64."""
    rng = np.random.default_rng(0)
    T, B, D, H = 16, 8, 24, 64

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape) * H**-0.5, dtype)

    params = LSTMParams(draw(D, 4 * H), draw(H, 4 * H), draw(4 * H))
    return params, LSTMState(draw(B, H), draw(B, H)), draw(T, B, D)


def layer_loss(layer: Callable[..., Any], *problem: Any) -> jax.Array:
    """A number that depends on all that a layer puts out."""
    final, h_TxBxH = layer(*problem)
    return jnp.sum(jnp.sin(h_TxBxH)) + jnp.sum(final.h**2) + jnp.sum(jnp.cos(final.c))


def over_devices(layer: Callable[..., Any]) -> Callable[..., Any]:
    """The layer with its lanes divided among all devices that divide them evenly."""
    count = max(n for n in range(1, jax.device_count() + 1) if 8 % n == 0)
    mesh = Mesh(jax.devices()[:count], ("lanes",))
    lanes = (P(), P("lanes"), P(None, "lanes"))
    return jax.shard_map(layer, mesh=mesh, in_specs=lanes, out_specs=(P("lanes"), lanes[2]))


def one_by_one(layer: Callable[..., Any]) -> Callable[..., Any]:
    """The layer mapped over lanes, each a batch of one."""

    def apart(params: Any, state: Any, x_TxBxD: jax.Array) -> Any:
        def lane(state: Any, x_TxD: jax.Array) -> Any:
            final, h_Tx1xH = layer(params, jax.tree.map(lambda s: s[None], state), x_TxD[:, None])
            return jax.tree.map(lambda s: s[0], final), h_Tx1xH[:, 0]

        return jax.vmap(lane, in_axes=(0, 1), out_axes=(0, 1))(state, x_TxBxD)

    return apart


def layer_inside() -> tuple[bool, str]:
    """`bptt_layer` under each transformation against plain autodiff of `unroll`."""
    rows = []
    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
            problem = layer_problem(dtype)
            grad = partial(jax.value_and_grad, argnums=(0, 1, 2))
            wanted = jax.jit(grad(partial(layer_loss, unroll)))(*problem)
            for inside in (lambda layer: layer, one_by_one, over_devices):
                gradients = jax.jit(grad(partial(layer_loss, inside(bptt_layer))))(*problem)
                rows += layer_rows(dtype, wanted, gradients)
    return errors(rows)


def layer_rows(dtype: str, wanted: Any, gradients: Any) -> list[Row]:
    """One row per leaf, the loss among them."""
    named = jax.tree_util.tree_flatten_with_path(wanted)[0]
    pairs = zip(named, jax.tree.leaves(gradients), strict=True)
    arrays = [(jax.tree_util.keystr(path), np.asarray(a), np.asarray(b)) for (path, a), b in pairs]
    return [
        make_row("bptt_layer ~ unroll", dtype, name, a, b, np.abs(a).max()) for name, a, b in arrays
    ]


def train(workdir: Path, precision: str | None = None) -> Path:
    """The short run, in this process; `precision`: of its products, None the platform's own."""
    config = get_config()
    with (
        jax.default_matmul_precision(precision),
        Run(config, TextTask.of(config), workdir, "device_check") as run,
    ):
        run.train()
    return workdir


def train_on_cpu(workdir: Path) -> Path:
    """The short run in a process that has no device but the CPU."""
    command = [sys.executable, "-m", "experiments.studies.device_check", str(workdir)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the run on a CPU failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    return workdir


def losses(workdir: Path) -> np.ndarray:
    """Every loss that a run wrote down, in order."""
    lines = read_metrics(workdir)
    return np.array([value for line in lines for name, value in line.items() if "loss" in name])


def compare_losses(here: Path, on_cpu: Path, allowed: float) -> tuple[bool, str]:
    """Whether no loss of a run is further from the CPU's than allowed."""
    far = float(np.abs(losses(here) - losses(on_cpu)).max())
    return far <= allowed, f"at most {far:.1e} nats apart, allowed {allowed:.0e}"


def same_bits(first: Path, second: Path) -> tuple[bool, str]:
    """Whether two runs ended in the same state and wrote the same losses down."""
    states = [jax.tree.leaves(load_model(folder, "latest")[0]) for folder in (first, second)]
    differ = sum(not np.array_equal(a, b) for a, b in zip(*states, strict=True))
    alike = np.array_equal(losses(first), losses(second))
    found = f"{differ} of {len(states[0])} arrays differ, losses {'alike' if alike else 'differ'}"
    return alike and not differ, found


def resume(finished: Path, workdir: Path) -> Path:
    """The same run once more, from a copy of its first checkpoint on."""
    shutil.copytree(finished, workdir)
    steps = sorted(int(path.name) for path in (workdir / FOLDER).iterdir())
    for step in steps[1:]:
        shutil.rmtree(workdir / FOLDER / str(step))
    return train(workdir)


def checks(folder: Path) -> Iterator[tuple[str, Callable[[], tuple[bool, str]]]]:
    """Every check by name, to be made in this order."""
    yield "gradients, small shapes", small_shapes
    yield "gradients, recipes", trained_shapes
    yield "bptt_layer in jit, vmap, shard_map", layer_inside
    on_cpu = partial(train_on_cpu, folder / "cpu")
    precise, default = folder / "float32", folder / "default"
    yield (
        "training beside a CPU, float32",
        lambda: compare_losses(train(precise, "float32"), on_cpu(), FLOAT32_NATS),
    )
    yield (
        "training beside a CPU, default",
        lambda: compare_losses(train(default), folder / "cpu", DEFAULT_NATS),
    )
    yield "the same run again", lambda: same_bits(train(folder / "again"), default)
    yield (
        "resumed from its first checkpoint",
        lambda: same_bits(resume(default, folder / "resumed"), default),
    )


def attempt(check: Callable[[], tuple[bool, str]]) -> tuple[bool, str]:
    """The check's outcome; one that breaks off does not hold, and the others are still made."""
    try:
        return check()
    except (Interrupted, BrokenPipeError):  # asked to stop, which is no verdict
        raise
    except Exception as error:
        return False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main(config: Config, workdir: Path) -> int:
    """Prints a line for each check, writes device_check.json; 1 if one of them does not hold."""
    device, machine = jax.devices()[0], {"commit": commit(), **describe_machine()}
    runtime = " ".join(device.client.platform_version.split())
    show(f"{device.device_kind} ({device.platform}), {jax.device_count()} of them; {runtime}")
    show(f"JAX {jax.__version__}, commit {machine['commit']}\n")
    done: list[Check] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, check in checks(Path(folder)):
            say(name)
            start = time.perf_counter()
            holds, found = attempt(check)
            done.append(Check(name, holds, found, round(time.perf_counter() - start, 1)))
    show(f"{'check':36}  {'':6}  seconds  found; allowed {allowed()}")
    for name, holds, found, seconds in done:
        show(f"{name:36}  {'holds' if holds else 'FAILED':6}  {seconds:7.1f}  {found}")
    write_json(
        workdir / "device_check.json",
        {"machine": machine, "runtime": runtime, "checks": [check._asdict() for check in done]},
    )
    say_written(workdir, "device_check.json")
    return 0 if all(check.holds for check in done) else 1


def allowed() -> str:
    """The bounds of the verification, as text."""
    return ", ".join(f"{kind} {bound:.0e}" for kind, bound in TOLERANCES.items())


if __name__ == "__main__":
    train(Path(sys.argv[1]))
