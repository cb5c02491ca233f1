"""Files of named tensors, with words beside them: safetensors, which runs nothing when it is read.

A file of PyTorch's own is a pickle, which may run anything, and is refused.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.errors import UserError
from lstm_jax.files import write_atomically
from lstm_jax.interchange.libraries import needing


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], said: Mapping[str, str]) -> None:
    """Writes arrays, made contiguous first: of a transposed one safetensors 0.8 writes the memory
    as it lies."""
    with needing("safetensors"):
        from safetensors.numpy import save
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_atomically(path, save(arrays, metadata=dict(said)))


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The arrays of a file, and what it says of itself."""
    with needing("safetensors"):
        from safetensors import SafetensorError, safe_open
    try:
        with safe_open(str(path), framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise refusal(path, error) from error


def refusal(path: Path, error: Exception) -> UserError:
    """What to say of a file that is none of safetensors."""
    try:
        with open(path, "rb") as file:
            pickled = file.read(1) == b"\x80" or is_torch_archive(path)
    except (OSError, ValueError) as why:
        return UserError(f"it cannot be read: {getattr(why, 'strerror', why)}")
    if pickled:
        return UserError(
            "it is a pickle, as torch.save writes it, and reading one may run anything: where it "
            "is trusted, write it again with safetensors.torch.save_file(model.state_dict(), "
            "'model.safetensors')"
        )
    return UserError(f"it is no file of safetensors ({error})")


def is_torch_archive(path: Path) -> bool:
    """Whether a file is a zip with a pickle in it, as PyTorch writes one; nothing is unpacked."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError):
        return False
