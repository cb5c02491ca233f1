"""The training loop: a for-loop over dispatches, with everything that a run leaves behind.

while step < steps:
    state, infos = dispatch(state, batches)      # K steps, on the device
    read the infos of the dispatch before        # never waits for the one under way
    every N steps: validate, sample, save
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lstm_jax.checkpoint import FOLDER, Checkpoints, Description
from lstm_jax.config import Config, UserError
from lstm_jax.data.batches import Split, Streams, split_ids, stack_batches
from lstm_jax.data.vocabulary import Text
from lstm_jax.evaluate import evaluate
from lstm_jax.figures import draw_curves
from lstm_jax.files import read_json, write_atomically
from lstm_jax.memory import check_run_fits
from lstm_jax.metrics import (
    METRICS,
    SAMPLES,
    SUMMARY,
    append_metrics,
    append_sample,
    read_metrics,
    rewind,
    write_summary,
)
from lstm_jax.model import count_parameters
from lstm_jax.progress import Progress
from lstm_jax.sample import generate
from lstm_jax.train import (
    StepInfo,
    TrainState,
    init_train_state,
    make_dispatch,
    state_placement,
)

CONFIG, FIGURES = "config.json", "figures"
RUN_FILES = (CONFIG, METRICS, SAMPLES, SUMMARY, FIGURES, FOLDER)


class Interrupted(Exception):
    """The run was asked to stop and has saved what it had."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(signal_number, step)
        self.signal_number, self.step = signal_number, step


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM in the list; a second one acts as it always does."""
    received: list[int] = []
    previous = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        restore()
        # Not print: the loop itself may be printing at this very moment.
        os.write(2, b"\nstopping after this dispatch, then saving; once more stops at once\n")

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        restore()


def check_folder(workdir: Path, description: Description) -> None:
    """Refuses a folder whose config.json is of another run, or cannot be read."""
    path = workdir / CONFIG
    if not path.exists():
        return
    try:
        differ = description.differences(read_json(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}); choose another --workdir") from error
    refuse_other_run(workdir, differ)


def refuse_other_run(folder: Path, differ: list[str]) -> None:
    if differ:
        raise UserError(
            f"{folder} holds another run: {'; '.join(differ)}; choose another --workdir, or delete "
            "that one"
        )


class Run:
    """One training run in its folder."""

    def __init__(self, config: Config, text: Text, workdir: Path, title: str) -> None:
        self.config, self.text, self.workdir, self.title = config, text, workdir, title
        self.split: Split = split_ids(text.ids, config.data)
        train = config.train
        self.streams = Streams(self.split.train, train.batch_size, train.sequence_length)
        check_run_fits(config, len(text.vocabulary))
        self.description = Description.of(config, text)
        check_folder(workdir, self.description)
        self.checkpoints = Checkpoints(workdir, train.keep_checkpoints)
        self.state = jax.device_put(self._start(), state_placement(config))
        # Last: a folder whose checkpoints turned out to be another run's must stay as it was.
        write_atomically(
            workdir / CONFIG, (json.dumps(self.description.to_json(), indent=2) + "\n").encode()
        )
        self.seconds = ([{"seconds": 0.0}, *read_metrics(workdir)])[-1]["seconds"]

    @property
    def step(self) -> int:
        return int(self.state.step)

    def _start(self) -> TrainState:
        """The latest checkpoint's state, or the initial one."""
        latest = self.checkpoints.latest_step()
        if latest is None:
            rewind(self.workdir, 0)
            # As one program: dozens of small ones take twice as long, compiled or read from disk.
            place = state_placement(self.config)
            init = jax.jit(init_train_state, static_argnums=(0, 1), out_shardings=place)
            return init(self.config, len(self.text.vocabulary))
        state, found = self.checkpoints.restore(latest)
        refuse_other_run(self.workdir, self.description.differences(found.to_json()))
        rewind(self.workdir, latest)
        print(f"resuming at step {latest}", file=sys.stderr)
        return state

    def train(self) -> None:
        """Trains to the last step; raises Interrupted, after saving, when asked to stop."""
        progress = Progress(self.config.train.steps, self.step)
        try:
            with catch_signals() as received:
                self._train(progress, received)
            if received:
                self.checkpoints.save(self.state, self.description, None)
        finally:
            progress.close()
            self.checkpoints.close()
        if metrics := read_metrics(self.workdir):
            draw_curves(metrics, self.title, self.workdir / FIGURES / "curves.png")
        if received:
            raise Interrupted(received[0], self.step)

    def _train(self, progress: Progress, received: list[int]) -> None:
        """The loop itself; stops between two dispatches once a signal was received."""
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
        if unread is not None:
            self._report(progress, *unread, clock)

    def _report(
        self, progress: Progress, step: int, infos: StepInfo, clock: float, validate: bool = False
    ) -> float:
        """Writes a dispatch down, waiting for it if need be; returns the time when it was read."""
        losses, grad_norms, rates = (np.asarray(x, np.float64) for x in jax.device_get(infos))
        now = time.perf_counter()
        if not np.isfinite(losses).all():
            first = step - len(losses) + int(np.argmin(np.isfinite(losses))) + 1
            raise UserError(
                f"the loss is {losses[~np.isfinite(losses)][0]} at step {first}; nothing was saved "
                "since the last checkpoint. Lower optimizer.learning_rate, or set "
                "optimizer.clip_norm, in another --workdir"
            )
        self.seconds += now - clock
        characters = self.config.train.batch_size * self.config.train.sequence_length
        line = {
            "step": step,
            "characters": step * characters,
            "train_loss": losses.mean(),
            "grad_norm": grad_norms.mean(),
            "learning_rate": rates[-1],
            "chars_per_second": round(len(losses) * characters / (now - clock)),
            "seconds": round(self.seconds, 3),
        }
        if validate:
            line |= self._validate(step)
        append_metrics(self.workdir, line)
        progress.update(line)
        if validate:
            metrics = {k: v for k, v in line.items() if k.startswith("val_loss")}
            self.checkpoints.save(self.state, self.description, metrics or None)
        return now

    def _validate(self, step: int) -> dict[str, float]:
        """Scores the validation split by both protocols and writes a sample."""
        scores = {}
        if self.split.validation is not None:
            found = evaluate(self.state.params, self.split.validation, self.config.evaluate)
            scores = {"val_loss_stream": found.stream, "val_loss_windows": found.windows}
        append_sample(self.workdir, step, scores.get("val_loss_stream"), self.sample())
        return scores

    def sample(self) -> str:
        """What the model makes of the text's first character; the same for the same parameters."""
        prompt = self.text.ids[:1]
        length = self.config.train.sample_length
        ids = generate(self.state.params, jax.random.key(0), prompt, length)
        return self.text.vocabulary.decode(np.concatenate([prompt, ids[0]]))

    def summary(self) -> dict[str, Any]:
        """What the run came to, best validation included; also written to `summary.json`."""
        metrics = read_metrics(self.workdir)
        validated = [m for m in metrics if "val_loss_stream" in m]
        best = min(validated, key=lambda m: m["val_loss_stream"], default=None)
        last = metrics[-1] if metrics else {}
        summary = {
            "title": self.title,
            "parameters": sum(count_parameters(self.state.params).values()),
            "step": self.step,
            **{k: last[k] for k in ("characters", "train_loss", "seconds") if k in last},
        }
        if best is not None:
            summary |= {
                "best_step": best["step"],
                "val_loss_stream": best["val_loss_stream"],
                "val_loss_windows": best["val_loss_windows"],
            }
        write_summary(self.workdir, summary)
        return summary
