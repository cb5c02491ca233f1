"""The benchmark's contenders on a GPU: in float32, which its products read as TF32, and in 16 bits.

Two kinds of row have no place on a CPU: cuDNN's LSTM, as `jax.experimental.rnn` and as PyTorch call
it, and mixed precision. What a contender takes is put beside the least that it could (`floors`).

Everything has to end within `LIMIT_S`, first calls included, because a GPU may be lent for minutes.
So each shape has a share of what is left, and a contender that would begin after it is left out and
named. On the first shapes only OPTIONAL ones are held to it. One that fails is named too, and the
others go on.

Ours would divide a batch among several GPUs, so let only one be seen (CUDA_VISIBLE_DEVICES).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.support import peers
from experiments.support.contenders import (
    VOCABULARY_SIZE,
    Shape,
    config_of,
    flops_per_step,
    initial_weights,
    make_batches,
    make_ours,
    on,
)
from experiments.support.floors import Floor, Peak, floor_of, peak_of
from experiments.support.timing import (
    MIN_ROUNDS,
    SETTLE_S,
    Timing,
    Warm,
    commit,
    describe_machine,
    in_turn,
    seconds,
)
from lstm_jax.data.batches import Batch, stack_batches
from lstm_jax.errors import shorten
from lstm_jax.model import ModelParams
from lstm_jax.run.signals import Interrupted
from lstm_jax.terminal import overwrite

# All contenders take part in these, and in the grid all but OPTIONAL.
NAMED = (
    Shape(32, 128, 896, 2),  # the record's
    Shape(64, 128, 512, 2),
    Shape(16, 1024, 768, 1),
)
GRID = (
    Shape(256, 64, 1024, 1),
    Shape(8, 128, 1536, 3),
    Shape(256, 32, 128, 1),
    Shape(64, 256, 384, 3),
    Shape(64, 128, 1536, 1),
    Shape(8, 2048, 256, 2),
)
SHAPES = NAMED + GRID
LIMIT_S = 240.0  # of all shapes; the last first call may end later
TURN_S = 0.1
CHECKED = 3  # steps whose losses are compared, before anything is timed
# Steps are waited for together, so that the device is at work while the host prepares the next.
QUEUED, LONG_STEP_S = 5, 0.02
PRODUCT_SIZE = 8192
BELOW_JAX = ("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
FLOAT32, BFLOAT16, FLOAT16 = "float32", "bfloat16", "float16"
OURS, OURS_NARROW, AUTODIFF = "lstm_jax", "lstm_jax bfloat16", "lstm_jax autodiff"
TORCH, CUDNN, APART = "torch", "cudnn", "torch float16, layers apart"
OPTIONAL = (AUTODIFF, "haiku", "flax", "equinox")


class Entrant(NamedTuple):
    """Who may take part: what its products read, and how its step is made of the weights."""

    precision: str
    make: Callable[[ModelParams], peers.Step]
    ours: bool = False  # takes batches with a leading axis
    torch: bool = False

    @property
    def first_call(self) -> int:
        """About how long it takes, in what torch's takes, which compiles nothing."""
        return 1 if self.torch else 4


class Entered(NamedTuple):
    """Who does, warmed up, with its first losses."""

    warm: Warm
    losses: list[float]


