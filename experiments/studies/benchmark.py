"""How long a training step takes, here and in other libraries, contenders in turn in one process.

Without further flags it runs the shapes below, in about a quarter of an hour on two cores; with
--config.model.hidden_size, --config.model.num_layers, --config.train.batch_size or
--config.train.sequence_length it runs that one shape. The peers (pip install '.[peers]') are
optional: one that is not there is named. What every contender does is written in `peers`.

On a GPU it has other shapes, and contenders in 16 bits (`benchmark_gpu`).
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies import benchmark_gpu
from experiments.support import peers
from experiments.support.contenders import (
    DISPATCH_STEPS,
    VOCABULARY_SIZE,
    Shape,
    base_config,
    config_of,
    flops_per_step,
    initial_weights,
    make_batches,
    make_ours,
    on,
)
from experiments.support.output import say_written
from experiments.support.timing import (
    Contender,
    Timing,
    Warm,
    describe_machine,
    in_turn,
    machine_in_words,
    warm_up,
)
from lstm_jax.config import Config
from lstm_jax.container import usable_cpus
from lstm_jax.data.batches import stack_batches
from lstm_jax.files import write_json
from lstm_jax.model import Interface
from lstm_jax.run.memory import batch_of_ids, check_run_fits
from lstm_jax.run.style import (
    FAINT,
    QUIET,
    STRONG,
    draw_from,
    new_figure,
    picture,
    save,
)
from lstm_jax.terminal import overwrite, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

READS = (
    "model.hidden_size",
    "model.num_layers",
    "train.batch_size",
    "train.sequence_length",
)
IGNORES = ("compile_cache",)  # it says how long compiling takes, so it compiles

SHAPES = (
    Shape(1, 25, 100, 1),  # the notebook's
    Shape(50, 50, 128, 2),  # char-rnn's
    Shape(32, 128, 256, 2),
    Shape(64, 128, 512, 1),
    Shape(64, 128, 512, 2),
    Shape(32, 128, 1024, 3),
)
BUDGET_S = 40.0  # of rounds for a shape; at least timing.MIN_ROUNDS of them
OURS, AUTODIFF, TORCH, PRODUCT = "lstm_jax", "lstm_jax autodiff", "torch", "large product"
# Where our step is this short, two rows more: many of our steps in one dispatch, as training makes
# them, and torch without threads, whose meeting at every product can cost more than they save.
SHORT_STEP_S = 0.1
MANY, TORCH_ALONE = f"lstm_jax, {DISPATCH_STEPS} steps per dispatch", "torch, 1 thread"
PRODUCT_SIZE = 2048


def get_config() -> Config:
    """The start of a shape of one's own."""
    return base_config()


def shape_of(config: Config) -> Shape:
    model, train = config.model, config.train
    return Shape(train.batch_size, train.sequence_length, model.hidden_size, model.num_layers)


