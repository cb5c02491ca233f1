"""What is left of an error on its way back in time, by the kind of cell, before and after training.

The norms of dh_T/dh_t and of dm_T/dm_t by the lag T - t: of a plain recurrent network, of the LSTM
of 1997, and of one with forget gates whose bias begins at 0, 1 and 5, on the adding problem. T is a
sequence's last step, where its one target is. m is the memory: c of an LSTM, s of the network of
1997, and h itself of the plain one.

    all ways    from one to the other, through the gates and outputs of the steps between as well:
                the block of h by h, or of m by m, in the product of every step's Jacobian. That is
                of the whole state by the whole state before, so what else is in it at t is held.
    alone       the way along the memory alone: the product of each step's block of m by m. Those
                are an LSTM's forget gates; in the network of 1997 the product is exactly 1. The
                truncated rule follows no other way.
    norm        spectral: by how much the length of an error changes at the most. Where that
                vanishes no error arrives, and a single unit that keeps its errors is enough to
                learn from. A mean over directions (Frobenius over sqrt(H)) would hide it among H.

They are taken in float64, along sequences that were not trained on: geometric means and quartiles.
The network of 1997 has blocks of two cells, and initial weights like the others. It is trained by
its own rule, the truncated one, at twice the rate; the others by all of BPTT. Runs that are done
are not done again, so the command can be stopped and given again. On one core it takes some two
minutes.
"""

import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from experiments.recipes import adding
from experiments.support.output import say_written
from experiments.support.timing import describe_machine
from lstm_jax.cells import CELLS, cell_of
from lstm_jax.config import Config, ModelConfig
from lstm_jax.data.batches import Batch
from lstm_jax.errors import UserError
from lstm_jax.files import write_json
from lstm_jax.run.loop import Run, check_run
from lstm_jax.run.style import (
    COLORS,
    DASHES,
    REFERENCE,
    draw_from,
    new_figure,
    picture,
    plain,
    save,
)
from lstm_jax.tasks import TASKS
from lstm_jax.tasks.adding import TOLERANCE
from lstm_jax.terminal import say, show
from lstm_jax.train import init_train_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODELS: dict[str, dict[str, Any]] = {
    "plain RNN": {"model.cell": "elman"},
    "LSTM of 1997": {
        "model.cell": "memory_blocks",
        "model.block_size": 2,
        "train.gradient": "truncated",
        "optimizer.learning_rate": 6e-3,
    },
    "forget bias 0": {"model.forget_bias": 0.0},
    "forget bias 1": {"model.forget_bias": 1.0},
    "forget bias 5": {"model.forget_bias": 5.0},
}
READS = (
    "data.length",
    "data.held_out",
    "model.hidden_size",
    "train.batch_size",
    "train.seed",
    "train.steps",
    "train.validate_every",
)
SEQUENCES = 32
UNSEEN = 2**30  # a step that no run comes to: its batch is not trained on
MEMORIES = ("c", "s", "h")  # a state's memory is the first of these fields that it has
WHEN = ("at initialisation", "after training")
SHOWN = (1, 10, 50, 100, 500, 1000)  # lags of the table, as far as the sequences go
POINTS = 50  # of a line in the picture, and its start
# In the order of MODELS: of two lines that lie together one is dark and one light.
COLORS_IN_TURN = [COLORS[n] for n in (1, 0, 4, 3, 2)]
NAME_HEIGHT = 0.055  # of a line's name, as a share of a panel's


def get_config() -> Config:
    return adding.get_config().replace({"model.chrono": ModelConfig.chrono})


class Flow(NamedTuple):
    """Matrices KxBx…, the first of them after one step back."""

    h: Array  # dh_T/dh_t, all ways
    memory: Array  # dm_T/dm_t, all ways
    alone: Array  # dm_T/dm_t along the memory alone


def memory_of(state: Any) -> str:
    """The field of a state, or of its type, that is the memory."""
    return next(name for name in MEMORIES if name in state._fields)


