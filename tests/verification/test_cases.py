"""The verification's cases: which complications meet, and that the numbers are what is asked."""

import itertools

import numpy as np
import pytest

from lstm_jax.cells import CELLS
from lstm_jax.config import ModelConfig
from lstm_jax.gradients.known import missing_by_hand
from lstm_jax.heads import HEADS
from lstm_jax.verification.cases import VOCABULARY_SIZE, Case, by_hand, grid, make_problem, variants


def test_the_grid_has_every_shape_and_one_long_one():
    shapes = [(case.model.num_layers, case.T, case.B) for case in grid()]
    assert shapes == [*itertools.product((1, 2, 3), (1, 2, 7, 64), (1, 5)), (2, 128, 5)]
    assert [case.seed for case in grid()] == [*range(25)]


def has(model):
    return model.dropout > 0, model.embedding_size > 0


def test_every_two_complications_meet_switched_on_and_off():
    switches = [(case.masked, case.resets, case.carry, *has(case.model)) for case in grid()]
    for one, other in itertools.combinations(zip(*switches, strict=True), 2):
        assert {*zip(one, other, strict=True)} == {*itertools.product((False, True), repeat=2)}


def test_every_other_case_of_several_layers_has_skips():
    skips = [case.model.skip == "weighted" for case in grid() if case.model.num_layers > 1]
    assert skips[:-1] == [False, True] * 8 and skips[-1]


def test_the_long_case_and_the_variants_have_everything():
    *_, long = grid()
    for case in (long, *variants()):
        assert case.masked and case.resets and case.carry
        assert case.model.dropout > 0 and case.model.input_dropout > 0
    assert all(missing_by_hand([CELLS[case.model.cell]]) for case in variants())
    tied = [case.model for case in variants() if case.model.readout == "tied"]
    assert {model.embedding_size == model.hidden_size for model in tied} == {False, True}
    assert not any(missing_by_hand([CELLS[case.model.cell]]) for case in grid())


def test_every_cell_and_head_has_a_case_and_so_has_one_of_ones_own(monkeypatch):
    monkeypatch.setitem(CELLS, "derived", CELLS["gru"])
    monkeypatch.setitem(CELLS, "underived", CELLS["coupled"])
    monkeypatch.setitem(HEADS, "own", HEADS["squared"])
    assert "own" in {case.head for case in by_hand()}
    cells = [{case.model.cell for case in cases} for cases in (by_hand(), variants())]
    assert [
        {name for name in CELLS if bool(CELLS[name].by_hand) == d} for d in (True, False)
    ] == cells
    assert {case.head for case in by_hand()} == {
        name for name, head in HEADS.items() if head.by_hand
    }


@pytest.mark.parametrize("asked", [False, True])
def test_a_problem_has_what_is_asked_for_and_nothing_else(asked):
    model = ModelConfig(hidden_size=25, dropout=0.3 * asked)
    complications = {"masked": True, "resets": True, "carry": True} if asked else {}
    case = Case(model, T=100, B=20, **complications)
    params, (state,), batch, masks = make_problem(case)
    assert np.std(params.layers[0].W) == pytest.approx(1 / 5, rel=0.1)
    for ids in (batch.inputs, batch.targets):
        assert ids.shape == (100, 20) and {*ids.flat} == {*range(VOCABULARY_SIZE)}
    assert (batch.inputs != batch.targets).any()
    assert (batch.mask is None) == (batch.resets is None) == (masks is None) == (not asked)
    assert state.h.any() == state.c.any() == asked
    if asked:
        assert np.std(state.h) == pytest.approx(1, rel=0.2)
        assert batch.mask.mean() == pytest.approx(0.6, abs=0.05) and batch.mask[-1, 0]
        assert batch.resets.mean() == pytest.approx(0.25, abs=0.05)
        assert {*masks.readout.flat} == {0, 1 / 0.75}
        assert (masks.readout > 0).mean() == pytest.approx(0.75, abs=0.1)


def test_a_case_always_has_a_target_that_counts():
    for seed in range(20):
        problem = make_problem(Case(ModelConfig(hidden_size=2), 1, 1, masked=True, seed=seed))
        assert problem.batch.mask.all()
