"""The training loop: a for-loop over dispatches, with everything that a run leaves behind.

while step < steps:
    state, infos = dispatch(state, batches)      # K steps, on the device
    read the infos of the dispatch before        # never waits for the one under way
    every N steps: validate, sample, save
"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn, Self

import jax
import numpy as np

from lstm_jax.averaging import begin, is_waiting, should_begin
from lstm_jax.config import Config
from lstm_jax.data.batches import Split, Streams, split_ids, stack_batches
from lstm_jax.data.vocabulary import Text
from lstm_jax.errors import UserError
from lstm_jax.files import check_plain, delete_parts, named, write_json
from lstm_jax.masks import evaluation_masks
from lstm_jax.model import Interface, ModelParams, count_parameters
from lstm_jax.run.checkpoint import (
    DAMAGED,
    FOLDER,
    Checkpoints,
    Description,
    OtherFormat,
    check_place,
    read_description,
    refuse_other_format,
)
from lstm_jax.run.figures import draw_curves
from lstm_jax.run.lock import LOCK, only_process
from lstm_jax.run.memory import check_run_fits
from lstm_jax.run.metrics import (
    AVERAGE,
    METRICS,
    SAMPLES,
    SUMMARY,
    append_metrics,
    append_sample,
    read_metrics,
    rewind,
    write_summary,
)
from lstm_jax.run.nonfinite import FOLDER as DUMPS
from lstm_jax.run.nonfinite import describe_state, describe_step, dump, finite_steps
from lstm_jax.run.progress import Progress
from lstm_jax.run.signals import BROKEN_PIPE, catch_signals
from lstm_jax.sample import generate
from lstm_jax.scoring.protocols import check_lanes, evaluate
from lstm_jax.terminal import say, warn
from lstm_jax.train import StepInfo, TrainState, init_train_state, make_dispatch, state_placement

CONFIG, FIGURES = "config.json", "figures"
RUN_FILES = (CONFIG, METRICS, SAMPLES, SUMMARY, FIGURES, FOLDER, DAMAGED, DUMPS, LOCK)
MAX_IN_A_ROW = 100  # updates skipped, after which a run has nothing left to hope for


class Interrupted(Exception):
    """The run was asked to stop and has saved what it had."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(signal_number, step)
        self.signal_number, self.step = signal_number, step


def check_folder(workdir: Path, description: Description) -> None:
    """Refuses a folder whose config.json is of another run, or cannot be read, and one with a link
    or a pipe where a run would write."""
    check_place(workdir)
    check_plain(workdir, RUN_FILES)
    path = workdir / CONFIG
    if not path.exists():
        return
    try:
        described = read_description(path)
        refuse_other_format(path, described)
        differ = description.differences(described)
    except OtherFormat:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); choose another --workdir") from error
    refuse_other_run(workdir, differ)


def refuse_other_run(folder: Path, differ: list[str]) -> None:
    if differ:
        raise UserError(
            f"{folder} holds another run: {'; '.join(differ)}; choose another --workdir, or delete "
            "that one"
        )


def split_and_streams(config: Config, text: Text) -> tuple[Split, Streams]:
    """What a run reads; UserError where the text is too short for it, or the memory too small."""
    split, train = split_ids(text.ids, config.data), config.train
    streams = Streams(split.train, train.batch_size, train.sequence_length)
    if split.validation is not None:
        check_lanes(len(split.validation), config.evaluate)
    check_run_fits(config, Interface.of(len(text.vocabulary)))
    return split, streams


def check_validates(config: Config, text: Text, what: str) -> None:
    """Raises UserError for what `split_and_streams` refuses, and where nothing is kept to validate
    on, which `what` needs."""
    split, _ = split_and_streams(config, text)
    if split.validation is None:
        raise UserError(
            f"{what} needs a validation split: data.validation_fraction is 0; leave it out, or "
            "give another"
        )