def make_product() -> Callable[[], jax.Array]:
    """A large product of float32, whose rate is what the machine can be brought to."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (PRODUCT_SIZE, PRODUCT_SIZE)) for key in keys)
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, b))


def enter(shape: Shape, missing: dict[str, str]) -> dict[str, Warm]:
    """Makes every contender and warms it up, those that are missing aside."""
    batches = make_batches(shape)
    ours = [stack_batches([batch]) for batch in batches]
    entered = {}

    def add(name: str, contender: Contender) -> None:
        report(shape, f"warming up {name}")
        entered[name] = warm_up(contender)

    add(OURS, on(make_ours(config_of(shape)), ours))
    short = entered[OURS].call_s < SHORT_STEP_S
    if short:
        many = [stack_batches(batches)]
        add(MANY, on(make_ours(config_of(shape)), many, DISPATCH_STEPS))
    add(AUTODIFF, on(make_ours(config_of(shape, "autodiff")), ours))
    weights = initial_weights(shape)
    for name, make in peers.PEERS.items():
        if name not in missing:
            add(name, on(make(weights, shape.batch_size), batches))
    on_cores = jax.default_backend() == "cpu" and usable_cpus() > 1
    if short and TORCH in entered and on_cores:
        add(TORCH_ALONE, on(peers.make_torch(weights, shape.batch_size, threads=1), batches))
    add(PRODUCT, Contender(make_product()))
    return entered


def report(shape: Shape, text: str, end: str = "") -> None:
    overwrite(f"{shape}: {text}", end)


def summarize(shape: Shape, timings: dict[str, Timing]) -> dict[str, Any]:
    """The entry of benchmark.json for a shape."""
    flops = flops_per_step(shape, VOCABULARY_SIZE)
    product_gflops = 2 * PRODUCT_SIZE**3 / timings[PRODUCT].median / 1e9
    contenders = {}
    for name, timing in timings.items():
        if name == PRODUCT:
            continue
        gflops = flops / timing.median / 1e9
        contenders[name] = {
            "ms": timing.median * 1e3,
            "ms_quartiles": [1e3 * s for s in timing.quartiles],
            "compile_s": timing.compile_s,
            "times_lstm_jax": timing.median / timings[OURS].median,
            "gflops": gflops,
            "share_of_product": gflops / product_gflops,
            "ms_rounds": [1e3 * s for s in timing.rounds],
        }
    return {
        **shape._asdict(),
        "vocabulary_size": VOCABULARY_SIZE,
        "flops_per_step": flops,
        "product_gflops": product_gflops,
        "rounds": len(timings[OURS].rounds),
        "best_torch": fastest(contenders, (TORCH, TORCH_ALONE)),
        "best_jax_peer": fastest(contenders, [name for name in peers.PEERS if name != TORCH]),
        "contenders": contenders,
    }


def fastest(contenders: dict[str, Any], names: Sequence[str]) -> str | None:
    """The fastest of the named contenders that took part."""
    return min(
        (n for n in names if n in contenders), key=lambda n: contenders[n]["ms"], default=None
    )


def measure(shape: Shape, missing: dict[str, str]) -> dict[str, Any]:
    """Runs the contenders on a shape; its entry of benchmark.json."""
    warm = enter(shape, missing)
    timings = in_turn(warm, BUDGET_S, lambda done: report(shape, f"round {done}"))
    report(shape, f"{len(timings[OURS].rounds)} rounds", end="\n")
    return summarize(shape, timings)


def table(entry: dict[str, Any]) -> str:
    """A shape's contenders, as aligned text."""
    width = len(MANY)
    lines = [
        f"{title(entry)}: {entry['flops_per_step'] / 1e9:.3g} GFLOP per step; a {PRODUCT} runs at "
        f"{entry['product_gflops']:.0f} GFLOP/s; {entry['rounds']} rounds",
        f"{'':{width}}  ms per step         quartiles  compile s  x lstm_jax  GFLOP/s  of product",
    ]
    for name, c in entry["contenders"].items():
        low, high = c["ms_quartiles"]
        lines.append(
            f"{name:{width}}  {c['ms']:9.2f}  {f'{low:.2f} - {high:.2f}':>18}  "
            f"{c['compile_s']:9.1f}  {c['times_lstm_jax']:10.2f}  {c['gflops']:7.1f}  "
            f"{c['share_of_product']:10.0%}"
        )
    return "\n".join(lines)


def ratios(entries: list[dict[str, Any]]) -> str:
    """How many times as long as lstm_jax torch, the best JAX peer and autodiff take, by shape."""
    lines = [f"{'times as long as lstm_jax':26}  {'torch':>20}  {'best JAX peer':>13}  autodiff"]
    for entry in entries:
        cells = []
        for name in (entry["best_torch"], entry["best_jax_peer"], AUTODIFF):
            taken = "-" if name is None else f"{entry['contenders'][name]['times_lstm_jax']:.2f}"
            label = "" if name in (None, TORCH, AUTODIFF) else f"{name.removeprefix('torch, ')} "
            cells.append(label + taken)
        lines.append(f"{title(entry):26}  {cells[0]:>20}  {cells[1]:>13}  {cells[2]:>8}")
    return "\n".join(lines)


def title(entry: dict[str, Any]) -> str:
    return str(Shape(*(entry[field] for field in Shape._fields)))


NAMES = {
    OURS: "lstm_jax, by hand",
    AUTODIFF: "lstm_jax, autodiff",
    TORCH: "PyTorch",
    "haiku": "Haiku",
    "flax": "Flax",
    "equinox": "Equinox",
    benchmark_gpu.CUDNN: "cuDNN by JAX",
    benchmark_gpu.OURS_NARROW: "lstm_jax, bfloat16",
    f"{TORCH} bfloat16": "PyTorch, bfloat16",
    f"{TORCH} float16": "PyTorch, float16",
    benchmark_gpu.APART: "PyTorch, layers apart",
}
DEFAULTS = (OURS, benchmark_gpu.OURS_NARROW)  # of their precision; drawn strong
PANEL, BAR = 1.35, 0.19  # inches: of a panel at the least, and of each name in it