def entrants_of(shape: Shape, missing: dict[str, str]) -> dict[str, Entrant]:
    """Those for a shape, the ones that matter most first: the time may not be enough for all."""
    B, _, H, L = shape

    def ours(gradient: str | None = None, precision: str = FLOAT32) -> Entrant:
        config = config_of(shape, gradient, precision)
        return Entrant(precision, lambda _: make_ours(config), ours=True)

    def peer(make: Callable[..., peers.Step], precision: str = FLOAT32, **how: Any) -> Entrant:
        torch = make is peers.make_torch
        return Entrant(precision, lambda weights: make(weights, B, **how), torch=torch)

    entrants = {OURS: ours(), TORCH: peer(peers.make_torch)}
    for narrow in (BFLOAT16, FLOAT16):
        entrants[f"{TORCH} {narrow}"] = peer(peers.make_torch, narrow, narrow=narrow)
    if L > 1 and H <= 1024:
        entrants[APART] = peer(peers.make_torch, FLOAT16, narrow=FLOAT16, apart=True)
    entrants |= {CUDNN: peer(peers.make_cudnn), OURS_NARROW: ours(precision=BFLOAT16)}
    entrants[AUTODIFF] = ours("autodiff")
    entrants |= {name: peer(make) for name, make in peers.PEERS.items() if name != TORCH}
    left_out = {*missing, *(OPTIONAL if shape in GRID else ())}
    return {name: e for name, e in entrants.items() if library_of(name) not in left_out}


def library_of(name: str) -> str:
    """What has to be there for an entrant of that name; its own name for most."""
    return TORCH if name.startswith(TORCH) else name


def warm_up(entrant: Entrant, weights: ModelParams, batches: list[Batch]) -> Entered:
    """The first call, which compiles; some losses; then calls as they will be timed."""
    own = [stack_batches([batch]) for batch in batches] if entrant.ours else batches
    step = entrant.make(weights)
    losses: list[float] = []
    first = on(step, own)

    def once() -> None:
        losses.append(np.asarray(first.call()).item())

    first_s = seconds(once)
    step_s = [seconds(once) for _ in range(CHECKED - 1)][-1]
    many = on(step, own, queued=QUEUED if step_s < LONG_STEP_S else 1)
    many.call()
    return Entered(Warm(many, first_s, seconds(many.call)), losses)


def rounds_s(entered: dict[str, Entered]) -> float:
    """About how long the rounds of those will take."""
    turns = (max(TURN_S, warm.call_s) + SETTLE_S for warm, _ in entered.values())
    return MIN_ROUNDS * sum(turns)


def enter(
    shape: Shape, entrants: dict[str, Entrant], until: float, end: float
) -> tuple[dict[str, Entered], dict[str, str]]:
    """Those who take part, and why others do not; `until` and `end`: as `measure_all` has them."""
    batches, weights = make_batches(shape), initial_weights(shape)
    entered: dict[str, Entered] = {}
    out: dict[str, str] = {}
    for name, entrant in entrants.items():
        limit = end if shape in NAMED and name not in OPTIONAL else until
        if entered and time.perf_counter() + rounds_s(entered) > limit:
            out[name] = "no time was left"
            continue
        report(shape, f"warming up {name}")
        try:
            entered[name] = warm_up(entrant, weights, batches)
        except (Interrupted, BrokenPipeError):  # asked to stop
            raise
        except Exception as error:  # cuDNN may refuse a shape, say: the others go on
            out[name] = f"failed: {type(error).__name__}: {shorten(str(error))}"
    return entered, out


def report(shape: Shape, text: str, end: str = "") -> None:
    overwrite(f"{shape}: {text}", end)


