"""What a run is called that nobody has named: its folder below runs/, and its title."""

import re
from pathlib import Path

from lstm_jax.config import Config

LONGEST = 40  # characters of a part; a folder's name has 255 bytes


def run_name(experiment: str, own: Config, config: Config) -> str:
    """An experiment's name, or its file's, and what is learnt, where that is not its own."""
    parts, data = [experiment.removesuffix(".py")], config.data
    if data.task != own.data.task:
        parts.append(data.task)
    if data.path != own.data.path:
        parts.append(Path(data.path).stem if data.path else data.corpus)
    elif data.corpus != own.data.corpus and not data.path:
        parts.append(data.corpus)
    return "-".join(as_name(Path(part).name) for part in parts)


def as_name(text: str) -> str:
    """A text as a part of a folder's name: letters, digits, dots, - and _, with no dot first."""
    return re.sub(r"[^\w.-]+", "_", text[:LONGEST]).strip("._-") or "text"
