"""Values that are not finite: where they came up, and everything around them for a look.

Read a dump with `numpy.load(path)`, a mapping from names (`state.params.layers.0.U`,
`infos.loss`, `batches.inputs`) to arrays; the infos and batches have a leading axis K, one entry
for each step of the dispatch, and the state is the one after the last of them.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lstm_jax.files import write_atomically
from lstm_jax.model import ModelParams, named_leaves
from lstm_jax.train import StepInfo, TrainState

FOLDER = "nonfinite"


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
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    path = workdir / FOLDER / f"step-{step}.npz"
    write_atomically(path, file.getvalue())
    return path
