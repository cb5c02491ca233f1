"""Readout and loss in pieces of time: the same losses, and never all outputs at once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import Batch
from lstm_jax.gradients import GRADIENTS
from lstm_jax.gradients.remat import make_gradient
from lstm_jax.heads import softmax
from lstm_jax.loss import sequence_loss, target_losses
from lstm_jax.model import init_carry, init_model, run_stack
from lstm_jax.pieces import cut, steps_at_once
from lstm_jax.scoring.protocols import _score
from tests import oracle
from tests.test_loss import make_batch
from tests.test_model import B, T, V, make_case


@pytest.mark.parametrize("length", range(1, T + 1))
def test_pieces_follow_one_another_and_the_last_has_what_is_left(length):
    steps = np.arange(T)
    pieces, last = cut({"a": steps, "b": steps[:, None, None], "none": None}, length)
    assert {piece.shape[1] for piece in [pieces["a"]]} == {length}
    assert 1 <= len(last["a"]) <= length
    for name in ("a", "b"):
        both = np.concatenate([pieces[name].ravel(), last[name].ravel()])
        np.testing.assert_array_equal(both, steps)


@pytest.mark.parametrize(
    "most, wanted",
    [(10**9, 9), (9 * 20, 9), (9 * 20 - 1, 8), (2 * 20, 2), (2 * 20 - 1, 1), (1, 1), (0, 1)],
)
def test_a_piece_is_as_long_as_its_values_allow(most, wanted):
    assert steps_at_once(9, 4, 5, most) == wanted
    assert steps_at_once(0, 4, 5, most) == 0


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_losses_in_pieces_are_those_of_the_definition(steps, x64, rng):
    """Each target's, in order, and their mean."""
    _, params, carry, inputs = make_case(rng)
    batch = make_batch(rng, inputs)
    head = softmax._replace(most_outputs=steps * B * V)
    h_TxBxH, _ = run_stack(params, carry, batch.inputs, resets_TxB=batch.resets)
    losses = target_losses(params, h_TxBxH, batch.targets, head)
    logits, _ = oracle.language_model(params, carry, inputs, resets=batch.resets)
    wanted = [
        [
            oracle.cross_entropy(logits[t : t + 1, b : b + 1], [[batch.targets[t, b]]])[0]
            for b in range(B)
        ]
        for t in range(T)
    ]
    np.testing.assert_allclose(losses, wanted, rtol=1e-12)
    loss, aux = sequence_loss(params, carry, batch, head=head)
    mean, count = oracle.cross_entropy(logits, batch.targets, batch.mask)
    np.testing.assert_allclose(loss, mean, rtol=1e-12)
    assert int(aux.count) == count


def largest_array(jaxpr):
    """The number of values of the largest array that a program makes on its way."""
    inner = (
        getattr(leaf, "jaxpr", leaf)
        for eqn in jaxpr.eqns
        for leaf in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns"))
        if hasattr(getattr(leaf, "jaxpr", leaf), "eqns")
    )
    made = [math.prod(v.aval.shape) for eqn in jaxpr.eqns for v in eqn.outvars]
    return max([0, *made, *map(largest_array, inner)])


LARGE = 50_000
PROGRAMS = {name: gradient for name, gradient in GRADIENTS.items()} | {
    "remat": lambda head: make_gradient("bptt", 32, head),
    "remat autodiff": lambda head: make_gradient("autodiff", 32, head),
}


@pytest.mark.parametrize("readout", ["full", "tied"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_gradient_has_all_outputs_of_a_large_alphabet_at_once(name, readout):
    embedded = {"readout": "tied", "embedding_size": 6} if readout == "tied" else {}
    model = ModelConfig(hidden_size=8, dropout=0.2, **embedded)
    params = jax.eval_shape(lambda: init_model(jax.random.key(0), model, LARGE))
    carry = jax.eval_shape(lambda: init_carry(params, 32))
    ids = jax.ShapeDtypeStruct((64, 32), jnp.int32)
    batch = Batch(ids, ids, mask=jax.ShapeDtypeStruct((64, 32), bool))

    def largest(head):
        return largest_array(jax.make_jaxpr(PROGRAMS[name](head))(params, carry, batch, None).jaxpr)

    assert largest(softmax) <= softmax.most_outputs
    assert largest(softmax._replace(most_outputs=2**40)) >= 32 * 32 * LARGE


def test_no_score_has_all_outputs_of_a_large_alphabet_at_once():
    params = jax.eval_shape(
        lambda: init_model(jax.random.key(0), ModelConfig(hidden_size=8), LARGE)
    )
    carry = jax.eval_shape(lambda: init_carry(params, 64))
    ids = jax.ShapeDtypeStruct((256, 64), jnp.int32)
    program = jax.make_jaxpr(_score)(params, carry, Batch(ids, ids), None)
    assert largest_array(program.jaxpr) <= softmax.most_outputs
