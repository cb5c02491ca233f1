"""What a run writes down while it goes: `metrics.jsonl`, `samples.txt`, `summary.json`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_jax.errors import UserError, shorten
from lstm_jax.files import append, parse_json, write_atomically, write_json

METRICS, SAMPLES, SUMMARY = "metrics.jsonl", "samples.txt", "summary.json"
AVERAGE = "_average"  # ends the names of the average's losses
LOSSES = {"val_loss_stream", "val_loss_windows"}
WRITTEN = {"step", "characters", "learning_rate", "seconds"}  # in every line
LIMIT_BYTES = 2**31  # some eight million dispatches
LARGEST = 1e40  # more than any number of float32
SAMPLE_HEAD = re.compile(r"^={12} step (\d{1,10}) .*={12}$", re.MULTILINE)


def whole_lines(path: Path) -> str:
    """A file's text without a last line that was cut by a crash or a full disk."""
    if not path.exists():
        return ""
    if (size := path.stat().st_size) > LIMIT_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than {LIMIT_BYTES:,}")
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1].decode()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, one dict a dispatch."""
    path = workdir / METRICS
    try:
        return [parse_line(line) for line in whole_lines(path).splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); mend or delete it") from error


def parse_line(line: str) -> dict[str, float]:
    """One line of metrics: a name for each number; ValueError where it is anything else."""
    found = parse_json(line)
    if not isinstance(found, dict) or not found.keys() >= WRITTEN:
        raise ValueError(f"a line is no metrics: {shorten(line)}")
    for of in ("", AVERAGE):
        if (f"val_loss_stream{of}" in found) != (f"val_loss_windows{of}" in found):
            raise ValueError(f"a line has one of two validation losses: {shorten(line)}")
    return check_numbers(found)


def check_numbers(found: dict[str, Any]) -> dict[str, float]:
    """What was read, where it is finite numbers; else a ValueError."""
    for name, value in found.items():
        if type(value) not in (int, float) or not abs(value) < LARGEST:
            raise ValueError(f"{shorten(name)} is {shorten(value)}")
    return found


def check_losses(found: Any) -> dict[str, float]:
    """The validation losses beside a checkpoint; ValueError where they are none."""
    if not isinstance(found, dict) or not found.keys() >= LOSSES:
        raise ValueError(f"no validation losses: {shorten(found)}")
    return check_numbers(found)


def kept_suffix(metrics: Mapping[str, float]) -> str:
    """How the names of the losses of the parameters that are kept end: as those of their average,
    where there is one."""
    return AVERAGE if f"val_loss_stream{AVERAGE}" in metrics else ""


def kept_losses(metrics: Mapping[str, float]) -> tuple[float, float]:
    """The validation losses, `stream` and `windows`, of the parameters that are kept."""
    of = kept_suffix(metrics)
    return metrics[f"val_loss_stream{of}"], metrics[f"val_loss_windows{of}"]


def append_metrics(workdir: Path, line: dict[str, Any]) -> None:
    append(workdir / METRICS, (json.dumps(line, allow_nan=False) + "\n").encode())


def append_sample(workdir: Path, step: int, losses: Mapping[str, float], text: str) -> None:
    """Adds a sample below a line with the step and, where one was scored, the loss by `stream`."""
    name = f"val_loss_stream{kept_suffix(losses)}"
    loss = f"{name} {losses[name]:.4f} nats/char " if name in losses else ""
    head = f"{'=' * 12} step {step} {loss}{'=' * 12}"
    append(workdir / SAMPLES, f"{head}\n{text}\n\n".encode())


def rewind(workdir: Path, step: int) -> None:
    """Takes back what was written after `step`, so that a resumed run writes each step once."""
    kept = [line for line in read_metrics(workdir) if line["step"] <= step]
    write_atomically(workdir / METRICS, "".join(json.dumps(m) + "\n" for m in kept).encode())
    samples = workdir / SAMPLES
    if samples.exists():
        try:
            text = whole_lines(samples)
        except ValueError as error:
            raise UserError(f"{samples} is damaged ({error}); mend or delete it") from error
        late = (m.start() for m in SAMPLE_HEAD.finditer(text) if int(m[1]) > step)
        write_atomically(samples, text[: next(late, len(text))].encode())


def write_summary(workdir: Path, summary: dict[str, Any]) -> None:
    write_json(workdir / SUMMARY, summary)
