"""A batch in parts: the same loss, gradient and carry as the whole at once, in less memory."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from lstm_jax.gradients import GRADIENTS
from lstm_jax.gradients.accumulation import in_parts
from lstm_jax.gradients.remat import make_gradient
from lstm_jax.heads import softmax
from lstm_jax.model_config import ModelConfig
from lstm_jax.verification.cases import Case, make_problem
from lstm_jax.verification.compare import UNOPTIMIZED

T, B = 7, 6
MODEL = ModelConfig(
    hidden_size=5,
    num_layers=2,
    embedding_size=4,
    dropout=0.3,
    input_dropout=0.3,
    embedding_dropout=0.2,
    zoneout_cell=0.4,
    zoneout_hidden=0.3,
)


@pytest.fixture
def problem(x64):
    """With every kind of mask, lanes of unequal length, and targets that do not count; in the last
    two lanes none does."""
    problem = make_problem(Case(MODEL, T, B, masked=True, resets=True, carry=True, lengths=True))
    counts = problem.batch.mask & (np.arange(B) < B - 2)
    return problem._replace(batch=problem.batch._replace(mask=counts))


def run(gradient, problem):
    return jax.jit(gradient, compiler_options=UNOPTIMIZED)(*problem)


def assert_same(found, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14), found, expected)


@pytest.mark.parametrize(
    "name, parts", [("autodiff", 2), ("bptt", 2), ("bptt", 6), ("truncated", 3)]
)
def test_the_parts_add_up_to_the_whole(name, parts, problem):
    gradient = GRADIENTS[name](softmax)
    assert_same(run(in_parts(gradient, parts), problem), run(gradient, problem))


def test_a_part_may_be_in_blocks_and_one_number_stand_for_all_its_zoneout(problem):
    mean = jax.tree.map(lambda z: np.full((1, 1, 1), 0.3), problem.masks.zoneout)
    problem = problem._replace(masks=problem.masks._replace(zoneout=mean))
    found = run(in_parts(make_gradient("bptt", remat_every=3), 3), problem)
    assert_same(found, run(GRADIENTS["bptt"](softmax), problem))


def test_a_batch_in_which_nothing_counts_has_no_loss(problem):
    nothing = problem._replace(batch=problem.batch._replace(mask=np.zeros((T, B), bool)))
    (loss, aux), grads = run(in_parts(GRADIENTS["bptt"](softmax), 2), nothing)
    assert loss == 0 and aux.count == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


def test_a_part_at_a_time_is_in_memory():
    problem = make_problem(Case(replace(MODEL, hidden_size=32), 50, 32))

    def planned(parts):
        gradient = in_parts(GRADIENTS["bptt"](softmax), parts)
        compiled = jax.jit(gradient).lower(*problem).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert planned(8) < planned(1) / 3