class Run:
    """One training run in its folder, which is this process's alone until the run is closed.

    Args:
      workdir: a path, or its name as a user writes it (`~` is the home).
    """

    def __init__(self, config: Config, text: Text, workdir: str | Path, title: str) -> None:
        workdir = named(str(workdir))
        self.config, self.text, self.workdir, self.title = config, text, workdir, title
        self.split, self.streams = split_and_streams(config, text)
        self.description = Description.of(config, text)
        check_folder(workdir, self.description)
        with ExitStack() as held:
            self.lock = held.enter_context(only_process(workdir))
            keep = config.train.keep_checkpoints
            self.checkpoints = Checkpoints(workdir, keep, self.lock.check)
            held.callback(self.checkpoints.close)
            self.state = jax.device_put(self._start(), state_placement(config))
            # Last: a folder whose checkpoints turned out to be another run's must stay as it was.
            write_json(self.folder / CONFIG, self.description.to_json())
            self.seconds = self._seconds_before()
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
            state, found = self.checkpoints.restore(step)
            refuse_other_run(self.workdir, self.description.differences(found.to_json()))
            self.checkpoints.best_step(good)  # what it cannot read is said before anything is done
        else:
            self._refuse_to_begin_over()
            # As one program: dozens of small ones take twice as long, compiled or read from disk.
            place = state_placement(self.config)
            init = jax.jit(init_train_state, static_argnums=(0, 1), out_shardings=place)
            state = init(self.config, len(self.text.vocabulary))
        for bad, why in damaged.items():
            aside = self.checkpoints.set_aside(bad)
            warn(f"the checkpoint of step {bad} is damaged ({why}); it is now {aside}")
        self.checkpoints.delete_parts()
        for folder in (self.folder, self.folder / FIGURES):
            delete_parts(folder)
        rewind(self.folder, step)
        if good:
            say(f"resuming at step {step}")
        return state

    def _refuse_to_begin_over(self) -> None:
        """Raises a UserError where there were checkpoints, and a new run would undo their metrics.

        The first is whole before the third validation is written down.
        """
        lines = read_metrics(self.workdir)
        if sum("val_loss_stream" in line for line in lines) > 2:
            raise UserError(
                f"{self.workdir} holds the metrics of {lines[-1]['step']:,} steps and no "
                "checkpoint, so training would begin over and undo them: put the checkpoints back, "
                f"move {METRICS} and {SAMPLES} away, or choose another --workdir"
            )

    def _seconds_before(self) -> float:
        """What `metrics.jsonl` says that the steps before this one took; warns where it is gone."""
        last = [{"step": 0, "seconds": 0.0}, *read_metrics(self.workdir)][-1]
        if last["step"] < self.step:
            warn(
                f"{self.workdir / METRICS} does not reach step {self.step}, where the checkpoint "
                "is: curves, seconds and a triggered average go by what is left of it"
            )
        return last["seconds"]

    def train(self) -> None:
        """Trains to the last step; raises Interrupted, after saving, when asked to stop.

        By a signal, in the main thread, or by a reader of stderr that has gone away."""
        progress = Progress(self.config.train.steps, self.step)
        try:
            with catch_signals() as received:
                self._train(progress, received)
                if received:
                    self._check_state()
                    self.checkpoints.save(self.state, self.description, None)
                self.checkpoints.wait()
        finally:
            progress.close()
        if received:
            self.draw()
            raise Interrupted(received[0], self.step)

    def _train(self, progress: Progress, received: list[int]) -> None:
        """The loop itself; stops between two dispatches once it is asked to, which it notes."""
        train, step = self.config.train, self.step
        dispatch = make_dispatch(self.config)
        unread: tuple[int, StepInfo] | None = None
        clock = time.perf_counter()
        while step < train.steps and not received:
            boundary = min(step - step % train.validate_every + train.validate_every, train.steps)
            K = min(train.steps_per_dispatch, boundary - step)
            batches = stack_batches([self.streams.batch_at(step + k) for k in range(K)])
            self.state, infos = dispatch(self.state, batches)
            step += K
            if unread is not None:
                clock = self._report(progress, *unread, clock)
            unread = step, infos
            if step == boundary:
                self._report(progress, *unread, clock, validate=True)
                unread, clock = None, time.perf_counter()
            if progress.reader_left:
                received.append(BROKEN_PIPE)
        if unread is not None:
            self._report(progress, *unread, clock)

    def _report(
        self, progress: Progress, step: int, infos: StepInfo, clock: float, validate: bool = False
    ) -> float:
        """Writes a dispatch down, waiting for it if need be; returns the time when it was read."""
        infos = jax.tree.map(np.asarray, jax.device_get(infos))
        now = time.perf_counter()
        self._check_infos(step, infos)
        self.seconds += now - clock
        line = self._line(step, infos, now - clock)
        if validate:
            self._check_state()
            line |= self._validate(step)
            self._begin_average(line)
        append_metrics(self.folder, line)
        progress.update(line)
        if validate:
            metrics = {k: v for k, v in line.items() if k.startswith("val_loss")}
            self.checkpoints.save(self.state, self.description, metrics or None)
        return now

    def _line(self, step: int, infos: StepInfo, seconds: float) -> dict[str, Any]:
        """A dispatch's line of metrics; means are over the updates that were made."""
        characters = self.config.train.batch_size * self.config.train.sequence_length
        finite, line = finite_steps(infos), {"step": step, "characters": step * characters}
        if finite.any():
            line["train_loss"] = infos.loss[finite].mean(dtype=np.float64)
            line["grad_norm"] = infos.grad_norm[finite].mean(dtype=np.float64)
        line |= {
            "learning_rate": float(infos.learning_rate[-1]),
            "chars_per_second": round(len(finite) * characters / seconds),
            "seconds": round(self.seconds, 3),
        }
        if infos.skipped is not None:
            line["skipped"] = int(infos.skipped[-1])
        return line

    def _check_infos(self, step: int, infos: StepInfo) -> None:
        """Stops the run at a dispatch, the last before `step`, that must not be gone on from."""
        if infos.in_a_row is None:
            bad, what = ~finite_steps(infos), ""
        else:
            bad, what = infos.in_a_row >= MAX_IN_A_ROW, f"{MAX_IN_A_ROW} updates in a row skipped: "
        if bad.any():
            k, first = int(np.argmax(bad)), step - len(bad)
            batches = stack_batches([self.streams.batch_at(s) for s in range(first, step)])
            what += describe_step(infos, k)
            self._stop(first + k + 1, what, infos=infos, batches=batches)

    def _check_state(self) -> None:
        """Stops the run where its last update left something that is not finite."""
        if what := describe_state(self.state):
            self._stop(self.step, what)

    def _stop(self, step: int, what: str, **parts: Any) -> NoReturn:
        """Dumps the state, and other parts, and says what is not finite and what to do."""
        self.checkpoints.wait()
        saved = self.checkpoints.steps()
        last = f"is {self.checkpoints.path(saved[-1])}" if saved else "would have been the first"
        path = dump(self.folder, step, state=self.state, **parts)
        remedy = "lower optimizer.learning_rate or optimizer.clip_norm"
        if self.config.train.on_nonfinite == "stop":
            remedy += ", or take --config.train.on_nonfinite=skip"
        raise UserError(
            f"step {step}: {what}. The last good checkpoint {last}; the state is in {path}, for a "
            f"look with numpy.load. To go on, {remedy}, in another --workdir"
        )

    def _validate(self, step: int) -> dict[str, float]:
        """Scores the validation split by both protocols and writes a sample."""
        scores = {}
        if self.split.validation is not None:
            scores = self._score(self.state.params)
            if (average := self.state.average) is not None:
                averaged = scores if is_waiting(average) else self._score(average.params)
                scores = scores | {name + AVERAGE: loss for name, loss in averaged.items()}
            if not np.isfinite([*scores.values()]).all():
                self._stop(
                    step, f"the validation loss is {' and '.join(map(str, scores.values()))}"
                )
        sample = self.sample()
        append_sample(self.folder, step, scores, sample)
        return scores

    def _score(self, params: ModelParams) -> dict[str, float]:
        """The losses of some parameters on the validation split, by both protocols."""
        masks = evaluation_masks(self.config.model)
        found = evaluate(params, self.split.validation, self.config.evaluate, masks)
        return {"val_loss_stream": found.stream, "val_loss_windows": found.windows}

    def _begin_average(self, line: dict[str, Any]) -> None:
        """Begins a triggered average where the losses up to this line's have stalled."""
        average = self.state.average
        if average is None or "val_loss_stream" not in line:
            return
        lines = [*read_metrics(self.workdir), line]
        losses = [m["val_loss_stream"] for m in lines if "val_loss_stream" in m]
        if should_begin(average, losses, self.config.train):
            self.state = self.state._replace(average=begin(average))

    def sample(self) -> str:
        """What the model makes of the text's first character; the same for the same parameters."""
        prompt = self.text.ids[:1]
        length = self.config.train.sample_length
        masks = evaluation_masks(self.config.model)
        ids = generate(self.state.eval_params, jax.random.key(0), prompt, length, masks=masks)
        return self.text.vocabulary.decode(np.concatenate([prompt, ids[0]]))

    def summary(self) -> dict[str, Any]:
        """What the run came to, best validation included; also written to `summary.json`.

        The best of the checkpoints that are there, by the losses that each carries: one that was
        damaged is nobody's model, and `metrics.jsonl` may be gone or edited.
        """
        last = [{}, *read_metrics(self.workdir)][-1]
        train = self.config.train
        summary = {
            "title": self.title,
            "parameters": sum(count_parameters(self.state.params).values()),
            "step": self.step,
            "characters": self.step * train.batch_size * train.sequence_length,
            **{k: last[k] for k in ("train_loss", "seconds", "skipped") if k in last},
        }
        if saved := self.checkpoints.steps():
            best = self.checkpoints.best_step(saved)
            if losses := self.checkpoints.losses(best):
                summary |= {"best_step": best, **losses}
        write_summary(self.folder, summary)
        return summary

    def draw(self) -> None:
        """Draws the curves so far. Last of all: nothing hangs on them, and they may take long."""
        if metrics := read_metrics(self.workdir):
            draw_curves([metrics], self.title, self.folder / FIGURES / "curves.png")
