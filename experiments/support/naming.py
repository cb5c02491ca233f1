"""What a run is called that nobody has named: its folder below runs/, and its title."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LONGEST = 40  # characters of a part; a folder's name has at most 255 bytes
NAMING = ("data.task", "data.corpus", "data.path")


def run_name(experiment: str, own: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """An experiment's name, or its file's, and what is learnt where that is not its own.

    `own` and `values` are configs, flattened: the experiment's, and as it is changed.
    """
    task, corpus, path = ((own[name], values[name]) for name in NAMING)
    parts = [Path(experiment).name.removesuffix(".py")]
    if task[0] != task[1]:
        parts.append(task[1])
    if path[1] and path[0] != path[1]:
        parts.append(Path(path[1]).stem)
    elif not path[1] and (path[0] or corpus[0] != corpus[1]):
        parts.append(corpus[1])
    return "-".join(map(as_name, parts))


def as_name(text: str) -> str:
    """A text as a part of a folder's name: letters, digits and _, with dots and - between them."""
    return re.sub(r"[^\w.-]+", "_", text[:LONGEST]).strip("._-") or "text"
