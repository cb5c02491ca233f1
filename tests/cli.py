"""The command line inside this process: the same parser and the same main, many times a second."""

import contextlib
import io
from typing import NamedTuple

from absl import flags
from absl.testing import flagsaver

from experiments import run


class Outcome(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Stdout(io.TextIOWrapper):
    """What main needs of stdout: that its errors can be reconfigured."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)


def call(*argv: str) -> Outcome:
    """What `python -m experiments.run` with these arguments would do and say.

    An exception that `main` lets through, which would be a traceback there, comes through here.
    """
    stdout, stderr = Stdout(), io.StringIO()
    with (
        flagsaver.flagsaver(),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        flags.FLAGS.unparse_flags()
        try:
            code = run.main(run.parse_flags([run.__file__, *argv]))
        except SystemExit as stop:
            code = stop.code
    return Outcome(code, stdout.buffer.getvalue().decode(), stderr.getvalue())
