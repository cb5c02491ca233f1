"""How soon a fresh process has a model of tiny Shakespeare at a validation loss of 1.8857.

That is where nanoGPT's recipe for a CPU ends (4 layers, 128 wide, block 64, batch 12, 2,000
iterations; its README says 1.88 in some three minutes): the loss by `windows` of 64 characters,
over the whole split. Each of five seeds trains twice in a process of its own: first without any
compiled program at hand, then with those that the first run kept. The clock runs from the start of
the process to the line in metrics.jsonl that has such a loss. Some two minutes on two cores.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from experiments.recipes import tiny_shakespeare_small
from experiments.support.output import say_written
from experiments.support.seeds import READS as READS
from experiments.support.seeds import text_to_validate_on
from experiments.support.timing import describe_machine
from lstm_jax.config import Config
from lstm_jax.container import usable_cpus
from lstm_jax.errors import UserError
from lstm_jax.files import write_json
from lstm_jax.run.metrics import brief, kept, read_metrics
from lstm_jax.terminal import show

# It decides itself what is kept: first nothing, then everything. And it draws nothing.
IGNORES = ("compile_cache", "figures")

TARGET = 1.8857
SEEDS = range(5)
KINDS = ("compiling", "compiled before")
POLL_S = 0.01


def get_config() -> Config:
    """The recipe, found by measurement (BUILD_NOTES.md): small, wide in lanes, short in time."""
    return tiny_shakespeare_small.get_config().replace(
        {
            "model.hidden_size": 96,
            # Many lanes and few steps back: cheap updates, each of 1,024 characters.
            "train.batch_size": 64,
            "train.sequence_length": 16,
            # A high rate with little momentum, for a run of a few hundred updates.
            "optimizer.learning_rate": 0.04,
            "optimizer.b1": 0.8,
            "optimizer.warmup_steps": 20,
            "train.steps": 360,
            "train.validate_every": 360,
        }
    )


def command_of(config: Config, workdir: Path, programs: Path) -> list[str]:
    """The command line that trains this config."""
    base = tiny_shakespeare_small.get_config().flatten()
    changes = {k: v for k, v in config.flatten().items() if v != base[k]}
    # JAX's types say nothing of the values in its config.
    devices = max(jax.config.jax_num_cpu_devices, 0)  # type: ignore[attr-defined]
    if devices == usable_cpus():  # all, and so nothing that a machine with a GPU would refuse
        devices = 0
    return [
        *(sys.executable, "-m", "experiments.run", "--experiment=tiny_shakespeare_small"),
        *(f"--config.{name}={value}" for name, value in changes.items()),
        *(f"--workdir={workdir}", f"--compile_cache={programs}"),
        f"--cpu_devices={devices}",
    ]


def race(config: Config, workdir: Path, programs: Path) -> dict[str, Any]:
    """Trains in a process of its own: seconds to the target and to the end, and the last loss."""
    log = workdir.with_suffix(".log")
    start, reached_s = time.perf_counter(), None
    with log.open("w") as output:
        command = command_of(config, workdir, programs)
        run = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            while run.poll() is None:
                time.sleep(POLL_S)
                if reached_s is None and reached(workdir):
                    reached_s = time.perf_counter() - start
        finally:
            run.terminate()
            run.wait()
    end_s = time.perf_counter() - start
    if run.returncode:
        raise UserError(f"a run failed: {log.read_text().strip().rpartition(chr(10))[2]}")
    if reached_s is None and reached(workdir):
        reached_s = end_s
    return {"reached_s": reached_s, "end_s": end_s, "val_loss_windows": losses(workdir)[-1]}


def losses(workdir: Path) -> list[float]:
    """The validation losses of a run so far, by `windows`."""
    scores = [kept(line) for line in read_metrics(workdir)]
    return [loss for named in scores for name, loss in named.items() if brief(name) == "windows"]


def reached(workdir: Path) -> bool:
    return any(loss <= TARGET for loss in losses(workdir))


def median_s(entries: list[dict[str, Any]], kind: str) -> float | None:
    """The median time to the target; None where a seed did not reach it."""
    times = [entry[kind]["reached_s"] for entry in entries]
    return None if None in times else statistics.median(times)


def line(seed: int, entry: dict[str, Any]) -> str:
    cells = [seconds_of(entry[kind]["reached_s"]) for kind in KINDS]
    return f"{seed:>6}  {cells[0]:>12}  {cells[1]:>15}  {entry[KINDS[0]]['val_loss_windows']:12.4f}"


def seconds_of(reached_s: float | None) -> str:
    return "not reached" if reached_s is None else f"{reached_s:.2f} s"


def main(config: Config, workdir: Path) -> int:
    """Prints a line for each seed and the medians; writes speedrun.json (after each seed)."""
    # What no run could do is refused before there is one; and the text is downloaded by no seed.
    text_to_validate_on(config, "the speedrun")
    result: dict[str, Any] = {
        **{"machine": describe_machine(), "target": TARGET, "config": config.flatten()},
        "seeds": [],
    }
    show(f"{'seed':>6}  {KINDS[0]:>12}  {KINDS[1]:>15}  loss at end")
    for seed in SEEDS:
        seeded = config.replace({"train.seed": seed})
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            entry = {kind: race(seeded, at / kind, at / "programs") for kind in KINDS}
        show(line(seed, entry))
        result["seeds"].append(entry)
        write_json(workdir / "speedrun.json", result)
    medians = [median_s(result["seeds"], kind) for kind in KINDS]
    show(f"median  {seconds_of(medians[0]):>12}  {seconds_of(medians[1]):>15}")
    show(f"from process start to a validation loss of {TARGET} (`windows` of 64 by default)")
    say_written(workdir, "speedrun.json")
    return 0 if None not in medians else 1
