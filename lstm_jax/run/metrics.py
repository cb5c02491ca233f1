"""What a run writes down while it goes: `metrics.jsonl`, `samples.txt`, `summary.json`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_jax.errors import UserError, shorten
from lstm_jax.files import append, parse_json, write_atomically, write_json

METRICS, SAMPLES, SUMMARY = "metrics.jsonl", "samples.txt", "summary.json"
AVERAGE = "_average"  # ends the names of the average's scores
MEASURED = re.compile(r"val_\w{1,60}", re.ASCII)  # what a validation's lines have more
WRITTEN = {"step", "targets", "learning_rate", "seconds"}  # in every line
LIMIT_BYTES = 2**31  # some three million dispatches
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
    """The lines of `metrics.jsonl`, one dict per dispatch."""
    path = workdir / METRICS
    try:
        return [parse_line(line) for line in whole_lines(path).splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); mend or delete it") from error


def parse_line(line: str) -> dict[str, float]:
    """One line of metrics: a name for each number; ValueError where it is anything else."""
    numbers = parse_json(line)
    if not isinstance(numbers, dict) or not numbers.keys() >= WRITTEN:
        raise ValueError(f"a line is no metrics: {shorten(line)}")
    check_averages(numbers)
    return check_numbers(numbers)


def check_numbers(numbers: dict[str, Any]) -> dict[str, float]:
    """What was read, where it is finite numbers; else a ValueError."""
    for name, value in numbers.items():
        if type(value) not in (int, float) or not abs(value) < LARGEST:
            raise ValueError(f"{shorten(name)} is {shorten(value)}")
    return numbers


def check_scores(scores: Any) -> dict[str, float]:
    """What validation measured, beside a checkpoint; ValueError where it is none of that."""
    if not isinstance(scores, dict) or not measured(scores):
        raise ValueError(f"no validation scores: {shorten(scores)}")
    check_averages(scores)
    return check_numbers(scores)


def check_averages(scores: Mapping[str, Any]) -> None:
    """Raises ValueError where an average was scored by some of the names, and not by all."""
    names = measured(scores)
    averaged = {name for name in names if name.endswith(AVERAGE)}
    if averaged and averaged != {name + AVERAGE for name in names.keys() - averaged}:
        raise ValueError(f"it has some of an average's scores: {shorten(scores)}")


def measured(line: Mapping[str, float]) -> dict[str, float]:
    """What validation measured, out of a line or a summary; the first is minimised."""
    return {name: value for name, value in line.items() if MEASURED.fullmatch(name)}


def kept(line: Mapping[str, float]) -> dict[str, float]:
    """What validation measured of the parameters that are kept: of their average, where there is
    one."""
    scores = measured(line)
    averaged = {name: value for name, value in scores.items() if name.endswith(AVERAGE)}
    return averaged or scores


def minimised(line: Mapping[str, float]) -> float:
    """What decides which parameters are best, out of what was measured."""
    return next(iter(kept(line).values()))


def brief(name: str) -> str:
    """A score's name without what all of them have in common."""
    return name.removeprefix("val_").removesuffix(AVERAGE).removeprefix("loss_")


def counted(unit: str) -> str:
    """What a loss in some unit is a mean of: of `nats/char` the `char`."""
    return unit.partition("/")[2] or "target"


def in_digits(value: float) -> str:
    """A value as it is printed: four decimals, or two digits where those would say nothing."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def append_metrics(workdir: Path, line: dict[str, Any]) -> None:
    append(workdir / METRICS, (json.dumps(line, allow_nan=False) + "\n").encode())


def append_sample(
    workdir: Path, step: int, scores: Mapping[str, float], unit: str, text: str
) -> None:
    """Adds a sample below a line with the step and what is minimised, where that was measured."""
    what = f"step {step}"
    for name, value in [*kept(scores).items()][:1]:
        what += f" {name} {in_digits(value)} {unit}"
    head = f"{'=' * 12} {what} {'=' * 12}"
    append(workdir / SAMPLES, f"{head}\n{text}\n\n".encode())


def rewind(workdir: Path, step: int) -> None:
    """Takes back what was written after `step`, so that a resumed run writes each step once."""
    lines = [line for line in read_metrics(workdir) if line["step"] <= step]
    write_atomically(workdir / METRICS, "".join(json.dumps(m) + "\n" for m in lines).encode())
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
