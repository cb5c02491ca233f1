"""What a training step adds to memory as sequences grow: everything kept, or a state every k steps.

Sequences of 100, 1000, … characters, up to --config.train.sequence_length, each step in a process
of its own: as it is, and with train.remat_every at the square root of T (or at what
--config.train.remat_every says). A step that would not fit the machine is left out, and says
what it would have needed. Its processes are as JAX leaves them: one device, and memory that goes
back to the system after each step. On two cores it takes some minutes, nearly all for T = 100,000.
"""

import contextlib
import itertools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.support.output import end_with, say_written
from experiments.support.timing import describe_machine, machine_in_words, seconds
from lstm_jax.config import Config, ModelConfig, TrainConfig
from lstm_jax.container import memory_limit
from lstm_jax.data.batches import Batch, Streams, stack_batches
from lstm_jax.errors import UserError
from lstm_jax.files import write_json
from lstm_jax.hyperparameters import Hyperparameters
from lstm_jax.run.figures import in_words
from lstm_jax.run.style import COLORS, DASHES, MARKERS, draw_from, new_figure, picture, save
from lstm_jax.terminal import show, write
from lstm_jax.train import init_train_state, make_dispatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

READS = (
    "model.hidden_size",
    "model.num_layers",
    "model.embedding_size",
    "train.batch_size",
    "train.sequence_length",
    "train.gradient",
    "train.remat_every",
)
IGNORES = ("compile_cache", "cpu_devices")  # its processes are as JAX leaves them
VOCABULARY_SIZE = 65
BUDGET_S = 30.0  # of timed steps, MAX_STEPS at most and one at least
MAX_STEPS = 5
MEMORY_SHARE = 0.9  # of the memory that is free: what a step may be expected to add
ROOT = Path(__file__).parent.parent.parent


def get_config() -> Config:
    """The longest sequence, and the shape of all."""
    return Config(
        model=ModelConfig(hidden_size=256), train=TrainConfig(batch_size=8, sequence_length=100_000)
    )


def lengths_up_to(longest: int) -> list[int]:
    """100, 1000, … and the longest."""
    return [*itertools.takewhile(longest.__gt__, (10**n for n in range(2, 9))), longest]


def configs_of(config: Config) -> list[Config]:
    """Every length without and with blocks."""
    configs = []
    for T in lengths_up_to(config.train.sequence_length):
        every = config.train.remat_every or max(1, round(math.sqrt(T)))
        for k in (0, every):
            changes = {"train.sequence_length": T, "train.remat_every": k}
            configs.append(config.replace(changes))
    return configs


def forget_peak() -> None:
    """Makes the peak start again from the memory held now, where the system can.

    Elsewhere the peak so far, the compiler's, hides what stays below it.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def kernel_value(file: str, name: str) -> int | None:
    """The bytes under a name in one of Linux's tables; None on other systems."""
    if not Path(file).exists():
        return None
    table = dict(line.split(":", 1) for line in Path(file).read_text().splitlines())
    return int(table[name].split()[0]) * 1024


def peak_bytes() -> int:
    """The most memory that this process has held, resident."""
    # Not ru_maxrss where there is a choice: Linux counts the process that started this one in.
    if peak := kernel_value("/proc/self/status", "VmHWM"):
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_bytes() -> int:
    """The memory that a process can still have; where the system does not tell, all there is."""
    free = kernel_value("/proc/meminfo", "MemAvailable") or os.sysconf(
        "SC_PHYS_PAGES"
    ) * os.sysconf("SC_PAGE_SIZE")
    return min(free, memory_limit() or sys.maxsize)


def make_batches(config: Config, vocabulary_size: int) -> Batch:
    """One batch of random ids, as training stacks them."""
    B, T = config.train.batch_size, config.train.sequence_length
    ids = np.random.default_rng(0).integers(vocabulary_size, size=B * T + 1)
    ids = ids.astype(np.min_scalar_type(vocabulary_size - 1))
    return stack_batches([Streams(ids, B, T).batch_at(0)])


def measure(config: Config, vocabulary_size: int = VOCABULARY_SIZE) -> dict[str, Any]:
    """A step of this config, in this process: what it adds to memory and how long it takes."""
    batches = jax.device_put(make_batches(config, vocabulary_size))
    hyper, state = Hyperparameters.of(config), init_train_state(config, vocabulary_size)
    dispatch = make_dispatch(config).lower(hyper, state, batches).compile()
    analysis, free = dispatch.memory_analysis(), free_bytes()
    planned = None if analysis is None else analysis.temp_size_in_bytes
    entry: dict[str, Any] = {"planned_bytes": planned, "free_bytes": free}
    if planned is not None and planned > MEMORY_SHARE * free:
        return {**entry, "left_out": f"needs {gigabytes(planned)}, of {gigabytes(free)} free"}

    def step() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(dispatch(hyper, state, batches))

    forget_peak()
    before = peak_bytes()
    first = seconds(step)
    times = [seconds(step) for _ in range(max(1, min(MAX_STEPS, int(BUDGET_S / first))))]
    return {
        **entry,
        "added_bytes": peak_bytes() - before,
        "step_s": statistics.median(times),
        "steps": len(times),
    }


