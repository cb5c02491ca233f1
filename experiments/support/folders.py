"""The folders that a command names, and the run that is in one."""

import stat
from collections.abc import Collection
from pathlib import Path

from experiments.support.scoring import check_text_of_run
from lstm_jax.config import Config
from lstm_jax.errors import UserError
from lstm_jax.files import check_plain, named
from lstm_jax.run.description import Description, OtherFormat, read_description
from lstm_jax.run.folder import CONFIG, RUN_FILES

SWEEP = "sweep.json"  # what tells the folder of a sweep from a run's


def check_usable(folder: Path, flag: str) -> None:
    """Refuses what can be no run's folder."""
    try:
        str(folder).encode()  # what writes the checkpoints takes no other names
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL inside the path
        reason = getattr(error, "strerror", error)
        raise UserError(f"--{flag}={folder} cannot be used ({reason}): choose another") from error
    if not is_folder:
        raise UserError(f"--{flag}={folder} is a file, not a folder: choose another")
    check_plain(folder, RUN_FILES)


def check_no_other(folder: Path, sweep: bool) -> None:
    """Refuses the folder of a sweep for a run, and that of a run for a sweep."""
    if not sweep and (folder / SWEEP).exists():
        raise UserError(
            f"{folder} holds a sweep: name the folder of one of its runs, or give its --sweep "
            "flags again"
        )
    if sweep and (folder / CONFIG).exists():
        raise UserError(f"{folder} holds a run, which is no sweep: choose another --workdir")


def described_in(folder: Path) -> Description:
    """What the run in a folder is; UserError where it cannot be known."""
    path = folder / CONFIG
    try:
        return Description.from_json(read_description(path))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no {CONFIG}, and so no run: name another") from error
    except OtherFormat:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): give --experiment=FILE.py --config_file={path} if "
            "it is of an experiment in a file, else choose another folder"
        ) from error


def check_own_text(described: Description, config: Config, given: Collection[str]) -> None:
    """Refuses files that a run's folder names, not the user, and that nobody should wait for."""
    for name in ("", "validation_", "test_"):
        path, option = getattr(config.data, f"{name}path"), f"data.{name}path"
        if path and option not in given:
            wanted = described.identity.get(f"{name}sha256", "")
            check_text_of_run(named(path), wanted, option)
