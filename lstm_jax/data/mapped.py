"""A file as an array that the system reads where it is looked at: it may be larger than memory."""

import io
import os
from typing import BinaryIO

import numpy as np

from lstm_jax.errors import UserError


def mapped(file: BinaryIO, name: str, dtype: np.dtype) -> np.ndarray:
    """The numbers in a file, read-only; in memory where it is none, as what came by a pipe."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise UserError(f"{name} is empty: there is nothing to learn from it")
    if size % dtype.itemsize:
        raise UserError(
            f"{name} has {size:,} bytes, which is no whole number of {dtype.name}, of "
            f"{dtype.itemsize} bytes each"
        )
    if isinstance(file, io.BytesIO):
        return np.frombuffer(file.getbuffer(), dtype)
    return np.asarray(np.memmap(file, dtype, "r"))
