"""The folder of a run: what lies in it, and whether a run may write there."""

import re
from pathlib import Path

from lstm_jax.errors import UserError
from lstm_jax.files import check_plain
from lstm_jax.run.checkpoint import DAMAGED
from lstm_jax.run.checkpoint import FOLDER as CHECKPOINTS
from lstm_jax.run.description import Description, OtherFormat, read_description
from lstm_jax.run.lock import LOCK
from lstm_jax.run.metrics import METRICS, SAMPLES, SUMMARY
from lstm_jax.run.nonfinite import FOLDER as DUMPS

CONFIG, FIGURES, TENSORBOARD = "config.json", "figures", "tensorboard"
RUN_FILES = (
    *(CONFIG, METRICS, SAMPLES, SUMMARY, FIGURES, TENSORBOARD),
    *(CHECKPOINTS, DAMAGED, DUMPS, LOCK),
)
# Below such a folder orbax writes what nobody can read: it takes the first for patterns of names,
# and the last for a storage of Google's.
NO_PLACE = re.compile(r"[\[\]]|(^|/)gs:(/|$)")


def check_folder(workdir: Path, description: Description) -> None:
    """Refuses a folder whose config.json is of another run, or cannot be read.

    Refuses one with a link or a pipe where a run would write, too."""
    check_place(workdir)
    check_plain(workdir, RUN_FILES)
    path = workdir / CONFIG
    if not path.exists():
        return
    try:
        differ = description.differences(read_description(path))
    except OtherFormat:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); choose another --workdir") from error
    refuse_other_run(workdir, differ)


def refuse_other_run(workdir: Path, differ: list[str]) -> None:
    """Raises UserError where a run differs from the one in a folder, in phrases."""
    if differ:
        raise UserError(
            f"{workdir} holds another run: {'; '.join(differ)}; choose another --workdir, or "
            "delete that one"
        )


def check_place(workdir: Path) -> None:
    """Refuses a folder in which checkpoints would be written that cannot be read."""
    if misread := NO_PLACE.search(workdir.absolute().as_posix()):
        raise UserError(
            f"no checkpoint can be kept below {workdir.absolute()}, because of the "
            f"{misread[0].strip('/')} in that name: choose another --workdir"
        )
