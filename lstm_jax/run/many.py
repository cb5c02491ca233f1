"""Many runs side by side, in one program: each device trains some of them.

A step of a small model is too short for two cores to share: one that trains a run of its own wastes
nothing. On a GPU, many small products are one large one (`jax.vmap`). Each run keeps its folder, as
if it had been alone, and its numbers to rounding.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Lowered, Wrapped

from lstm_jax.config import Config
from lstm_jax.data.batches import Batch
from lstm_jax.errors import UserError
from lstm_jax.gradients.lanes import CORES_APART_BELOW, LANES
from lstm_jax.heads import Head
from lstm_jax.hyperparameters import Hyperparameters, Program, structure_of
from lstm_jax.model import Interface
from lstm_jax.run.compiling import compile_dispatches, dispatch_sizes, next_boundary
from lstm_jax.run.loop import Run, head_of
from lstm_jax.run.memory import batch_bytes, memory_bytes, state_bytes
from lstm_jax.run.nonfinite import finite_steps
from lstm_jax.run.progress import Progress
from lstm_jax.run.signals import BROKEN_PIPE, Interrupted, catch_signals
from lstm_jax.terminal import say
from lstm_jax.train import StepInfo, TrainState, make_train_step, state_placement

RUNS = "runs"
MEMORY_SHARE = 1 / 8  # of the memory: what is counted of a run is the least that it takes
MOST = 64  # runs in one program


def side_by_side(config: Config, interface: Interface, batch: Batch, wanted: int) -> int:
    """How many runs of a config train in one program, of as many as are wanted; 1: it never pays.

    On a CPU one per core, where the cores are devices: several on one core take as long as one
    after another (BUILD_NOTES.md).
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        apart = max(config.model.layer_sizes) < CORES_APART_BELOW
        return in_even_rounds(wanted, len(devices)) if apart else 1
    each = state_bytes(config, interface) + batch_bytes(config, interface, batch)
    fit = int(MEMORY_SHARE * memory_bytes() / each)
    return in_even_rounds(wanted, max(1, min(MOST, fit)))


