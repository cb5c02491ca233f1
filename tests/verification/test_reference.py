"""The NumPy reference against slopes of its own loss, the notebook's figures, and its defects."""

import ast
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.verification import audit, reference
from lstm_jax.verification.reference import (
    DEFECTS,
    Drops,
    Layer,
    Parameters,
    Sequence,
    State,
    backward,
    forward,
)

V, E, H, T, B = 5, 3, 4, 6, 2


def test_it_imports_nothing_but_numpy():
    tree = ast.parse(Path(reference.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {
        a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
    }
    assert modules <= {"numpy", "dataclasses", "typing"}


@pytest.fixture
def problem(rng):
    """Two layers, a skip, an embedding, dropout, masked targets, resets, a nonzero start."""

    def layer(D):
        shapes = [(H, H + D), (H, 1)] * 4
        return Layer(*(rng.normal(size=shape) for shape in shapes))

    params = Parameters(
        (layer(E), layer(H)),
        rng.normal(size=(V, H)),
        rng.normal(size=(V, 1)),
        rng.normal(size=(E, V)),
        (rng.normal(size=(H, 1)),),
    )
    states = [State(rng.normal(size=(H, B)), rng.normal(size=(H, B))) for _ in range(2)]
    sequence = Sequence(
        rng.integers(V, size=(T, B)),
        rng.integers(V, size=(T, B)),
        rng.random((T, B)) < 0.7,
        rng.random((T, B)) < 0.3,
    )
    drops = Drops(
        (rng.random((E, B)) * 2, rng.random((H, B)) * 2),
        rng.random((H, B)) * 2,
        rng.random((V, B)) * 2,
    )
    return params, states, sequence, drops


def arrays(params):
    """Every array of the parameters, with its name."""
    named = {
        f"layer {n} {k}": v for n, p in enumerate(params.layers) for k, v in p._asdict().items()
    }
    named |= {f"skip {n}": s for n, s in enumerate(params.skips)}
    return {**named, "W_v": params.W_v, "b_v": params.b_v, "W_e": params.W_e}


def largest_error(problem, found):
    """The largest difference between a gradient and central differences, over every coordinate."""
    params, worst, step = problem[0], 0.0, 1e-6
    for name, values in arrays(params).items():
        for where in np.ndindex(values.shape):
            kept = values[where]
            losses = []
            for offset in (step, -step):
                values[where] = kept + offset
                losses.append(forward(*problem).loss)
            values[where] = kept
            slope = (losses[0] - losses[1]) / (2 * step)
            worst = max(worst, abs(slope - arrays(found)[name][where]))
    return worst


def test_backward_is_the_slope_of_the_loss_everywhere(problem):
    assert largest_error(problem, backward(problem[0], forward(*problem))) < 1e-8


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_is_one(defect, problem):
    done = forward(*problem)
    assert largest_error(problem, backward(problem[0], done, defects={defect})) > 1e-5


def test_an_unknown_defect_is_refused(problem):
    with pytest.raises(ValueError, match="no such defect"):
        backward(problem[0], forward(*problem), defects={"sing"})


@pytest.fixture(scope="module")
def notebook(tiny_shakespeare):
    return (
        audit.notebook_parameters(len(tiny_shakespeare.vocabulary)),
        audit.notebook_sequence(tiny_shakespeare.ids),
    )


def test_the_notebook_starts_where_it_is_known_to(notebook):
    assert 25 * audit.read(*notebook).loss == pytest.approx(104.508, abs=5e-4)


def test_as_printed_the_loss_climbs_and_mended_it_falls(notebook):
    printed = audit.descend(*notebook, set(DEFECTS), rate=0.003, passes=20)
    mended = audit.descend(*notebook, set(), rate=0.003, passes=20)
    assert np.all(np.diff(printed) > 0)
    assert mended[-1] < 80 < 104 < printed[0] == mended[0]


def test_what_the_defects_do_to_the_gradient(notebook):
    found = {(e.defect, e.leaf): e for e in audit.effects(*notebook)}
    for leaf in audit.leaves(notebook[0]):
        assert found["sign", leaf].cosine == pytest.approx(-1)
        assert found["sign", leaf].norm_ratio == pytest.approx(1)
    assert found["no_biases", "b_f"] == ("no_biases", "b_f", 0, 0)
    assert found["no_biases", "W_f"].cosine == pytest.approx(1)
    assert 0.5 < found["no_recurrence", "W_C"].cosine < 0.9
    assert found["no_recurrence", "W_v"].cosine == pytest.approx(1)