def in_fresh_process(config: Config) -> dict[str, Any]:
    """`measure` in a process that has done nothing else."""
    train = config.train
    entry = {"T": train.sequence_length, "remat_every": train.remat_every}
    command = [
        sys.executable,
        "-m",
        "experiments.studies.long_sequences",
        json.dumps(config.flatten()),
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode < 0:  # the system ends what takes more memory than there is
        return {**entry, "left_out": f"ended by signal {-done.returncode}"}
    done.check_returncode()
    return {**entry, **json.loads(done.stdout.splitlines()[-1])}


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


HEADER = f"{'T':>8}  {'remat_every':>16}  {'planned MB':>10}  {'added MB':>9}  {'s per step':>10}"


def line(entry: dict[str, Any]) -> str:
    """An entry as a line of the table."""
    every = entry["remat_every"] or "-"
    planned = entry.get("planned_bytes")
    planned = "-" if planned is None else f"{planned / 1e6:.1f}"
    start = f"{entry['T']:8,}  {every:>16}  {planned:>10}  "
    if "left_out" in entry:
        return f"{start}left out: {entry['left_out']}"
    return f"{start}{entry['added_bytes'] / 1e6:9.1f}  {entry['step_s']:10.3f}"


def kept_of(entries: list[dict[str, Any]]) -> str:
    """What the entries of one kind keep, for the legend."""
    every = {entry["remat_every"] for entry in entries}
    if every == {0}:
        return "everything kept"
    return f"remat_every = {every.pop() if len(every) == 1 else 'k'}"


@picture
def draw(numbers: dict[str, Any], path: Path) -> None:
    """The memory that a step adds, and its time, against T; hollow: planned, not run."""
    title = "What a training step takes as its sequences grow"
    figure = new_figure(3.3, title, numbers["about"])
    memory, time = figure.subplots(1, 2)
    for blocked in (False, True):
        entries = [e for e in numbers["entries"] if bool(e["remat_every"]) == blocked]
        style = {"color": COLORS[blocked], "ls": DASHES[blocked], "marker": MARKERS[blocked]}
        draw_entries(memory, time, entries, style)
    memory.set(title="memory added (MB)")
    time.set(title="time (seconds)")
    for axes in (memory, time):
        axes.set(xscale="log", yscale="log", xmargin=0.12, ymargin=0.12)
        axes.set(xlabel="T, characters per sequence")
    memory.legend(loc="upper left")
    save(figure, path)


def draw_entries(
    memory: "Axes", time: "Axes", entries: list[dict[str, Any]], style: dict[str, Any]
) -> None:
    """The entries of one kind, with the k of those that keep a state every k steps."""
    run = [e for e in entries if "left_out" not in e]
    T = [e["T"] for e in run]
    # What stays below a page or two leaves no mark on the peak, and no point on a log axis.
    added = [max(e["added_bytes"], 1e5) / 1e6 for e in run]
    memory.plot(T, added, ms=4, label=kept_of(entries), **style)
    time.plot(T, [e["step_s"] for e in run], ms=4, **style)
    if planned := [e for e in entries if "left_out" in e and e.get("planned_bytes")]:
        needed = [e["planned_bytes"] / 1e6 for e in planned]
        hollow = style | {"ls": "", "mfc": "white", "label": "it would need"}
        memory.plot([e["T"] for e in planned], needed, ms=4, **hollow)
    below: dict[str, Any] = {"xytext": (0, -11), "textcoords": "offset points"}
    for entry, megabytes in zip(run, added, strict=True):
        if k := entry["remat_every"]:
            memory.annotate(f"k = {k}", (entry["T"], megabytes), ha="center", size=7, **below)


def about(config: Config, machine: dict[str, Any]) -> str:
    """The picture's subtitle."""
    side_by_side = f"{in_words(config.model)}, {config.train.batch_size} sequences side by side"
    gradient = f"gradient: {config.train.gradient}"
    return f"{side_by_side}, {gradient}. {machine_in_words(machine, JAX='jax')}."


def main(config: Config, workdir: Path) -> int:
    """Prints the table, writes long_sequences.json (after each line) and its picture."""
    if (backend := jax.default_backend()) != "cpu":
        raise UserError(
            f"this study measures a CPU's memory, and this is a {backend}: set JAX_PLATFORMS=cpu"
        )
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "config": {name: config.flatten()[name] for name in READS},
        "entries": [],
    }
    show(HEADER)
    for each in configs_of(config):
        entry = in_fresh_process(each)
        show(line(entry))
        result["entries"].append(entry)
        write_json(workdir / "long_sequences.json", result)
    if any("left_out" not in entry for entry in result["entries"]):
        numbers = {"about": about(config, result["machine"]), "entries": result["entries"]}
        draw_from(numbers, draw, workdir / "figures" / "long_sequences.png")
    say_written(workdir, "long_sequences.json", "figures/*")
    return 0


def measure_alone() -> None:
    """What in_fresh_process starts; by hand, also with another alphabet's size."""
    changes, *size = sys.argv[1:]
    write(json.dumps(measure(Config().replace(json.loads(changes)), *map(int, size))))


if __name__ == "__main__":
    end_with(measure_alone)