def in_even_rounds(wanted: int, most: int) -> int:
    """How many at a time, `most` at the most, where no round has far fewer than the others: one
    that is not full costs as much as one that is."""
    rounds = -(-wanted // most)
    return -(-wanted // rounds)


def shape_of(config: Config) -> tuple[Config, int]:
    """What runs must have in common to train side by side: the program, and when it ends."""
    return structure_of(config), config.train.steps


def devices_of(count: int) -> Mesh:
    """As many devices as divide so many runs evenly."""
    devices = jax.local_devices()
    return Mesh(devices[: max(n for n in range(1, len(devices) + 1) if count % n == 0)], (RUNS,))


@lru_cache(maxsize=8)
def many_steps(program: Program, head: Head, mesh: Mesh) -> Wrapped:
    """The compiled function that makes K steps of every run: all that goes in and comes out has a
    leading axis of runs, divided among the devices. The states are donated."""
    alone = Mesh(mesh.devices.ravel()[:1], (LANES,))
    train_step = make_train_step(program.structure, head, alone)

    def of_one(
        hyper: Hyperparameters, state: TrainState, batches: Batch
    ) -> tuple[TrainState, StepInfo]:
        return lax.scan(partial(train_step, hyper), state, batches)

    def on_a_device(*runs: Any) -> tuple[TrainState, StepInfo]:
        if runs[0].seed.shape[0] > 1:
            return jax.vmap(of_one)(*runs)
        # Without the axis: it would change the products' layout, and so their speed.
        ended = of_one(*take(runs, 0))
        return jax.tree.map(lambda leaf: leaf[None], ended)

    shard = jax.shard_map(
        on_a_device, mesh=mesh, in_specs=P(RUNS), out_specs=P(RUNS), check_vma=False
    )
    place = NamedSharding(mesh, P(RUNS))
    return jax.jit(shard, donate_argnums=1, in_shardings=place, out_shardings=place)


def stack(trees: Sequence[Any]) -> Any:
    """Trees of arrays as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get([*trees]))


def take(tree: Any, n: int) -> Any:
    """The n-th of trees that are stacked."""
    return jax.tree.map(lambda leaf: leaf[n], tree)


def train_together(runs: Sequence[Run], width: int) -> dict[Run, UserError]:
    """Trains runs of one shape (`shape_of`) to their end, those at the same step side by side.

    Args:
      width: of the program: how many there are at the most. A run's bits are the same whoever else
        is left, because others stand in for those that are missing.

    Returns what failed, while the others went on; raises Interrupted, after saving, as `Run.train`.
    """
    left = [run for run in runs if run.step < run.config.train.steps and not run.why_over()]
    errors: dict[Run, UserError] = {}
    for _, at_a_step in itertools.groupby(sorted(left, key=step_of), key=step_of):
        together = Together([*at_a_step], width)
        together.train()
        errors |= together.errors
    for run in runs:
        if over := run.why_over():
            say(f"{run.title}: ended at step {run.step:,} of {run.config.train.steps:,}: {over}")
    return errors


def step_of(run: Run) -> int:
    return run.step


class Together:
    """Runs of one shape at one step, up to their end; `width` as `train_together` takes it."""

    def __init__(self, runs: Sequence[Run], width: int) -> None:
        self.runs, self.errors = [*runs], dict[Run, UserError]()
        self._filled = [*runs, *[runs[0]] * (width - len(runs))]
        config, mesh = runs[0].config, devices_of(width)
        self._config = config.train
        self._steps = many_steps(Program.of(config), head_of(runs[0].task), mesh)
        self._place, self._alone = NamedSharding(mesh, P(RUNS)), state_placement(config)
        self._hyper = self._placed([run.hyper for run in self._filled])
        self._states = self._placed([run.state for run in self._filled])

    def _placed(self, trees: Sequence[Any]) -> Any:
        return jax.device_put(stack(trees), self._place)

    def train(self) -> None:
        """As `Run.train`: a run that fails is left out and noted in `errors`."""
        with catch_signals() as received:
            self._compile()
            first = self.runs[0]
            steps, seconds = self._config.steps, first.journal.seconds
            with closing(Progress(steps, first.step, first.task.unit, seconds)) as progress:
                self._loop(progress, received)
                for run in self.runs:
                    if received:
                        self._attempt(run, run.save)
                    self._attempt(run, run.checkpoints.wait)
        if received:
            raise Interrupted(received[0], min(run.step for run in self.runs))

    def _compile(self) -> None:
        """Compiles for all the steps to come; a run's share of the time is its own."""
        first = self.runs[0]

        def lower(batches: Batch) -> Lowered:
            return self._steps.lower(
                self._hyper, self._states, stack([batches] * len(self._filled))
            )

        batch = first.task.training_batch(first.step)
        seconds = compile_dispatches(lower, batch, dispatch_sizes(first.step, self._config))
        for run in self.runs:
            run.journal.compile_seconds += seconds / len(self.runs)
        say(f"compiled in {seconds:.1f} s")

    def _loop(self, progress: Progress, received: list[int]) -> None:
        train, step = self._config, self.runs[0].step
        unread: tuple[int, StepInfo] | None = None
        clock = time.perf_counter()
        while step < train.steps and self._going() and not received:
            boundary = next_boundary(step, train)
            K = min(train.steps_per_dispatch, boundary - step)
            batches = stack([run.batches(step, step + K) for run in self._filled])
            self._states, infos = self._steps(self._hyper, self._states, batches)
            step += K
            if unread is not None:
                clock = self._report(progress, *unread, clock)
            unread = step, infos
            if step == boundary:
                self._report(progress, *unread, clock, boundary=True)
                unread, clock = None, time.perf_counter()
            if progress.reader_left:
                received.append(BROKEN_PIPE)
        if unread is not None:
            self._report(progress, *unread, clock)
        self._hand_out()

    def _going(self) -> list[Run]:
        """The runs that have neither failed nor ended early."""
        return [run for run in self.runs if run not in self.errors and not run.why_over()]

    def _hand_out(self) -> None:
        """Gives each run that goes on its state."""
        states = jax.device_get(self._states)
        for run in self._going():
            run.state = jax.device_put(take(states, self.runs.index(run)), self._alone)

    def _report(
        self, progress: Progress, step: int, infos: StepInfo, clock: float, boundary: bool = False
    ) -> float:
        """As `Run._report`, of each; a run's seconds are its share of them all."""
        infos = jax.tree.map(np.asarray, jax.device_get(infos))
        now = time.perf_counter()
        going, shown = self._going(), True
        if boundary or not finite_steps(infos).all():
            self._hand_out()
        for run in going:
            of_run = take(infos, self.runs.index(run))
            seconds = (now - clock) / len(going)
            show = progress if shown else None
            self._attempt(run, partial(run.report, show, step, of_run, seconds, boundary))
            shown = False
        if boundary:  # an average may have begun, a rate been lowered
            self._states = self._placed([run.state for run in self._filled])
        return now

    def _attempt(self, run: Run, action: Callable[[], None]) -> None:
        """Carries something out for a run that has not failed, and notes where it does."""
        if run not in self.errors:
            try:
                action()
            except UserError as error:
                self.errors[run] = error
