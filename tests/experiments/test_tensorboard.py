"""What `--log=tensorboard` writes, read by the format of the files; and that it costs no run."""

import struct
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from experiments.support.tensorboard import TensorBoard
from lstm_jax.errors import UserError
from lstm_jax.run.metrics import read_metrics
from tests.cli import EVALUATE, TEXT, TRAIN, call, is_one_line, line_of, process_in

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 3, 2) + b"the rest"


def events_in(folder):
    """All events, file by file: each is its length, a checksum, itself and another checksum."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def shown(folder):
    """(step, name, value) of each event that TensorBoard shows: a session's start lets go of what
    is there of its step and of those after it."""
    found = []
    for event in events_in(folder):
        if event.session_log.status == SessionLog.START:
            found = [entry for entry in found if entry[0] < event.step]
        for value in event.summary.value:
            texts = [text.decode() for text in value.tensor.string_val]
            png = value.image.encoded_image_string
            found.append((event.step, value.tag, png or "".join(texts) or value.simple_value))
    return found


def write(folder, first, last, picture):
    with TensorBoard(folder) as board:
        board.begin(first)
        for step in range(first + 1, last + 1):
            board.sample(step, f"{step}\n* no list")
            board.metrics({"step": step, "train_loss": step / 2, "grad_norm/layers[0].U": 0.25})
            board.curves(step, picture)
        board.curves(last, picture)


def test_a_run_that_goes_on_writes_each_step_once(tmp_path):
    picture, folder = tmp_path / "curves.png", tmp_path / "tensorboard"
    picture.write_bytes(PNG)
    for first, last in ((0, 4), (2, 5), (5, 5)):  # killed after a save at 2; and finished
        write(folder, first, last, picture)
    assert shown(folder) == [
        entry
        for step in range(1, 6)
        for entry in (
            (step, "sample/text_summary", f"    {step}\n    * no list"),
            (step, "train_loss", step / 2),
            (step, "grad_norm/layers[0].U", 0.25),
            (step, "curves", PNG),
        )
    ]
    sizes = [v.image for e in events_in(folder) for v in e.summary.value if v.tag == "curves"]
    assert {(size.width, size.height) for size in sizes} == {(3, 2)}
    assert len([*folder.iterdir()]) == 2


def test_what_cannot_be_written_is_said_once_and_costs_nothing(tmp_path, capfd):
    (tmp_path / "file").write_bytes(b"")
    write(tmp_path / "file", 0, 3, tmp_path / "no.png")
    write(tmp_path / "folder", 0, 3, tmp_path / "no.png")
    lines = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 2 and all("; the run goes on" in line for line in lines)
    assert "file (" in lines[0] and "no.png" in lines[1]


def test_a_full_disk_is_said_once(tmp_path, capfd):
    class Full:
        def write_event(self, event):
            raise OSError("No space left on device")

        flush = close = lambda self: self.write_event(None)

    with TensorBoard(tmp_path) as board:
        board._open = Full
        for step in (1, 2):
            board.sample(step, "a text")
    assert capfd.readouterr().err.count("No space left on device); the run goes on") == 1


def test_without_the_package_it_is_said_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="run pip install tensorboardX, or leave --log out"):
        TensorBoard(tmp_path)


def test_on_the_command_line(tmp_path):
    (tmp_path / "text").write_bytes(TEXT)
    with process_in(tmp_path):
        found = call(*line_of(TRAIN), "--log=tensorboard")
        others = (("--experiment=benchmark",), line_of(EVALUATE))
        refused = [call(*line, "--log=tensorboard") for line in others]
    assert found.code == 0 and "to watch it: tensorboard --logdir=run/tensorboard\n" in found.stderr
    folder = tmp_path / "run"
    written = {name: value for _, name, value in shown(folder / "tensorboard")}
    for name, value in read_metrics(folder)[0].items():
        assert name == "step" or written.pop(name) == pytest.approx(value)
    text = written.pop("sample/text_summary").removeprefix("    ").replace("\n    ", "\n")
    assert found.stdout.endswith(f"\n{text}\n")
    assert written == {"curves": (folder / "figures" / "curves.png").read_bytes()}
    for code, _, stderr in refused:
        assert code == 2 and is_one_line(stderr) and "--log means nothing to" in stderr
