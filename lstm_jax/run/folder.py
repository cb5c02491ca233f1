"""The folder of a run: what lies in it, and whether a run may write there."""

import re
from pathlib import Path

from lstm_jax.errors import UserError, shorten
from lstm_jax.files import check_plain, read_json
from lstm_jax.run.checkpoint import DAMAGED
from lstm_jax.run.checkpoint import FOLDER as CHECKPOINTS
from lstm_jax.run.description import Description, OtherFormat, options_of, read_description
from lstm_jax.run.lock import LOCK
from lstm_jax.run.metrics import METRICS, SAMPLES, SUMMARY
from lstm_jax.run.nonfinite import FOLDER as DUMPS
from lstm_jax.terminal import say, warn

CONFIG, FIGURES, TENSORBOARD = "config.json", "figures", "tensorboard"
LONGEST_TITLE = 200
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
            f"{workdir} holds another run: {'; '.join(differ)}; choose another --workdir "
            f"(--init_from={workdir} begins there with this one's parameters), or delete that one"
        )


def recorded_title(workdir: Path) -> str:
    """What the run in a folder is called; empty: nobody knows."""
    try:
        title = read_json(workdir / CONFIG)["title"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return title[:LONGEST_TITLE] if isinstance(title, str) else ""


def say_what_changes(workdir: Path, description: Description) -> None:
    """Says which options of a run that goes on are not what they were."""
    path = workdir / CONFIG
    if not path.exists():
        return
    there, here = (options_of(d["config"]) for d in (read_json(path), description.to_json()))
    changed = [key for key in here if here[key] != there[key]]
    for key in changed:
        say(f"{key} was {shorten(there[key])} and is {shorten(here[key])} from here on")
    if any(key.startswith("evaluate.") for key in changed):
        warn("losses from here on are by another protocol than those before; the best is of both")


def check_place(workdir: Path) -> None:
    """Refuses a folder in which checkpoints would be written that cannot be read."""
    if misread := NO_PLACE.search(workdir.absolute().as_posix()):
        raise UserError(
            f"no checkpoint can be kept below {workdir.absolute()}, because of the "
            f"{misread[0].strip('/')} in that name: choose another --workdir"
        )
