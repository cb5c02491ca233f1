"""What a run writes down while it goes: `metrics.jsonl`, `samples.txt`, `summary.json`."""

import json
import re
from pathlib import Path
from typing import Any

from lstm_jax.config import UserError
from lstm_jax.files import write_atomically

METRICS, SAMPLES, SUMMARY = "metrics.jsonl", "samples.txt", "summary.json"
SAMPLE_HEAD = re.compile(r"^={12} step (\d+) .*={12}$", re.MULTILINE)


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, one dict a dispatch."""
    path = workdir / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    try:  # a last line without its end was cut by a crash
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); mend or delete it") from error


def append_metrics(workdir: Path, line: dict[str, Any]) -> None:
    with open(workdir / METRICS, "a") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def append_sample(workdir: Path, step: int, val_loss: float | None, text: str) -> None:
    loss = "" if val_loss is None else f"val_loss_stream {val_loss:.4f} nats/char "
    with open(workdir / SAMPLES, "a", encoding="utf-8", newline="") as file:
        file.write(f"{'=' * 12} step {step} {loss}{'=' * 12}\n{text}\n\n")


def rewind(workdir: Path, step: int) -> None:
    """Takes back what was written after `step`, so that a resumed run writes each step once."""
    kept = [line for line in read_metrics(workdir) if line["step"] <= step]
    write_atomically(workdir / METRICS, "".join(json.dumps(m) + "\n" for m in kept).encode())
    samples = workdir / SAMPLES
    if samples.exists():
        text = samples.read_bytes().decode()
        late = (m.start() for m in SAMPLE_HEAD.finditer(text) if int(m[1]) > step)
        write_atomically(samples, text[: next(late, len(text))].encode())


def write_summary(workdir: Path, summary: dict[str, Any]) -> None:
    write_atomically(workdir / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
