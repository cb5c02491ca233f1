"""What is printed to streams that are closed, that belong to a notebook, or that nobody reads."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import run
from tests.cli import TEXT, TRAIN, line_of, process_in

ROOT = Path(__file__).parent.parent.parent
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

# Prints as an experiment does, with a file opened in between; says what the file holds.
PRINTS = """
import contextlib, os, sys
from experiments.support.output import flush_streams, open_streams
from lstm_jax.terminal import say

open_streams()
file = open(sys.argv[1], "w")
print("result")
say("message")
with contextlib.suppress(OSError):
    os.write(2, b"a library's own message\\n")
sys.exit(flush_streams(0))
"""


def prints(tmp_path, redirections):
    """The exit code, what came out together, and what the file holds that was opened meanwhile."""
    script = f'exec "$0" -c "$1" "$2" {redirections}'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, PRINTS, tmp_path / "file"],
        cwd=ROOT,
        env=BUFFERED,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, (tmp_path / "file").read_text()


@pytest.mark.parametrize(
    "redirections, printed",
    [
        ("", {"result", "message", "a library's own message"}),
        (">&-", {"message", "a library's own message"}),
        ("2>&-", {"result"}),
        (">&- 2>&-", set()),
        ("<&- >&- 2>&-", set()),
        ("2>/dev/full", {"result"}),
    ],
)
def test_a_closed_stream_is_no_fault_and_no_other_files(redirections, printed, tmp_path):
    code, output, content = prints(tmp_path, redirections)
    assert code == 0 and set(output.splitlines()) == printed and content == ""


@pytest.mark.parametrize("stream, code", [("stdout", 141), ("stderr", 0)])
def test_a_reader_that_has_gone_away_costs_no_traceback(stream, code, tmp_path):
    """Exit code 141 where the results could not be printed: as a shell has it of SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writer}
    command = [sys.executable, "-c", PRINTS, tmp_path / "file"]
    done = subprocess.run(command, cwd=ROOT, env=BUFFERED, text=True, check=False, **pipes)
    os.close(writer)
    assert done.returncode == code
    assert "Traceback" not in f"{done.stderr}" and "Exception" not in f"{done.stderr}"


def test_a_studys_own_command_ends_so_too(tmp_path):
    """And says in a line what it lacks."""
    command = [sys.executable, "-m", "experiments.studies.table_1997"]
    reader, writer = os.pipe()
    os.close(reader)
    pipes = {"stdout": writer, "stderr": subprocess.PIPE, "cwd": ROOT, "text": True}
    done = subprocess.run([*command, tmp_path], check=False, **pipes)
    os.close(writer)
    assert done.returncode == 141 and done.stderr == ""
    assert not [*tmp_path.iterdir()]
    done = subprocess.run([*command, tmp_path / "gone"], check=False, **pipes | {"stdout": None})
    assert done.returncode == 2 and done.stderr.startswith("error: it takes WORKDIR")


def test_where_stdout_is_full_one_line_says_so(tmp_path):
    code, output, _ = prints(tmp_path, ">/dev/full")
    assert code == 2
    assert "error: cannot write to stdout: No space left on device\n" in output


class Notebook:
    """What a notebook, or a logger, may put in the place of a stream."""

    def __init__(self):
        self.written = ""

    def write(self, text):
        self.written += text

    def flush(self):
        pass


def test_a_notebooks_streams_will_do(tmp_path):
    """They have no number, no encoding, no errors to reconfigure, and do not say what they are."""
    (tmp_path / "text").write_bytes(TEXT)
    stdout, stderr = Notebook(), Notebook()
    with (
        process_in(tmp_path),
        flagsaver.flagsaver(),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        flags.FLAGS.unparse_flags()
        code = run.main(run.parse_flags([run.__file__, *line_of(TRAIN)]))
    assert code == 0 and stdout.written.startswith("training_loss ")
    assert "step 1/1  loss" in stderr.written
