"""The bisection of the scan on CUDA: it changes what it says, and notices what is wrong."""

import jax
import numpy as np
import pytest

from experiments.studies import cuda_scan
from experiments.studies.cuda_scan import Trial
from lstm_jax.cells import lstm, passes

SMALL = {"H": 3, "B": 2, "T": 6, "unroll": 4}


@pytest.fixture(autouse=True)
def rows_as_they_are(monkeypatch):
    """Puts back what a trial changes in the module."""
    for module, name in ((passes, "lax"), (lstm, "lax"), (lstm, "project_backward")):
        monkeypatch.setattr(module, name, getattr(module, name))


def test_a_trial_that_is_right():
    line = cuda_scan.run(Trial(**SMALL, own_ids=True, dx_barrier=True))
    assert max(line["first"], line["rest"]) < 1e-12 and line["moved"] == 0 and not line["where"]


def test_the_scan_takes_so_many_steps_per_round():
    problem = cuda_scan.problem_of(Trial(**SMALL))
    cuda_scan.change_rows(Trial(**SMALL))
    jaxpr = jax.make_jaxpr(cuda_scan.compare.Suspects().rows)(*problem)
    scans = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert [eqn.params["unroll"] for eqn in scans] == [4] * 4  # two layers, there and back


def test_what_is_not_a_number_is_no_success(monkeypatch):
    right = cuda_scan.gradients_of

    def broken(trial, problem):
        found = right(trial, problem)
        first, second = found[0].layers
        return [found[0]._replace(layers=(first._replace(U=first.U * np.nan), second)), *found[1:]]

    monkeypatch.setattr(cuda_scan, "gradients_of", broken)
    line = cuda_scan.run(Trial(**SMALL, own_ids=True))
    assert np.isnan(line["first"]) and "U nan" in line["where"]


def test_a_wrong_entry_is_named(monkeypatch):
    right = cuda_scan.gradients_of

    def wrong(trial, problem):
        found = right(trial, problem)
        first, second = found[0].layers
        W = np.array(first.W)
        W[5, 1] += 1.0
        return [found[0]._replace(layers=(first._replace(W=W), second)), *found[1:]]

    monkeypatch.setattr(cuda_scan, "gradients_of", wrong)
    line = cuda_scan.run(Trial(**SMALL, own_ids=True))
    assert line["first"] > 0.1 and line["rest"] < 1e-12 and line["moved"] == pytest.approx(1)
    assert "1 units [1]" in line["where"] and "steps [2] lanes [1]" in line["where"]
