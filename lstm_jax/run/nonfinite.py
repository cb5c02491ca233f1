"""Values that are not finite: where they came up, and everything around them for a look.

Read a dump with `numpy.load(path)`, a mapping from names (`state.params.layers.0.U`,
`infos.loss`, `batches.inputs`) to arrays. The infos and batches have a leading axis K, one entry
for each step of the dispatch. The state is the one after the last of them.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from lstm_jax.data.batches import Batch
from lstm_jax.errors import UserError
from lstm_jax.files import write_atomically
from lstm_jax.meshes import whole
from lstm_jax.model import ModelParams, named_leaves
from lstm_jax.run.checkpoint import Checkpoints
from lstm_jax.train import StepInfo, TrainState

FOLDER = "nonfinite"
MAX_IN_A_ROW = 100  # updates skipped, after which a run has nothing left to hope for


def finite_steps(infos: StepInfo) -> np.ndarray:
    """K, True for the steps whose loss and gradient are finite."""
    return np.isfinite(infos.loss) & np.isfinite(infos.grad_norm)


def nonfinite_leaves(values: ModelParams) -> str:
    """The names of the leaves with a value that is not finite: the first two, and how many more."""
    names = [n for n, leaf in named_leaves(values).items() if not np.isfinite(leaf).all()]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def describe_step(infos: StepInfo, k: int) -> str:
    """What is not finite about a dispatch's step k, such as `the gradient of layers[0].U`."""
    loss = f"the loss is {infos.loss[k]}"
    leaves = nonfinite_leaves(jax.tree.map(lambda norm_K: norm_K[k], infos.leaf_norms))
    if leaves:
        return f"{loss} and the gradient is not finite in {leaves}"
    return loss if not np.isfinite(infos.loss[k]) else "the gradient's norm is not finite"


def describe_state(state: TrainState) -> str | None:
    """What is not finite about a state: the parameters, or else the carry; None: nothing."""
    if leaves := nonfinite_leaves(state.params):
        return f"the parameters are not finite in {leaves}"
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.carry))
    return None if finite else "the carry is not finite"


def dump(workdir: Path, step: int, **parts: Any) -> Path:
    """Writes trees of arrays under their names; returns the file's path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parts)
    arrays: Mapping[str, np.ndarray] = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(whole(leaf))
        for path, leaf in leaves
    }
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    path = workdir / FOLDER / f"step-{step}.npz"
    write_atomically(path, file.getvalue())
    return path


class Watch:
    """Stops a run, with a dump, where something is not finite that it cannot go on from.

    Args:
      check: called before a dump; raises where the folder is no longer the run's.
      on_nonfinite: the config's `train.on_nonfinite`.
    """

    def __init__(
        self,
        workdir: Path,
        checkpoints: Checkpoints,
        check: Callable[[], None],
        on_nonfinite: str,
    ) -> None:
        self._workdir, self._checkpoints, self._check = workdir, checkpoints, check
        self._on_nonfinite = on_nonfinite

    def check_infos(
        self, step: int, infos: StepInfo, state: TrainState, batches: Callable[[int, int], Batch]
    ) -> None:
        """Looks at the dispatch that ended at a step; `batches` has those from one step to
        another."""
        if infos.in_a_row is None:
            bad, what = ~finite_steps(infos), ""
        else:
            bad, what = (
                np.asarray(infos.in_a_row) >= MAX_IN_A_ROW,
                f"{MAX_IN_A_ROW} updates in a row skipped: ",
            )
        if bad.any():
            k, first = int(np.argmax(bad)), step - len(bad)
            what += describe_step(infos, k)
            parts = {"infos": infos, "batches": batches(first, step)}
            self._stop(first + k + 1, what, state=state, **parts)

    def check_state(self, state: TrainState) -> None:
        """Looks at what the last update left."""
        if what := describe_state(state):
            self._stop(int(state.step), what, state=state)

    def check_scores(self, scores: Mapping[str, float], state: TrainState) -> None:
        """Looks at what validation measured of a state."""
        if not np.isfinite([*scores.values()]).all():
            what = f"validation measured {', '.join(map(str, scores.values()))}"
            self._stop(int(state.step), what, state=state)

    def _stop(self, step: int, what: str, **parts: Any) -> NoReturn:
        """Dumps trees of arrays and says what is not finite and what to do."""
        self._checkpoints.wait()
        saved = self._checkpoints.steps()
        last = "would have been the first"
        if saved:
            last = f"is {self._checkpoints.path(saved[-1])}"
        self._check()
        path = dump(self._workdir, step, **parts)
        remedy = "lower optimizer.learning_rate or optimizer.clip_norm"
        if self._on_nonfinite == "stop":
            remedy += ", or take --config.train.on_nonfinite=skip"
        raise UserError(
            f"step {step}: {what}. The last good checkpoint {last}; the state is in {path}, for a "
            f"look with numpy.load. To go on, {remedy}, in another --workdir"
        )