def last_steps(layer: Any, batch: Batch, count: int) -> tuple[Any, Any]:
    """The state before each of the last `count` steps of every sequence, and what that step reads:
    KxBx…, the very last first."""
    cell, (T, B) = cell_of(layer), batch.inputs.shape[:2]
    prepared = cell.prepare(layer, jnp.asarray(batch.inputs, layer.W.dtype), None)

    def step(state: Any, prepared: Any) -> tuple[Any, Any]:
        return cell.step(layer, state, prepared), state

    _, before = lax.scan(step, cell.init_state(layer, B), prepared)
    lengths_B = jnp.full(B, T) if batch.live is None else jnp.sum(batch.live, axis=0)
    steps_KxB = lengths_B[None] - 1 - jnp.arange(count)[:, None]
    return jax.tree.map(lambda a: a[steps_KxB, jnp.arange(B)[None]], (before, prepared))


def jacobian(layer: Any, state: Any, prepared: Any) -> Array:
    """One step of one lane: its whole state by the whole state before, field after field."""
    state, prepared = jax.tree.map(lambda a: a[None], (state, prepared))
    flat, unravel = ravel_pytree(state)

    def step(flat: Array) -> Array:
        return ravel_pytree(cell_of(layer).step(layer, unravel(flat), prepared))[0]

    return jax.jacfwd(step)(flat)


@partial(jax.jit, static_argnames="count")
def flow_back(layer: Any, batch: Batch, count: int) -> Flow:
    """The end of each sequence by its last `count` states, each one step further back; no sequence
    has fewer steps."""
    before, prepared = last_steps(layer, batch, count)
    ends = np.cumsum([0, *(field.shape[-1] for field in before)]).tolist()
    spans = dict(zip(before._fields, (slice(*two) for two in pairwise(ends)), strict=True))
    h, m = spans["h"], spans[memory_of(before)]

    def walk(ways: tuple[Array, Array], steps: Any) -> tuple[tuple[Array, Array], Flow]:
        one_step = jax.vmap(jacobian, (None, 0, 0))(layer, *steps)
        every, alone = ways[0] @ one_step, ways[1] @ one_step[:, m, m]
        return (every, alone), Flow(every[:, h, h], every[:, m, m], alone)

    shape = before.h.shape[1], ends[-1], ends[-1]
    start = jnp.broadcast_to(jnp.eye(ends[-1], dtype=before.h.dtype), shape)
    return lax.scan(walk, (start, start[:, m, m]), (before, prepared))[1]


def logs_of_norms(layer: Any, batch: Batch, count: int) -> dict[str, np.ndarray]:
    """log10 of the norms of a Flow, by its fields: (K+1)xB, by the lag from 0 on."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        precise = jax.tree.map(lambda a: np.asarray(a, np.float64), layer)
        flow = jax.device_get(flow_back(precise, batch, count))
    logs = {}
    for name, matrices in flow._asdict().items():
        norms_KxB = np.linalg.norm(matrices, 2, axis=(-2, -1))
        # Below 1e-308 there is nothing to take the logarithm of: NaN, and a gap in the picture.
        logs_KxB = np.log10(norms_KxB, out=np.full_like(norms_KxB, np.nan), where=norms_KxB > 0)
        logs[name] = np.concatenate([np.zeros_like(logs_KxB[:1]), logs_KxB])
    return logs


def over_sequences(logs_KxB: np.ndarray) -> dict[str, list[float | None]]:
    """The mean of logarithms and their quartiles; None where one of them is missing."""
    low, high = np.quantile(logs_KxB, (0.25, 0.75), axis=1)
    lines = {"mean": np.mean(logs_KxB, axis=1), "low": low, "high": high}
    return {
        name: [None if np.isnan(value) else round(float(value), 3) for value in line]
        for name, line in lines.items()
    }


def measure(name: str, config: Config, folder: Path) -> dict[str, Any]:
    """Trains a model, or goes on, and follows errors back before and after."""
    say(name)
    task = TASKS["adding"].of(config)
    with Run(config, task, folder, name) as run:
        run.train()
        run.summary()
        last, trained = [*run.journal.lines()][-1], run.state.params
    initial = init_train_state(config, task.interface).params
    batch = TASKS["adding"].of(config.replace({"train.batch_size": SEQUENCES})).batch_at(UNSEEN)
    entry = {
        "name": name,
        "memory": memory_of(CELLS[config.model.cell].state),
        **{part: last[part] for part in ("val_loss", "val_wrong", "seconds")},
    }
    for when, params in zip(WHEN, (initial, trained), strict=True):
        logs = logs_of_norms(params.layers[0], batch, config.data.length)
        entry[when] = {part: over_sequences(each) for part, each in logs.items()}
    return entry


def header(shown: list[int]) -> str:
    """The table's first two lines."""
    width = 8 * len(shown)
    lags = "".join(f"{lag:>8}" for lag in shown)
    above = "".join(f"  {when:>{width}}" for when in WHEN)
    return f"{'norm by lag T - t':30}{above}\n{'':30}  {lags}  {lags}  wrong"


