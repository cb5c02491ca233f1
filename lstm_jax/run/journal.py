"""The journal of a run: the lines of `metrics.jsonl`, and the samples, as they come."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.model import named_leaves
from lstm_jax.run.metrics import METRICS, append_metrics, append_sample, read_metrics
from lstm_jax.run.nonfinite import finite_steps
from lstm_jax.terminal import warn
from lstm_jax.train import StepInfo

OnMetrics = Callable[[dict[str, Any]], None]


def leaf_norms(infos: StepInfo, of: np.ndarray) -> dict[str, float]:
    """The mean norm of each leaf's gradient over some steps, in the six digits that it has."""
    means = {
        name: norm_K[of].mean(dtype=np.float64)
        for name, norm_K in named_leaves(infos.leaf_norms).items()
    }
    return {f"grad_norm/{name}": float(f"{mean:.6g}") for name, mean in means.items()}


class Journal:
    """What a run writes down while it trains.

    Args:
      step: where the run is.
      targets: how many of a step's targets count; those of the first batch.
      check: called before anything is written; raises where the folder is no longer the run's.
      on_metrics: called with each line that was written.
    """

    def __init__(
        self,
        workdir: Path,
        step: int,
        targets: int,
        check: Callable[[], None],
        on_metrics: OnMetrics | None,
    ) -> None:
        self._workdir, self._targets, self._check = workdir, targets, check
        self._on_metrics = on_metrics
        last = self._last_before(step)
        self.seconds = last["seconds"]  # that all steps so far took
        self.compile_seconds = last.get("compile_seconds", 0.0)

    def _last_before(self, step: int) -> dict[str, float]:
        """The line of the steps before this one; warns where there is none."""
        last = [{"step": 0, "seconds": 0.0}, *read_metrics(self._workdir)][-1]
        if last["step"] < step:
            warn(
                f"{self._workdir / METRICS} does not reach step {step}, where the checkpoint is: "
                "curves, seconds and a triggered average go by what is left of it"
            )
        return last

    def targets_at(self, step: int) -> int:
        """How many targets were seen up to a step."""
        return step * self._targets

    def line(self, step: int, infos: StepInfo, seconds: float) -> dict[str, Any]:
        """A line for the dispatch that ended at a step; means are over the updates made in it."""
        self.seconds += seconds
        finite = finite_steps(infos)
        line: dict[str, Any] = {"step": step, "targets": self.targets_at(step)}
        if finite.any():
            line["train_loss"] = float(infos.loss[finite].mean(dtype=np.float64))
            line["grad_norm"] = float(infos.grad_norm[finite].mean(dtype=np.float64))
            line |= leaf_norms(infos, finite)
        line |= {
            "learning_rate": float(infos.learning_rate[-1]),
            "targets_per_second": round(self.targets_at(len(finite)) / seconds),
            "seconds": round(self.seconds, 3),
            "compile_seconds": round(self.compile_seconds, 3),
        }
        if infos.skipped is not None:
            line["skipped"] = int(infos.skipped[-1])
        return line

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return read_metrics(self._workdir)

    def write(self, line: dict[str, Any]) -> None:
        """Adds a line."""
        self._check()
        append_metrics(self._workdir, line)
        if self._on_metrics is not None:
            self._on_metrics(line)

    def write_sample(self, step: int, scores: Mapping[str, float], unit: str, text: str) -> None:
        """Adds a sample of the parameters that were so scored."""
        self._check()
        append_sample(self._workdir, step, scores, unit, text)