def product_rate(dtype: Any) -> float:
    """FLOP/s of a large product, which is what the device can be brought to."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (PRODUCT_SIZE, PRODUCT_SIZE), dtype) for key in keys)
    product = jax.jit(jnp.matmul)

    def many() -> None:
        for _ in range(10):
            c = product(a, b)
        jax.block_until_ready(c)

    many()
    return 10 * 2 * PRODUCT_SIZE**3 / min(seconds(many) for _ in range(3))


def describe() -> tuple[dict[str, Any], Peak]:
    """The machine with all that decides what it does, and its peak."""
    device, machine = jax.devices()[0], describe_machine()
    rates = {FLOAT32: product_rate(jnp.float32), BFLOAT16: product_rate(jnp.bfloat16)}
    peak = peak_of(device.device_kind, rates[FLOAT32], rates[BFLOAT16])
    return {
        **machine,
        "versions": machine["versions"] | gpu_versions(),
        "commit": commit(),
        "runtime": " ".join(device.client.platform_version.split()),
        "product_tflops": {name: rate / 1e12 for name, rate in rates.items()},
        "peak_tflops": {FLOAT32: peak.float32 / 1e12, "narrow": peak.narrow / 1e12},
        "peak_source": peak.source,
    }, peak


def begin(
    shapes: Sequence[Shape], missing: dict[str, str]
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """The machine, and the entries of the shapes as they are measured."""
    end = time.perf_counter() + LIMIT_S
    machine, peak = describe()
    return machine, measure_all(shapes, missing, peak, end)


def gpu_versions() -> dict[str, str | None]:
    """Of what computes below JAX and PyTorch, as far as it says."""
    found: dict[str, str | None] = {}
    for name in BELOW_JAX:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if peers.why_missing(TORCH) is None:
        import torch

        found["torch's CUDA"] = torch.version.cuda
        found["torch's cuDNN"] = f"{torch.backends.cudnn.version()}"
    return found


def missing_here() -> dict[str, str]:
    """Who cannot take part on this machine, and why."""
    reasons = {name: peers.why_missing(name) for name in peers.PEERS}
    reasons[CUDNN] = peers.why_no_cudnn()
    return {name: reason for name, reason in reasons.items() if reason is not None}


def summarize(
    shape: Shape,
    timings: dict[str, Timing],
    entered: dict[str, Entered],
    entrants: dict[str, Entrant],
    peak: Peak,
) -> dict[str, Any]:
    """The entry of benchmark.json for a shape: a CPU's, and what only a GPU's has."""
    _, T, _, L = shape
    flops = flops_per_step(shape, VOCABULARY_SIZE)

    def entry(name: str, timing: Timing) -> dict[str, Any]:
        precision, losses = entrants[name].precision, entered[name].losses
        floor = floor_of(flops, T, L, peak.of(precision))
        return {
            "ms": timing.median * 1e3,
            "ms_quartiles": [1e3 * s for s in timing.quartiles],
            "precision": precision,
            "first_call_s": timing.first_s,
            "times_lstm_jax": ratio(timing, timings.get(OURS)),
            "us_per_step_of_time_and_layer": timing.median * 1e6 / (T * L),
            "gflops": flops / timing.median / 1e9,
            "floor_ms": floor.seconds * 1e3,
            "floor_of": floor.kind,
            "share_of_floor": floor.seconds / timing.median,
            "losses": [loss if np.isfinite(loss) else None for loss in losses],
            "ms_rounds": [1e3 * s for s in timing.rounds],
        }

    contenders = {name: entry(name, timing) for name, timing in timings.items()}
    floors = {name: floor_of(flops, T, L, peak.of(name)) for name in (FLOAT32, BFLOAT16)}
    return {
        **shape._asdict(),
        "vocabulary_size": VOCABULARY_SIZE,
        "flops_per_step": flops,
        "floors_ms": {name: in_ms(floor) for name, floor in floors.items()},
        "rounds": MIN_ROUNDS,
        "best_torch": TORCH if TORCH in contenders else None,
        "contenders": contenders,
    }


def ratio(timing: Timing, ours: Timing | None) -> float | None:
    return None if ours is None else timing.median / ours.median


def in_ms(floor: Floor) -> dict[str, Any]:
    return {
        "products": floor.products_s * 1e3,
        "latency_estimate": [1e3 * s for s in floor.latency_s],
    }


def measure(
    shape: Shape, entrants: dict[str, Entrant], until: float, end: float, peak: Peak
) -> dict[str, Any]:
    """Runs the contenders on a shape; its entry of benchmark.json."""
    entered, out = enter(shape, entrants, until, end)
    warm = {name: each.warm for name, each in entered.items()}
    timings = in_turn(warm, 0.0, lambda done: report(shape, f"round {done}"), TURN_S)
    report(shape, f"{MIN_ROUNDS} rounds", end="\n")
    return {**summarize(shape, timings, entered, entrants, peak), "left_out": out}


def measure_all(
    shapes: Sequence[Shape], missing: dict[str, str], peak: Peak, end: float
) -> Iterator[dict[str, Any]]:
    """An entry for each shape, as long as there is time until the end. What is left of it is shared
    out by who wants to take part."""
    wanted = [sum(e.first_call for e in entrants_of(s, missing).values()) for s in shapes]
    for number, shape in enumerate(shapes):
        now = time.perf_counter()
        if number and now > end:
            return
        share = (end - now) * wanted[number] / sum(wanted[number:])
        yield measure(shape, entrants_of(shape, missing), now + share, end, peak)


def table(entry: dict[str, Any]) -> str:
    """A shape's contenders, as aligned text."""
    width = len(APART)
    floors, T, L = entry["floors_ms"], entry["sequence_length"], entry["num_layers"]
    low, high = floors[FLOAT32]["latency_estimate"]
    shape = Shape(*(entry[field] for field in Shape._fields))
    lines = [
        f"{shape}: {entry['flops_per_step'] / 1e9:.3g} GFLOP per step; {entry['rounds']} rounds",
        f"the least: {floors[FLOAT32]['products']:.3g} ms for the products in TF32, "
        f"{floors[BFLOAT16]['products']:.3g} in 16 bits; for the latency of {T + L - 1} steps "
        f"{low:.3g} to {high:.3g} (an estimate)",
        f"{'':{width}}  ms per step         quartiles  first call s  x lstm_jax  us per T L  "
        f"TFLOP/s  of the least  {'by':8}  loss {CHECKED}",
    ]
    for name, c in entry["contenders"].items():
        first, third = c["ms_quartiles"]
        times, loss = c["times_lstm_jax"], c["losses"][-1]
        lines.append(
            f"{name:{width}}  {c['ms']:11.3f}  {f'{first:.3f} - {third:.3f}':>16}  "
            f"{c['first_call_s']:12.1f}  {'-' if times is None else f'{times:.2f}':>10}  "
            f"{c['us_per_step_of_time_and_layer']:10.2f}  {c['gflops'] / 1e3:7.1f}  "
            f"{c['share_of_floor']:12.0%}  {c['floor_of']:8}  "
            f"{'not finite' if loss is None else f'{loss:.4f}'}"
        )
    lines += [f"{name}: {why}" for name, why in entry["left_out"].items()]
    return "\n".join(lines)


def ratios(entries: list[dict[str, Any]]) -> str:
    """By shape, how many times as long as lstm_jax the fastest of the others takes: in float32, and
    in 16 bits beside our bfloat16."""
    lines = [f"{'times as long as lstm_jax':26}  {'float32':>24}  {'16 bits':>36}"]
    for entry in entries:
        contenders = entry["contenders"]
        narrow = {n: c for n, c in contenders.items() if c["precision"] != FLOAT32}
        wide = {n: c for n, c in contenders.items() if n not in narrow}
        cells = fastest_other(wide, OURS), fastest_other(narrow, OURS_NARROW)
        shape = Shape(*(entry[field] for field in Shape._fields))
        lines.append(f"{shape!s:26}  {cells[0]:>24}  {cells[1]:>36}")
    return "\n".join(lines)


def fastest_other(contenders: dict[str, Any], ours: str) -> str:
    """The fastest that is not ours, and its time by ours; a dash where one of them is not there."""
    others = [name for name in contenders if not name.startswith(OURS)]
    if ours not in contenders or not others:
        return "-"
    best = min(others, key=lambda name: contenders[name]["ms"])
    return f"{best} {contenders[best]['ms'] / contenders[ours]['ms']:.2f}"
