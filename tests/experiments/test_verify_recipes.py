"""The verification of the shapes that are trained: a wide one, and what it must notice."""

import dataclasses

import pytest

from experiments.studies import verify_recipes
from lstm_jax.config import Config, ModelConfig, TrainConfig
from lstm_jax.gradients.bptt import value_and_grad
from lstm_jax.gradients.weight_drop import drop_weights
from lstm_jax.heads import softmax
from lstm_jax.verification import compare
from lstm_jax.verification.cases import Case
from lstm_jax.verification.compare import Suspects, verify_as_trained

SMALL = Case(
    ModelConfig(hidden_size=6, num_layers=2, dropout=0.25, weight_drop=0.25),
    *(7, 3),
    resets=True,
    carry=True,
)
IN_FLOAT32 = {"autodiff ~ float64", "bptt rows ~ float64", "bptt columns ~ float64"}


def failed(rows):
    return {row.pair for row in rows if not row.passed}


@pytest.mark.long
def test_from_512_units_on():
    """Where a CPU takes the columns: as it is trained, for a quarter of the steps of time."""
    hour = verify_recipes.recipes()["tiny_shakespeare, 512 units"]
    case = verify_recipes.case_of(hour)
    assert (case.model.hidden_size, case.B, case.T) == (512, 32, 128)
    assert case.model.dropout and case.model.weight_drop
    rows = verify_as_trained(dataclasses.replace(case, T=32))
    assert not failed(rows)
    assert {row.pair for row in rows} >= IN_FLOAT32 | {"bptt as trained ~ float64"}


def test_what_stands_in_the_tables():
    rows = verify_as_trained(SMALL)
    assert not failed(rows)
    # Three sources and the loops in float64, each pair; three in float32; one as trained.
    assert len({(row.pair, row.kind) for row in rows}) == 6 + 3 + 1


def without_recurrence(*problem, head=softmax):
    return value_and_grad(*problem, head=head, truncated=True)


def test_a_wrong_gradient_is_noticed():
    rows = verify_as_trained(SMALL, Suspects(rows=without_recurrence))
    assert failed(rows) == {
        "autodiff ~ bptt rows",
        "bptt rows ~ bptt columns",
        "bptt rows ~ reference",
        "bptt rows ~ float64",
    }


def test_a_wrong_gradient_of_the_training_is_noticed(monkeypatch):
    monkeypatch.setitem(compare.GRADIENTS, "bptt", lambda head: without_recurrence)
    assert failed(verify_as_trained(SMALL)) == {"bptt as trained ~ float64"}


def test_a_weight_drop_without_its_chain_rule_is_noticed(monkeypatch):
    """All of JAX's sources would have it; the loops do not."""

    def unmasked(gradient, weights):
        return lambda params, *rest: gradient(drop_weights(params, weights), *rest)

    monkeypatch.setattr(compare, "with_weight_drop", unmasked)
    monkeypatch.setattr(compare, "compile_gradients", compare.compile_gradients.__wrapped__)
    rows = [row for row in verify_as_trained(SMALL) if not row.passed]
    assert {row.leaf for row in rows} == {"layers[0].U", "layers[1].U"}
    assert all("reference" in row.pair for row in rows)


@pytest.mark.parametrize("wrong", [False, True])
def test_the_exit_code(wrong, monkeypatch, tmp_path, capsys):
    config = Config(model=SMALL.model, train=TrainConfig(batch_size=3, sequence_length=7))
    monkeypatch.setattr(verify_recipes, "recipes", lambda: {"small": config})
    if wrong:
        monkeypatch.setitem(compare.GRADIENTS, "bptt", lambda head: without_recurrence)
    assert verify_recipes.main(Config(), tmp_path) == int(wrong)
    printed = capsys.readouterr().out
    assert "small: H 6, L 2, B 3, T 7" in printed and ("FAILED" in printed) == wrong
    assert (tmp_path / "recipes.json").exists()