def rows(entry: dict[str, Any], shown: list[int]) -> str:
    """A model's lines of the table: h, memory, memory alone."""
    m = entry["memory"]
    names = {"h": "dh_T/dh_t"}
    if m != "h":
        names |= {"memory": f"d{m}_T/d{m}_t", "alone": f"  along {m} alone"}
    lines = []
    for part, name in names.items():
        line = f"{entry['name'] if part == 'h' else '':14}{name:16}"
        for when in WHEN:
            means = (entry[when][part]["mean"][lag] for lag in shown)
            line += "  " + "".join(f"{scientific(mean):>8}" for mean in means)
        lines.append(line + (f"  {entry['val_wrong']:.4f}" if part == "h" else ""))
    return "\n".join(lines)


def scientific(log: float | None) -> str:
    """A number of which this is the logarithm."""
    return "<1e-308" if log is None else f"{10**log:.1e}"


def drawn_of(config: Config, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What is drawn, and nothing more: every few lags, and quartiles of the memory alone."""
    length = config.data.length
    lags = [*range(0, length + 1, max(1, length // POINTS))]

    def thinned(line: list[float | None]) -> list[float | None]:
        return [line[lag] for lag in lags]

    models = []
    for entry in entries:
        model = {name: entry[name] for name in ("name", "memory", "val_wrong")}
        for when in WHEN:
            model[when] = {part: thinned(line) for part, line in entry[when]["memory"].items()}
            model[when]["h"] = thinned(entry[when]["h"]["mean"])
        models.append(model)
    about = (
        f"{config.model.hidden_size} units, adding problem (T = {length}). Solid: spectral norm of "
        "∂c_T/∂c_t (of 1997: s; plain RNN: h), geometric mean and quartiles of "
        f"{SEQUENCES} sequences; dashed: of ∂h_T/∂h_t. Forget bias: of an LSTM with forget gates. "
        f"Wrong: off by {TOLERANCE} or more."
    )
    return {"about": about, "lags": lags, "models": models}


@picture
def draw(numbers: dict[str, Any], path: Path) -> None:
    """Norms by lag, a panel before training and one after; each line is named at its end."""
    title = "What is left of an error on its way back through a plain RNN and LSTMs"
    figure = new_figure(4.1, title, numbers["about"], 8.0)
    panels = figure.subplots(1, 2, sharey=True)
    lags, models = numbers["lags"], [*zip(numbers["models"], COLORS_IN_TURN, strict=False)]
    for axes, when in zip(panels, WHEN, strict=True):
        for model, color in models:
            draw_flow(axes, lags, model[when], model["memory"] != "h", color)
        axes.axhline(0, color=REFERENCE, lw=0.9, ls=":", zorder=1.5)
        axes.set(title=when, xlabel="steps back in time, T − t", xlim=(0, lags[-1]))
        axes.yaxis.set_major_formatter(lambda log, _: f"$10^{{{log:.0f}}}$")
    panels[0].set_ylabel("norm of the derivative")
    for axes, when in zip(panels, WHEN, strict=True):
        names = [model["name"] + outcome(model, when) for model, _ in models]
        ends = [last_of(model[when]["mean"]) for model, _ in models]
        name_ends(axes, lags[-1], ends, names, [color for _, color in models])
    save(figure, path)


def draw_flow(
    axes: "Axes", lags: list[int], lines: dict[str, Any], apart_from_h: bool, color: str
) -> None:
    """The lines of one model: its memory's with quartiles and, where that is not h, h's."""
    drawn = {part: [math.nan if y is None else y for y in line] for part, line in lines.items()}
    axes.fill_between(lags, drawn["low"], drawn["high"], color=color, alpha=0.25, lw=0)
    axes.plot(lags, drawn["mean"], color=color, lw=1.9)
    if apart_from_h:
        axes.plot(lags, drawn["h"], color=color, lw=0.9, ls=DASHES[1])


def outcome(model: dict[str, Any], when: str) -> str:
    """How well a model has learnt, where it has been trained."""
    wrong = 100 * model["val_wrong"]
    return "" if when == WHEN[0] else f": {wrong:.{0 if wrong >= 10 else 1}f} % wrong"


def last_of(line: list[float | None]) -> float:
    """The last value that there is."""
    return next(value for value in reversed(line) if value is not None)


def name_ends(
    axes: "Axes", x: float, ends: list[float], names: list[str], colors: list[str]
) -> None:
    """Names on the right of the lines that end at x, far enough apart to be read."""
    low, high = axes.get_ylim()
    for end, place, name, color in zip(
        ends, apart(ends, NAME_HEIGHT * (high - low)), names, colors, strict=True
    ):
        axes.annotate(
            plain(name),
            (x, end),
            (1.06 * x, place),
            annotation_clip=False,
            va="center",
            size=8,
            color=REFERENCE,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 1.9, "shrinkA": 1, "shrinkB": 0},
        )


def apart(values: list[float], gap: float) -> list[float]:
    """The values, those moved apart by as little as may be that are closer than the gap."""
    order = np.argsort(values)
    placed = np.array(values)[order]
    for _ in range(100):  # each moves a neighbour at most
        for n in range(len(placed) - 1):
            missing = max(0.0, gap - (placed[n + 1] - placed[n]))
            placed[n : n + 2] += [-missing / 2, missing / 2]
    return placed[np.argsort(order)].tolist()


def main(config: Config, workdir: Path) -> int:
    """Prints the table a model at a time, writes gradient_flow.json and its picture."""
    configs = {name: config.replace(changes) for name, changes in MODELS.items()}
    folders = {name: workdir / name.replace(" ", "_") for name in MODELS}
    for name, each in configs.items():  # before the first of them is trained
        try:
            check_run(each, TASKS["adding"].of(each), folders[name])
        except UserError as error:
            raise UserError(f"the model `{name}`: {error}") from error
    shown = [lag for lag in SHOWN if lag <= config.data.length]
    entries: list[dict[str, Any]] = []
    for name, each in configs.items():
        entries.append(measure(name, each, folders[name]))
        if len(entries) == 1:
            show(header(shown))
        show(rows(entries[-1], shown))
    written = {
        "machine": describe_machine(),
        "config": {name: config.flatten()[name] for name in READS},
        "models": entries,
    }
    write_json(workdir / "gradient_flow.json", written)
    draw_from(drawn_of(config, entries), draw, workdir / "figures" / "gradient_flow.png")
    say_written(workdir, "gradient_flow.json", "figures/*")
    return 0
