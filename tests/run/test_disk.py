"""A full disk: named, with the room that is left; what was saved stays, and the run goes on later.

Here a limit on the size of files stands for it; tests/run/test_survival.py fills a real one.
"""

import resource
import shutil
from contextlib import contextmanager

import pytest

from lstm_jax.errors import UserError
from lstm_jax.run.checkpoint import Checkpoints
from lstm_jax.run.metrics import read_metrics
from tests.small import assert_same_run, run_in

pytestmark = pytest.mark.usefixtures("standard_promotion")


@contextmanager
def no_file_above(size):
    """No file of this process may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# For writes that orbax no longer waits for, once another has failed: see `show_unraisable`.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "named, size",
    [("metrics.jsonl", 0), ("checkpoints/20", 5000)],
)
def test_a_file_that_cannot_grow(named, size, tmp_path, finished):
    """The last dispatch of a run, with its checkpoint; not all of it finds room.

    The first limit is in the middle of the next line of metrics.
    """
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "20")
    with run_in(workdir) as run:
        assert run.step == 18
        size = size or (workdir / "metrics.jsonl").stat().st_size + 50
        wanted = rf"^cannot write {workdir / named}: File too large, [\d,.]+ MB are free in "
        with no_file_above(size), pytest.raises(UserError, match=wanted):
            run.train()
    assert Checkpoints(workdir).sort_out() == ([18], {})
    assert read_metrics(workdir)[-1]["step"] == (18 if named == "metrics.jsonl" else 20)
    with run_in(workdir) as run:
        assert run.step == 18
        run.train()
    # Only now: a write that orbax no longer waited for may have come after the part was deleted.
    assert not list(workdir.rglob("*.part"))
    assert_same_run(workdir, finished)


def test_a_figure_that_cannot_grow_is_a_warning(tmp_path, finished, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    before = (workdir / "figures" / "curves.png").read_bytes()
    with run_in(workdir) as run, no_file_above(20_000):
        run.draw_figures()
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("warning: the figure") and "File too large" in said
    assert (workdir / "figures" / "curves.png").read_bytes() == before
    assert not list(workdir.rglob("*.part"))
