"""Where trials are, in a file: they go on there after a stop."""

import io
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.errors import UserError
from lstm_jax.files import write_atomically

Tree = TypeVar("Tree")


def save(path: Path, state: Any, **beside: Any) -> None:
    """Writes a state's arrays, and numbers or arrays beside it."""
    buffer = io.BytesIO()
    np.savez(buffer, *map(np.asarray, jax.tree.leaves(state)), **beside)
    write_atomically(path, buffer.getvalue())


def load(path: Path, like: Tree) -> tuple[Tree, dict[str, np.ndarray]]:
    """A state as `save` wrote it, and what was beside it, by name.

    UserError where the file is damaged, or of other trials than those of `like`.
    """
    old, tree = jax.tree.flatten(like)
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            known = {name: saved[name] for name in saved.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): delete it") from error
    new = [known.pop(f"arr_{n}", None) for n in range(len(old))]
    if [None if leaf is None else leaf.shape for leaf in new] != [leaf.shape for leaf in old]:
        raise UserError(f"{path} is of other trials: take another folder")
    return jax.tree.unflatten(tree, map(jnp.asarray, new)), known