def drawn_of(result: dict[str, Any]) -> dict[str, Any]:
    """What of the report is drawn."""
    shown = ("ms", "ms_quartiles")
    shapes = [
        {name: entry[name] for name in (*Shape._fields, "rounds", "best_torch")}
        | {
            "contenders": {
                name: {key: timing[key] for key in shown}
                for name, timing in entry["contenders"].items()
            }
        }
        for entry in result["shapes"]
    ]
    return {"machine": result["machine"], "shapes": shapes}


@picture
def draw(result: dict[str, Any], path: Path) -> None:
    """Milliseconds per step of every contender, a panel per shape, with quartiles as whiskers.

    Of torch's two settings the faster one is shown.
    """
    entries = result["shapes"]
    machine = machine_in_words(result["machine"], JAX="jax", PyTorch="torch")
    what = "The same step in each library: B sequences of T characters, L layers of H units."
    spread = "; whiskers are quartiles" if any(entry["rounds"] > 1 for entry in entries) else ""
    about = f"{what} {machine}{spread}."
    columns = min(2, len(entries))
    rows = math.ceil(len(entries) / columns)
    names = [name for name in NAMES if any(name in entry["contenders"] for entry in entries)]
    height = max(PANEL, BAR * len(names))
    figure = new_figure(
        0.8 + height * rows, "Milliseconds per training step (shorter is faster)", about
    )
    panels = [*figure.subplots(rows, columns, squeeze=False).flat]
    for number, (axes, entry) in enumerate(zip(panels, entries, strict=False)):
        draw_shape(axes, entry, names, named=number % columns == 0)
    for axes in panels[len(entries) :]:
        axes.set_axis_off()
    save(figure, path)


def draw_shape(axes: "Axes", entry: dict[str, Any], names: list[str], named: bool) -> None:
    """A shape's panel with a place for each name; `named`: with the names beside it."""
    contenders = entry["contenders"]
    shown = {name: name for name in names if name in contenders}
    if entry["best_torch"]:
        shown[TORCH] = entry["best_torch"]
    places = [names.index(name) for name in shown]
    ms = [contenders[name]["ms"] for name in shown.values()]
    quartiles = [contenders[name]["ms_quartiles"] for name in shown.values()]
    colors = [STRONG if name in DEFAULTS else FAINT for name in shown]
    spread = np.abs(np.array(quartiles).T - ms)
    axes.barh(places, ms, 0.72, color=colors, xerr=spread, ecolor=QUIET, error_kw={"lw": 0.8})
    highest = max(high for _, high in quartiles)
    for place, value, (_, high), name in zip(places, ms, quartiles, shown, strict=True):
        weight = "bold" if name in DEFAULTS else "normal"
        text = f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
        axes.text(high + 0.02 * highest, place, text, size=7.5, va="center", weight=weight)
    axes.set_yticks(range(len(names)), [NAMES[name] for name in names] if named else [])
    axes.set_xticks([])
    axes.set(xlim=(0, 1.25 * highest), ylim=(len(names) - 0.4, -0.6))
    axes.set_title(title(entry), loc="left")
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def main_unchanged(workdir: Path) -> int:
    """`main` for all of SHAPES."""
    return compare(benchmark_gpu.SHAPES if on_gpu() else SHAPES, workdir)


def main(config: Config, workdir: Path) -> int:
    """Prints a table for the config's shape, writes benchmark.json and its picture."""
    check_run_fits(config, Interface.of(VOCABULARY_SIZE), batch_of_ids(config))
    return compare((shape_of(config),), workdir)


def missing_here() -> dict[str, str]:
    """Who cannot take part on this machine, and why."""
    reasons = {name: peers.why_missing(name) for name in peers.PEERS}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def compare(shapes: Sequence[Shape], workdir: Path) -> int:
    """Measures one shape after the other; what is measured is written down after each."""
    gpu = on_gpu()
    missing = benchmark_gpu.missing_here() if gpu else missing_here()
    for name, reason in missing.items():
        show(f"{name}: {reason}")
    if gpu:
        machine, entries = benchmark_gpu.begin(shapes, missing)
    else:
        machine, entries = describe_machine(), (measure(shape, missing) for shape in shapes)
    result: dict[str, Any] = {"machine": machine, "missing": missing, "shapes": []}
    for entry in entries:
        result["shapes"].append(entry)
        show(f"\n{benchmark_gpu.table(entry) if gpu else table(entry)}")
        write_json(workdir / "benchmark.json", result)
    for shape in shapes[len(result["shapes"]) :]:
        show(f"{shape}: no time was left")
    show(f"\n{benchmark_gpu.ratios(result['shapes']) if gpu else ratios(result['shapes'])}")
    draw_from(drawn_of(result), draw, workdir / "figures" / "benchmark.png")
    say_written(workdir, "benchmark.json", "figures/*")
    return 0
