"""`--log=tensorboard`: metrics, samples and curves of a run, for TensorBoard to show while it goes.

Events are written at once, by what lies below tensorboardX's `SummaryWriter`. That one has a thread
and a queue, and waits for ever once the thread has died of a full disk.
"""

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from lstm_jax.errors import UserError
from lstm_jax.terminal import say, warn

FLUSH_EVERY_S = 10.0  # each flush waits for the disk


class TensorBoard:
    """Writes events into a folder, a file for each process.

    Where that fails there is one warning and no further attempt: the run goes on.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"--log=tensorboard needs tensorboardX ({error}): run pip install tensorboardX, or "
                "leave --log out"
            ) from error
        self._folder, self._step, self._drawn = folder, 0, 0
        self._events: Any = None
        self._flushed_s, self._failed = 0.0, False

    @property
    def hooks(self) -> dict[str, Callable[..., None]]:
        """What a `Run` is to call."""
        return {"on_metrics": self.metrics, "on_sample": self.sample, "on_curves": self.curves}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._attempt(self._events.close)

    def begin(self, step: int) -> None:
        """Says where the run is: what is there of later steps will be written again."""
        self._step = self._drawn = step
        say(f"to watch it: tensorboard --logdir={self._folder}")

    def metrics(self, line: dict[str, Any]) -> None:
        """Adds the numbers of a line of metrics, by their names in `metrics.jsonl`."""
        self._add(line["step"], lambda: scalars(line))

    def sample(self, step: int, text: str) -> None:
        self._add(step, lambda: code(text))

    def curves(self, step: int, path: Path) -> None:
        """Adds a picture of the curves, a PNG, once for a step; all so far is then on disk."""
        if step > self._drawn:
            self._add(step, lambda: image("curves", path.read_bytes()), flush=True)
            self._drawn = step

    def _add(self, step: int, summary: Callable[[], Any], flush: bool = False) -> None:
        if not self._failed:
            self._attempt(lambda: self._write(step, summary(), flush))

    def _attempt(self, write: Callable[[], object]) -> None:
        try:
            write()
        except Exception as error:  # whatever it is, it is not worth a run
            if not self._failed:
                warn(
                    f"nothing more is written into {self._folder} "
                    f"({error or type(error).__name__}); the run goes on"
                )
            self._failed = True

    def _open(self) -> Any:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        events = EventsWriter(str(self._folder.absolute() / "events"), f".{self._step}")
        # TensorBoard lets go of what earlier files have of this step and those after it.
        start, now = SessionLog(status=SessionLog.START), time.time()
        events.write_event(Event(step=self._step + 1, session_log=start, wall_time=now))
        return events

    def _write(self, step: int, summary: Any, flush: bool) -> None:
        from tensorboardX.proto.event_pb2 import Event

        if self._events is None:
            self._events = self._open()
        now = time.time()
        self._events.write_event(Event(step=step, summary=summary, wall_time=now))
        if flush or now - self._flushed_s >= FLUSH_EVERY_S:
            self._events.flush()
            self._flushed_s = now


def scalars(line: dict[str, Any]) -> Any:
    """The numbers of a line, but for the step, which every event has."""
    from tensorboardX.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=k, simple_value=v) for k, v in line.items() if k != "step"]
    return Summary(value=values)


def code(text: str) -> Any:
    """A sample as it is: what is indented by four spaces is no Markdown."""
    from tensorboardX.summary import text as text_summary

    return text_summary("sample", "\n".join(f"    {line}" for line in text.split("\n")))


def image(tag: str, png: bytes) -> Any:
    from tensorboardX.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", png[16:24])
    picture = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=picture)])
