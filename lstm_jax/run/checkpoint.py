"""Checkpoints of a run: the latest few and the best by validation.

A checkpoint is a folder named by its step. It holds the whole TrainState (step, parameters,
optimizer state, carry, average) as orbax writes it; as JSON what run it is of (`Description`); what
validation measured; and the checksums of all these files. Randomness follows the step and needs no
saving.

It is written under another name and given its own when it is complete, and loses that name before
it is deleted: a process killed at any moment leaves no half of one. One that no longer agrees with
its checksums is damaged, and nothing of it is read.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.errors import UserError, shorten
from lstm_jax.files import PART, cannot_write, named, read_json
from lstm_jax.run.checksums import damage, write_sums
from lstm_jax.run.description import Description, OtherFormat, read_description
from lstm_jax.run.memory import state_bytes
from lstm_jax.run.metrics import check_scores, minimised
from lstm_jax.run.storage import read_state, write_state
from lstm_jax.terminal import warn
from lstm_jax.train import TrainState

FOLDER = "checkpoints"
DAMAGED = "damaged"  # where damaged checkpoints are set aside
STATE, DESCRIPTION, METRICS = "state", "description/metadata", "metrics/metrics"
SMALL_BYTES = 2**28  # hashed in a second or so, whatever it is
LOOKS = 5  # at a folder in which a run under way deletes what was just found


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
      check: called before each change in the folder; raises where it is no longer to be written in.
    """

    def __init__(
        self, workdir: Path, keep: int = 2, check: Callable[[], None] = lambda: None
    ) -> None:
        self._workdir, self._keep, self._check = workdir, keep, check
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._written: Future[None] | None = None

    def path(self, step: int) -> Path:
        return self._workdir / FOLDER / str(step)

    def part(self, step: int) -> Path:
        """Where a checkpoint lies while it is being written or deleted."""
        return self._workdir / FOLDER / f"{step}{PART}"

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged ones included, in order."""
        folder = self._workdir / FOLDER
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def sort_out(self) -> tuple[list[int], dict[int, str]]:
        """The steps of the good checkpoints, in order, and of the damaged, with what is wrong.

        Reads every byte of them all. A UserError where there are some and none is good.
        """
        damages = {step: self._damage(step) for step in self.steps()}
        good = [step for step, why in damages.items() if why is None]
        # A run under way may have deleted one in between.
        damaged = {step: why for step, why in damages.items() if why and self.path(step).exists()}
        if damaged and not good:
            each = "; ".join(f"{self.path(step)}: {why}" for step, why in damaged.items())
            raise UserError(
                f"no checkpoint is left undamaged ({each}); nothing was deleted: put back a copy, "
                "or begin again in another --workdir"
            )
        return good, damaged

    def _damage(self, step: int) -> str | None:
        return self._excess(step) or damage(self.path(step))

    def _excess(self, step: int) -> str | None:
        """What is wrong with a checkpoint's size: hashing what it cannot hold may take for ever."""
        files = [path for path in self.path(step).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        if size <= SMALL_BYTES:
            return None
        try:
            description = Description.from_json(self.described(step))
            state = state_bytes(description.config, description.interface)
        except OtherFormat:
            return None  # who wrote it knows what it may hold
        except (ValueError, KeyError, TypeError, AttributeError):
            state = 0
        if size <= SMALL_BYTES + 2 * state:
            return None
        return f"it has {size:,} bytes, where a state as it describes takes {state:,}"

    def set_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint out of the way of what is saved from now on."""
        self._check()
        aside = self._workdir / DAMAGED
        aside.mkdir(exist_ok=True)
        names = (f"{step}" if n == 1 else f"{step}-{n}" for n in itertools.count(1))
        to = next(aside / name for name in names if not (aside / name).exists())
        return self.path(step).rename(to)

    def delete_parts(self) -> None:
        """Deletes what a killed process was writing or deleting."""
        for part in (self._workdir / FOLDER).glob(f"*{PART}"):
            self._check()
            shutil.rmtree(part) if part.is_dir() else part.unlink()

    def best_step(self, steps: Sequence[int]) -> int:
        """Of some steps, the one of lowest validation loss; the latest where none was validated."""
        losses = {step: minimised(scores) for step in steps if (scores := self.scores(step))}
        return min(losses, key=losses.__getitem__) if losses else max(steps)

    def scores(self, step: int) -> dict[str, float]:
        """What validation measured, by name, as a checkpoint carries it; empty: there was none."""
        try:
            return check_scores(read_json(self.path(step) / METRICS))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._unreadable(step, error) from error

    def described(self, step: int) -> dict[str, Any]:
        """What run a checkpoint is of, as `Description.to_json` wrote it."""
        try:
            return read_description(self.path(step) / DESCRIPTION)
        except OtherFormat:
            raise
        except (OSError, ValueError) as error:
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> UserError:
        of_a_file = "name the --experiment=FILE.py that it is of, or "
        return UserError(
            f"the checkpoint {self.path(step)} cannot be read "
            f"({' '.join(str(error).split())[:200]}); "
            f"{of_a_file if isinstance(error, UserError) else ''}move it away to use an older one"
        )

    def restore(self, step: int) -> tuple[TrainState, Description]:
        """The state at a step, every bit as it was saved, and what run it belongs to."""
        described = self.described(step)
        try:
            description = Description.from_json(described)
            return read_state(self.path(step) / STATE, description), description
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._unreadable(step, error) from error

    def save(self, state: TrainState, description: Description, scores: dict[str, float]) -> None:
        """Saves in the background; without scores it cannot become the best one.

        What went wrong there is raised here the next time, or by `wait`.
        """
        self.wait()
        step = int(state.step)
        if step not in self.steps():
            # A copy: the next dispatch takes the state's buffers while the writing still goes on.
            state = jax.tree.map(jnp.copy, state)
            self._written = self._writer.submit(self._save, step, state, description, scores)

    def _save(
        self,
        step: int,
        state: TrainState,
        description: Description,
        scores: dict[str, float],
    ) -> None:
        part = self.part(step)
        self._check()
        try:
            write_checkpoint(part, state, description, scores)
            self._check()
            part.rename(self.path(step))
        except (OSError, ValueError) as error:
            self._check()  # what is there now may be another's
            refusal = cannot_write(self.path(step), error)  # first: it says how much room there is
            shutil.rmtree(part, ignore_errors=True)
            raise refusal from error
        self._delete_old()

    def _delete_old(self) -> None:
        """Deletes all but the latest few and the best."""
        self._check()
        steps = self.steps()
        for step in set(steps) - {*steps[-self._keep :], self.best_step(steps)}:
            self._check()
            try:
                shutil.rmtree(self.path(step).rename(self.part(step)))
            except OSError as error:  # the run is no worse for it
                warn(f"{self.path(step)} cannot be deleted: {error.strerror}")

    def wait(self) -> None:
        """Waits until everything is on disk."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """Waits, and lets the thread that writes go."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()


def write_checkpoint(
    folder: Path, state: TrainState, description: Description, scores: dict[str, float]
) -> None:
    """Writes a whole checkpoint into a folder that is not there yet."""
    folder.parent.mkdir(exist_ok=True)  # not the one above: it may just have been deleted
    folder.mkdir()
    write_state(folder / STATE, state)
    for name, content in ((DESCRIPTION, description.to_json()), (METRICS, scores)):
        if content:
            (folder / name).parent.mkdir()
            (folder / name).write_text(json.dumps(content))
    write_sums(folder)


def load_model(workdir: str | Path, which: str = "best") -> tuple[TrainState, Description]:
    """The `best` or the `latest` undamaged checkpoint of a run folder, which stays as it is.

    Args:
      workdir: the folder, a path or its name as a user writes it (`~` is the home).
      which: `best` by the lowest validation loss, or `latest`.

    Returns:
      The state, whose `eval_params` are the model (the average, where there is one), and what run
      it is of: its `config`, `interface` and `identity`.

    Raises UserError, in one line, where there is none, or none that can be read.

        >>> import lstm_jax
        >>> state, description = lstm_jax.load_model("runs/mine")  # of the example of `Run`
        >>> int(state.step), description.config.model.hidden_size, state.eval_params.readout.W.shape
        (2, 4, (4, 1))
    """
    workdir = named(str(workdir))
    if which not in ("best", "latest"):
        raise UserError(f"the checkpoint is `best` or `latest`, not {shorten(which)}")
    if not (workdir / FOLDER).is_dir():
        raise UserError(
            f"{workdir} holds no {FOLDER} folder: train there first, or name another folder"
        )
    checkpoints = Checkpoints(workdir)
    for attempt in range(LOOKS):
        good, damaged = checkpoints.sort_out()
        if not good:
            raise UserError(f"{workdir / FOLDER} holds no checkpoint: train there first")
        step = checkpoints.best_step(good) if which == "best" else good[-1]
        try:
            restored = checkpoints.restore(step)
            break
        except UserError:
            if checkpoints.path(step).exists() or attempt == LOOKS - 1:
                raise  # else a run under way has deleted it, and has newer ones
    for step, why in damaged.items():
        warn(f"{checkpoints.path(step)} is damaged and left out ({why})")
    return restored
