"""What is printed of what others wrote: nothing that a terminal would obey, nothing endless."""

import ast
import io
import json
import shutil
import sys
import threading
from pathlib import Path

import pytest

from lstm_jax import terminal
from tests.cli import EVALUATE, SAMPLE, TEXT, TRAIN, call, is_one_line, line_of, process_in

ROOT = Path(__file__).parent.parent
# Sets a terminal's title, clears its screen and writes over the line.
HOSTILE = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202e"
OBEYED = set(HOSTILE) - set("0;title[2J31m]")


def prints(path):
    """The lines of a module that write to a standard stream by themselves."""
    for node in ast.walk(ast.parse(path.read_text())):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id == "print":
            yield node.lineno
        written = isinstance(called, ast.Attribute) and called.attr in ("write", "writelines")
        if written and ast.unparse(called.value) in ("sys.stdout", "sys.stderr"):
            yield node.lineno


def test_one_module_prints():
    paths = [path for name in ("lstm_jax", "experiments") for path in (ROOT / name).rglob("*.py")]
    # The other does without this package.
    printing = {path.name for path in paths if [*prints(path)]}
    assert printing == {"terminal.py", "cuda_scan_alone.py"}


@pytest.mark.parametrize("tell", [terminal.say, terminal.warn, terminal.overwrite, terminal.show])
@pytest.mark.parametrize("message", [HOSTILE, HOSTILE * 10**5, "a" * 5_000_000, "\ud800"])
def test_no_message_is_obeyed_or_endless(tell, message, capsys):
    tell(message)
    found = capsys.readouterr()
    said = (found.out + found.err).removeprefix("\r").removesuffix("\n")
    assert said.isprintable() and 6 <= len(said) < 900


@pytest.mark.parametrize("tell", [terminal.say, terminal.warn, terminal.overwrite])
@pytest.mark.parametrize("closed", [False, True])
def test_a_message_that_nobody_takes_is_no_fault(tell, closed, monkeypatch, capsys):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if closed else None)
    tell("message")
    assert capsys.readouterr().out == ""


def test_a_shorter_line_covers_the_one_before(capsys):
    terminal.overwrite("a long one" * 7)
    terminal.overwrite("short")
    assert capsys.readouterr().err.rpartition("\r")[2] == "short".ljust(79)


def test_what_is_cut_keeps_its_ends(capsys):
    terminal.say(f"begins{'x' * 10**5}ends")
    assert capsys.readouterr().err.startswith("beginsxx")
    terminal.say("one\n\n  two  \r\nthree  four")
    assert capsys.readouterr().err == "one two three  four\n"


def test_results_keep_their_lines_and_columns(capsys):
    terminal.show("\na  1\nb\x1b  2")
    assert capsys.readouterr().out == "\na  1\nb\\x1b  2\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_no_control_characters_of_a_text_and_a_file_gets_them_all(monkeypatch):
    text = "to\tbe\r\n\0\x1b[2J\x7f\x85é\u200d\U0001f600"
    for stdout, wanted in (
        (io.StringIO(), text),
        (Terminal(), "to\tbe\\r\n\\x00\\x1b[2J\\x7f\\x85é\u200d\U0001f600"),
    ):
        monkeypatch.setattr(sys, "stdout", stdout)
        terminal.write(text)
        assert stdout.getvalue() == wanted


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a text of a hostile name, and a run on it."""
    folder = tmp_path_factory.mktemp("hostile names")
    (folder / HOSTILE).write_bytes(TEXT)
    with process_in(folder):
        yield folder, call(*line_of(TRAIN | {"config.data.path": HOSTILE}))


@pytest.fixture
def run(finished):
    """The run, to be spoilt."""
    folder, _ = finished
    yield shutil.copytree(folder / "run", folder / "spoilt")
    shutil.rmtree(folder / "spoilt")


def harmless(outcome):
    """Whether nothing was printed that a terminal would obey, or that goes on and on."""
    said = outcome.stdout + outcome.stderr
    return not OBEYED & set(said) and max(map(len, said.splitlines())) < 1000


def test_the_name_of_a_text(finished):
    _, trained = finished
    assert trained.code == 0 and harmless(trained) and "\\x1b]0;title\\x07" in trained.stderr
    scored = call(*line_of(EVALUATE))
    assert scored.code == 0 and harmless(scored) and "\\x1b]0;title\\x07" in scored.stderr


def test_the_name_of_a_folder(finished):
    folder, _ = finished
    (folder / f"{HOSTILE} run").mkdir()
    none = call(*line_of(EVALUATE | {"workdir": f"{HOSTILE} run"}))
    assert none.code == 2 and is_one_line(none.stderr) and "\\x1b]0;title" in none.stderr


@pytest.mark.parametrize("name", [HOSTILE.replace("\r", ""), "a" * 5_000_000])
def test_the_names_in_foreign_checksums(name, run):
    """Of the last checkpoint, which is damaged, beside a good one."""
    shutil.copytree(run / "checkpoints" / "1", run / "checkpoints" / "2")
    (run / "checkpoints" / "2" / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
    found = call(*line_of(EVALUATE | {"workdir": run.name}))
    assert found.code == 0 and harmless(found)
    assert "damaged and left out" in found.stderr and name[:3].replace("\x1b", "\\x1b") in (
        found.stderr
    )


def test_the_names_in_foreign_metrics(run):
    path = run / "metrics.jsonl"
    line = json.loads(path.read_text())
    names = [f"val_loss{HOSTILE}", f"val_loss{'a' * 5_000_000}"]
    path.write_text(json.dumps(line | dict.fromkeys(names, 1.0)) + "\n")
    found = call(*line_of(TRAIN | {"config.data.path": HOSTILE, "workdir": run.name}))
    assert found.code == 0 and harmless(found)


@pytest.mark.parametrize(
    "flags",
    [
        SAMPLE | {"prompt": HOSTILE},
        TRAIN | {"config.model.cell": HOSTILE},
        TRAIN | {"config.data.path": HOSTILE * 10**4},
        TRAIN | {f"config.{HOSTILE}": "1"},
        EVALUATE | {"ensemble": HOSTILE * 20},
    ],
)
def test_what_is_given_on_the_command_line(flags, finished):
    found = call(*line_of(flags))
    assert found.code == 2 and found.stdout == "" and is_one_line(found.stderr)


class Gone:
    """A terminal that was closed."""

    def write(self, _):
        raise BrokenPipeError

    def flush(self):
        pass


def test_a_bar_whose_terminal_is_gone_leaves_others_theirs():
    with pytest.raises(BrokenPipeError):
        terminal.Bar(total=2, file=Gone())
    free = []

    def take() -> None:
        for lock in terminal.Bar.get_lock().locks:
            free.append(lock.acquire(True, 0.5) and lock.release() is None)

    other = threading.Thread(target=take)
    other.start()
    other.join()
    assert free and all(free)
