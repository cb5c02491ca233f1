"""Progress on stderr: a bar on a terminal, plain lines elsewhere.

Nothing that goes wrong on the way there ends a training: what cannot be shown is left out. Where a
reader has gone away (`head`, a `tee` that died), that is noted, as the shell would have it.
"""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lstm_jax.run.metrics import AVERAGE, brief, counted, in_digits, kept
from lstm_jax.terminal import UNHEARD, Bar, on_terminal, put

LINE_EVERY_S = 10.0


class Progress:
    """Shows the step, the losses, the speed and the time left.

    Args:
      unit: of a loss, such as `nats/char`.
      seconds: what the steps that are done have taken.
    """

    def __init__(self, steps: int, done: int, unit: str, seconds: float = 0.0) -> None:
        self._unit, self._counted = unit, f"{counted(unit)}s"
        self._steps, self._done, self._seconds = steps, done, seconds
        # The step after the first validation, and what the clock and the line said there.
        self._validated: tuple[int, float, float] | None = None
        self._val, self._last_line = "", -LINE_EVERY_S
        self._paced: dict[str, Any] | None = None  # the line that the speed is counted from
        self.reader_left = False
        self._bar = None
        with self._shown():
            if on_terminal(sys.stderr):
                self._bar = Bar(total=steps, initial=done, unit="step", dynamic_ncols=True)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Around what writes to stderr."""
        try:
            yield
        except BrokenPipeError:
            self.reader_left = True
        except UNHEARD:  # a terminal that was closed, a log on a full disk
            pass

    def update(self, line: dict[str, Any]) -> None:
        """Shows a line of metrics."""
        with self._shown():
            self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        if validated := kept(line):
            of = " of the average" if next(iter(validated)).endswith(AVERAGE) else ""
            self._val = f"  {'validation' if self._bar is None else 'val'}{of}" + "".join(
                f" {brief(name)} {in_digits(value)}" for name, value in validated.items()
            )
        skipped = f"  {line['skipped']} updates skipped" if line.get("skipped") else ""
        # A bar is one line, which keeps what the last validation found; others say it once.
        val = self._val if validated or self._bar is not None else ""
        text = (
            f"loss {in_digits(line.get('train_loss', math.nan))} {self._unit}{val}{skipped}  "
            f"{self._targets_per_second(line):,.0f} {self._counted}/s"
        )
        if validated or self._paced is None:
            self._paced = line
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            self._bar.update(line["step"] - self._bar.n)
            return
        now = time.monotonic()
        if validated or now - self._last_line >= LINE_EVERY_S or line["step"] == self._steps:
            self._last_line = now
            left = in_time(self._seconds_left(line, now))
            ahead = f"  {left} left" if line["step"] < self._steps else ""
            put(f"step {line['step']}/{self._steps}  {text}{ahead}")
        if validated and self._validated is None:
            self._validated = line["step"], now, line["seconds"]

    def _seconds_left(self, line: dict[str, Any], now: float) -> float:
        """By what a step takes, and what else it has cost since the first validation, which had to
        be compiled."""
        rate = (line["seconds"] - self._seconds) / max(line["step"] - self._done, 1)
        if self._validated is not None:
            step, then, seconds = self._validated
            rate += (now - then - line["seconds"] + seconds) / max(line["step"] - step, 1)
        return rate * (self._steps - line["step"])

    def _targets_per_second(self, line: dict[str, Any]) -> float:
        """The speed since the last validation: one dispatch is too short to tell it by, for a GPU's
        are queued, and when one is read the next may be half done."""
        if self._paced is None:
            return line["targets_per_second"]
        seconds = line["seconds"] - self._paced["seconds"]
        return (line["targets"] - self._paced["targets"]) / max(seconds, 1e-9)

    def close(self) -> None:
        with self._shown():
            if self._bar is not None:
                self._bar.close()


def in_time(seconds: float) -> str:
    """How long something takes, as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
