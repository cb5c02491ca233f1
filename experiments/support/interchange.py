"""What `--mode=export` and `--mode=import` do: weights out of a run, and into one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_jax.files import named
from lstm_jax.interchange.runs import export_run, import_run
from lstm_jax.model import count_parameters
from lstm_jax.terminal import say


def export_weights(workdir: Path, name: str | None, to: str | None, checkpoint: str) -> int:
    """Writes a checkpoint's weights into a file."""
    assert name and to  # without which it is not called
    for path in export_run(workdir, name, named(to), checkpoint):
        say(f"written to {path}, for {name}: {path.stat().st_size / 1e6:,.2f} MB")
    return 0


def import_weights(
    of: str | None, workdir: Path, name: str | None, changes: Mapping[str, Any]
) -> int:
    """Makes a new run of a file's weights."""
    assert of  # without which it is not called
    params, description = import_run(named(of), workdir, name, changes)
    model, count = description.config.model, sum(count_parameters(params).values())
    sizes = ", ".join(map(str, model.layer_sizes))
    say(f"{workdir} has a model of {count:,} parameters: {model.cell}, layers of {sizes} units")
    if description.config.data.task == "text" and "sha256" not in description.identity:
        say(
            "it is of an alphabet and of no text. Next: --mode=sample, or --mode=evaluate with "
            f"--text=FILE; to train, --init_from={workdir} --config.data.path=FILE"
        )
    else:
        say(f"next: --mode=sample, --mode=evaluate, or training, with --workdir={workdir}")
    return 0
