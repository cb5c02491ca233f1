"""Writing a file whole or not at all."""

import os
import tempfile
from pathlib import Path

from lstm_jax.config import UserError


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside the file's place first, then moves it there; makes the folders it needs."""
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            part = file.name
            file.write(data)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the path
        if part is not None and os.path.exists(part):
            os.unlink(part)
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', error)}") from error
