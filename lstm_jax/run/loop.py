"""The training loop: a for-loop over dispatches.

while step < steps:
    state, infos = dispatch(state, batches)      # K steps, on the device
    read the infos of the dispatch before        # never waits for the one under way
    every N steps: validate, sample, save
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jax.stages import Wrapped

from lstm_jax.averaging import begin, is_waiting
from lstm_jax.config import Config
from lstm_jax.data.batches import Batch, stack_batches
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import delete_parts, named, write_json
from lstm_jax.heads import HEADS, Head
from lstm_jax.hyperparameters import Hyperparameters, structure_of
from lstm_jax.loss import count_targets
from lstm_jax.masks import evaluation_masks
from lstm_jax.meshes import whole
from lstm_jax.model import count_parameters
from lstm_jax.run import processes
from lstm_jax.run.beginning import Beginning, begin_from, check_beginning
from lstm_jax.run.checkpoint import Checkpoints
from lstm_jax.run.compiling import compile_dispatches, dispatch_sizes, next_boundary
from lstm_jax.run.description import Description, begun_from_in, read_description
from lstm_jax.run.figures import Recipe, curves_of, draw_curves, drops, in_words
from lstm_jax.run.folder import (
    CONFIG,
    FIGURES,
    check_folder,
    recorded_title,
    refuse_other_run,
    say_what_changes,
)
from lstm_jax.run.journal import Journal, OnMetrics
from lstm_jax.run.lock import only_process
from lstm_jax.run.memory import check_run_fits, check_state_fits
from lstm_jax.run.metrics import (
    METRICS,
    SAMPLES,
    measured,
    minimised,
    read_metrics,
    rewind,
    write_summary,
)
from lstm_jax.run.nonfinite import Watch
from lstm_jax.run.peers import meet
from lstm_jax.run.progress import Progress
from lstm_jax.run.signals import BROKEN_PIPE, Interrupted, catch_signals
from lstm_jax.run.validation import begin_where_stalled, validate
from lstm_jax.stalling import after_validation, share_left, why_over
from lstm_jax.tasks import Task
from lstm_jax.terminal import say, warn
from lstm_jax.train import (
    StepInfo,
    TrainState,
    draw_train_state,
    make_dispatch,
    state_placement,
)

SUMMED_UP = ("train_loss", "seconds", "compile_seconds", "skipped")  # of the last line


def check_run(config: Config, task: Task, workdir: Path) -> Description:
    """What a run would be.

    UserError where its head has no such gradient, there is too little memory for it, its folder
    holds another, or several processes cannot share it."""
    processes.check_devices()
    processes.check_lanes(config)
    config.check_gradient(head_of(task))
    config.check_validation(type(task).validates(config))
    check_state_fits(config, task.interface)
    check_run_fits(config, task.interface, first_batch(config, task))
    description = Description.of(config, task)
    check_folder(workdir, description)
    return description


def first_batch(config: Config, task: Task) -> Batch:
    """The first batch of training; UserError where it has not as many lanes as the config says."""
    batch = task.training_batch(0)
    if (lanes := batch.inputs.shape[1]) != config.train.batch_size:
        raise UserError(
            f"the task's batches have {lanes} lanes, and train.batch_size is "
            f"{config.train.batch_size}: let the two agree"
        )
    return batch


def head_of(task: Task) -> Head:
    """The head that a task names."""
    if (name := task.interface.head) not in HEADS:
        raise UserError(f"the task's head is {shorten(name)}, which is none of {', '.join(HEADS)}")
    return HEADS[name]


class Run:
    """One training run in its folder, which is this process's alone until the run is closed.

    Args:
      task: what is learnt; of an instance of your own, `config.data` is not read.
      workdir: a path, or its name as a user writes it (`~` is the home).
      title: of the summary and the figure; left out, what it was, or the folder's name.
      on_metrics: called with each line that is added to `metrics.jsonl`.
      init_from: the folder of another run, with whose best parameters this one begins; where it
        goes on that is not read.
      on_sample: called with the step and the text of each sample.
      on_curves: called with the step and the path of each picture of the curves, which is then
        drawn at every validation.

    It resumes where its folder's latest checkpoint is. Raises UserError, in one line, where the
    folder holds another run or is another process's, or the run would not fit into memory; `train`
    raises Interrupted, after saving, where it is asked to stop.

        >>> import lstm_jax
        >>> config = lstm_jax.Config().replace(
        ...     {"data.task": "adding", "train.steps": 2, "model.hidden_size": 4}
        ... )
        >>> task = lstm_jax.TASKS["adding"].of(config)
        >>> with lstm_jax.Run(config, task, "runs/mine") as run:
        ...     run.train()
        ...     run.summary()["best_step"]
        2
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        workdir: str | Path,
        title: str = "",
        on_metrics: OnMetrics | None = None,
        init_from: str | Path | None = None,
        on_sample: Callable[[int, str], None] | None = None,
        on_curves: Callable[[int, Path], None] | None = None,
    ) -> None:
        workdir = processes.own_folder(named(str(workdir)))
        if not processes.is_first():
            init_from = on_metrics = on_sample = on_curves = None
        self.config, self.task, self.workdir = config, task, workdir
        self.on_sample, self.on_curves = on_sample, on_curves
        self.description = check_run(config, task, workdir)
        self.title = title or recorded_title(workdir) or workdir.name
        self._init_from = None if init_from is None else str(init_from)
        self._beginning: Beginning | None = None
        if self._init_from and not Checkpoints(workdir).steps():
            self._beginning = begin_from(self._init_from, config, task)
        self.hyper, self.own = Hyperparameters.of(config), processes.OwnLanes(task, config)
        with ExitStack() as held:
            self.lock = held.enter_context(only_process(workdir))
            check, train = self.lock.check, config.train
            self.checkpoints = Checkpoints(workdir, train.keep_checkpoints, check)
            held.callback(self.checkpoints.close)
            meet("begin")
            processes.check_alike(self.description.to_json())
            self.state = processes.share(self._start(), state_placement(config))
            # Last: a folder whose checkpoints turned out to be another run's must stay as it was.
            say_what_changes(workdir, self.description)
            described = self.description.to_json() | {"title": self.title}
            write_json(self.folder / CONFIG, described)
            targets = int(count_targets(task.batch_at(0)))
            self.journal = Journal(workdir, self.step, targets, check, on_metrics)
            self.watch = Watch(workdir, self.checkpoints, check, train.on_nonfinite)
            self._held = held.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits until everything is on disk and leaves the folder to others."""
        self._held.close()

    @property
    def folder(self) -> Path:
        """Where to write: the workdir, after a look whether it is still this process's."""
        self.lock.check()
        return self.workdir

    @property
    def step(self) -> int:
        return int(self.state.step)

    def _start(self) -> TrainState:
        """The latest undamaged checkpoint's state, or the initial one; tidies the folder up."""
        good, damaged = self.checkpoints.sort_out()
        step = good[-1] if good else 0
        if good:
            state, description = self.checkpoints.restore(step)
            refuse_other_run(self.workdir, self.description.differences(description.to_json()))
            check_beginning(self.workdir, description.begun_from, self._init_from, needed=False)
            self.description = self.description._replace(begun_from=description.begun_from)
            self.checkpoints.best_step(good)  # what it cannot read is said before anything is done
            if step > (steps := self.config.train.steps):
                raise UserError(
                    f"{self.workdir} has done {step:,} steps, and train.steps={steps} is fewer: "
                    "give as many or more, or choose another --workdir"
                )
        else:
            self._refuse_to_begin_over()
            if (self.workdir / CONFIG).exists():
                recorded = begun_from_in(read_description(self.workdir / CONFIG))
                check_beginning(self.workdir, recorded, self._init_from, needed=True)
            params, begun_from, said = self._beginning or (None, None, "")
            self.description = self.description._replace(begun_from=begun_from)
            # As one program: dozens of small ones take twice as long, compiled or read from disk.
            draw = jax.jit(draw_train_state, static_argnums=(0, 1))
            state = draw(structure_of(self.config), self.task.interface, self.hyper, params)
        for bad, why in damaged.items():
            aside = self.checkpoints.set_aside(bad)
            warn(f"the checkpoint of step {bad} is damaged ({why}); it is now {aside}")
        self.checkpoints.delete_parts()
        for folder in (self.folder, self.folder / FIGURES):
            delete_parts(folder)
        rewind(self.folder, step)
        if good:
            steps = self.config.train.steps
            left = "" if step < steps else ": nothing is left to train"
            say(f"resuming at step {step} of {steps}{left}")
        elif self._beginning is not None:
            say(said)
            # From here on nobody needs the other run.
            self.checkpoints.save(state, self.description, {})
        return state

    def _refuse_to_begin_over(self) -> None:
        """Raises a UserError where there were checkpoints, and a new run would undo their metrics.

        The first is whole before the third validation is written down.
        """
        lines = read_metrics(self.workdir)
        if sum(bool(measured(line)) for line in lines) > 2:
            raise UserError(
                f"{self.workdir} holds the metrics of {lines[-1]['step']:,} steps and no "
                "checkpoint, so training would begin over and undo them: put the checkpoints back, "
                f"move {METRICS} and {SAMPLES} away, or choose another --workdir"
            )

    def train(self) -> None:
        """Trains to the last step; raises Interrupted, after saving, when asked to stop.

        By a signal, in the main thread, or by a reader of stderr that has gone away."""
        with catch_signals(processes.left_to_jax()) as received:
            dispatch = self._compile()
            steps, seconds = self.config.train.steps, self.journal.seconds
            with closing(Progress(steps, self.step, self.task.unit, seconds)) as progress:
                self._train(dispatch, progress, received)
                if received:
                    self.save()
                self.checkpoints.wait()
        if received:
            self.draw_figures()
            raise Interrupted(received[0], self.step)
        if over := self.why_over():
            say(f"ended at step {self.step:,} of {self.config.train.steps:,}: {over}")

    def why_over(self) -> str | None:
        """Why the run ends before its last step; None: it does not."""
        train = self.config.train
        return why_over(self.state.stall, train.patience) if self.step < train.steps else None

    def save(self) -> None:
        """Saves the state between two validations, where it is finite."""
        self.watch.check_state(whole(self.state))
        self._save({})

    def _save(self, scores: dict[str, float]) -> None:
        """Saves the state with what validation measured of it: all of it, in the first process."""
        state = whole(self.state)
        if processes.is_first():
            self.checkpoints.save(state, self.description, scores)

    def _compile(self) -> Wrapped:
        """The dispatch, compiled for all the steps to come."""
        dispatch = make_dispatch(self.config, head_of(self.task))
        sizes = dispatch_sizes(self.step, self.config.train)
        if sizes and not self.why_over():
            seconds = compile_dispatches(
                lambda batches: dispatch.lower(self.hyper, self.state, self.own.placed(batches)),
                self.own.batch(self.step),
                sizes,
            )
            meet("compiled")
            self.journal.compile_seconds += seconds
            say(f"compiled in {seconds:.1f} s")
        return dispatch

    def _train(self, dispatch: Wrapped, progress: Progress, received: list[int]) -> None:
        """The loop itself; stops between two dispatches once it is asked to, which it notes."""
        train, step = self.config.train, self.step
        unread: tuple[int, StepInfo] | None = None
        clock, over = time.perf_counter(), self.why_over()
        stops = processes.Stops(received)
        while step < train.steps and not stops.reached() and not over:
            boundary = next_boundary(step, train)
            K = min(train.steps_per_dispatch, boundary - step)
            self.state, infos = dispatch(self.hyper, self.state, self.own.batches(step, step + K))
            step += K
            if unread is not None:
                clock = self._report(progress, *unread, clock)
            unread = step, infos
            if step == boundary:
                self._report(progress, *unread, clock, boundary=True)
                unread, over, clock = None, self.why_over(), time.perf_counter()
            if progress.reader_left:
                received.append(BROKEN_PIPE)
        if unread is not None:
            self._report(progress, *unread, clock)
        stops.settle()

    def batches(self, first: int, last: int) -> Batch:
        """Those of the steps from `first` to before `last`, as one dispatch takes them."""
        return stack_batches([self.task.training_batch(step) for step in range(first, last)])

    def _report(
        self, progress: Progress, step: int, infos: StepInfo, clock: float, boundary: bool = False
    ) -> float:
        """Writes a dispatch down, waiting for it if need be; returns the time when it was read."""
        infos = jax.tree.map(np.asarray, jax.device_get(infos))
        now = time.perf_counter()
        self.report(progress, step, infos, now - clock, boundary)
        return now

    def report(
        self, progress: Progress | None, step: int, infos: StepInfo, seconds: float, boundary: bool
    ) -> None:
        """Writes down a dispatch that has been read, and took so long; None: it is not shown.

        At a boundary the state is that of its end, and is validated, sampled and saved.
        """
        self.watch.check_infos(step, infos, self.state, self.batches)
        line = self.journal.line(step, infos, seconds)
        if boundary:
            scores = self._validate()
            line |= scores
            self._heed(scores)
            self._begin_average(line)
        self.journal.write(line)
        if progress is not None:
            progress.update(line)
        if boundary:
            self._save(scores)
            if self.on_curves is not None:
                self.draw_figures()

    def _validate(self) -> dict[str, float]:
        """Scores the state, where that is finite, and writes a sample."""
        state = whole(self.state)
        self.watch.check_state(state)
        scores = validate(self.task, state, evaluation_masks(self.config.model))
        scores = processes.agreed(scores)
        self.watch.check_scores(scores, state)
        if (sample := self.sample()) is not None:
            self.journal.write_sample(self.step, scores, self.task.unit, sample)
            if self.on_sample is not None:
                self.on_sample(self.step, sample)
        return scores

    def _heed(self, scores: dict[str, float]) -> None:
        """Remembers whether what is minimised got any better, where something depends on it."""
        if (stall := self.state.stall) is not None:
            self.config.check_validation(bool(scores))
            waits = self.state.average is not None and is_waiting(self.state.average)
            config = self.config.optimizer
            after = after_validation(stall, minimised(scores), waits, config)
            if (share := share_left(after)) < share_left(stall):
                say(
                    f"step {self.step}: no lower loss for long, on at {share:.3g} of the first rate"
                )
            self.state = self.state._replace(stall=after)

    def _begin_average(self, line: dict[str, Any]) -> None:
        """Begins a triggered average where what is minimised has stalled up to this line."""
        if (average := self.state.average) is not None:
            lines = [*self.journal.lines(), line]
            begun = begin_where_stalled(average, lines, self.config.train)
            begins = processes.agreed({"begins": is_waiting(average) > is_waiting(begun)})
            if begins["begins"]:
                self.state = self.state._replace(average=begin(average))

    def sample(self) -> str | None:
        """What the task shows of the model; None: nothing, or it is the first process's to show."""
        if not processes.is_first():
            return None
        masks = evaluation_masks(self.config.model)
        return self.task.sample(whole(self.state.eval_params), masks)

    def summary(self) -> dict[str, Any]:
        """What the run came to, best validation included; also written to `summary.json`.

        The best of the checkpoints that are there, by the scores that each carries: one that was
        damaged is nobody's model, and `metrics.jsonl` may be gone or edited.
        """
        last = [{}, *self.journal.lines()][-1]
        summary = {
            "title": self.title,
            "parameters": sum(count_parameters(self.state.params).values()),
            "step": self.step,
            "targets": self.journal.targets_at(self.step),
            **{k: last[k] for k in SUMMED_UP if k in last},
        }
        if references := self.task.references():
            summary["references"] = references
        if over := self.why_over():
            summary["ended_early"] = over
        if saved := self.checkpoints.steps():
            best = self.checkpoints.best_step(saved)
            if scores := self.checkpoints.scores(best):
                summary |= {"best_step": best, **scores}
        write_summary(self.folder, summary)
        return summary

    def draw_figures(self) -> None:
        """Draws the curves so far, after all else: nothing hangs on them, and they take long."""
        if processes.is_first() and (lines := self.journal.lines()):
            model, task = self.config.model, self.task
            about = f"{in_words(model)} on {task.describe().partition(':')[0]}"
            recipe = Recipe(self.title, [lines], drops(model))
            curves = curves_of([recipe], self.title, task.unit, about, task.references())
            path = self.folder / FIGURES / "curves.png"
            draw_curves(curves, path)
            if self.on_curves is not None and path.exists():
                self.on_curves(lines[-1]["step"], path)
