"""The loss against its definition, and its gradient against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import Batch
from lstm_jax.gradients import GRADIENTS
from lstm_jax.heads import softmax
from lstm_jax.loss import bits, sequence_loss
from lstm_jax.masks import sample_masks
from lstm_jax.model import init_carry, init_model
from tests import oracle
from tests.test_model import B, T, V, make_case


def make_batch(rng, inputs, masked=True):
    mask = jnp.asarray(rng.random((T, B)) < 0.7) if masked else None
    return Batch(
        jnp.asarray(inputs),
        jnp.asarray(rng.integers(V, size=(T, B))),
        mask,
        jnp.asarray(rng.random((T, B)) < 0.2),
    )


@pytest.mark.parametrize("masked", [False, True])
def test_loss_is_the_mean_of_minus_log_p(masked, x64, rng):
    _, params, carry, inputs = make_case(rng, num_layers=2)
    batch = make_batch(rng, inputs, masked)
    loss, aux = sequence_loss(params, carry, batch)
    logits, _ = oracle.language_model(params, carry, inputs, resets=batch.resets)
    wanted, count = oracle.cross_entropy(logits, batch.targets, batch.mask)
    np.testing.assert_allclose(loss, wanted, rtol=1e-12)
    assert int(aux.count) == count
    shifted, _ = oracle.cross_entropy(logits, (batch.targets + 1) % V, batch.mask)
    assert abs(float(loss) - shifted) > 1e-6  # the comparison would notice other targets


def test_weights_are_no_mask(rng):
    _, params, carry, inputs = make_case(rng)
    batch = make_batch(rng, inputs)
    for wrong in (
        batch._replace(mask=jnp.full((T, B), 0.5)),
        batch._replace(live=jnp.ones((T, B), int)),
    ):
        for gradient in GRADIENTS.values():
            with pytest.raises(
                TypeError, match=r"^a batch's \w+ is True or False for each step, not"
            ):
                jax.eval_shape(gradient(softmax), params, carry, wrong, None)


def test_loss_is_stable_for_huge_logits(rng):
    _, params, carry, inputs = make_case(rng)
    huge = params._replace(readout=params.readout._replace(b=jnp.zeros(V).at[0].set(1e4)))
    batch = Batch(jnp.asarray(inputs), jnp.zeros((T, B), jnp.int32))
    assert 0 <= float(sequence_loss(huge, carry, batch)[0]) < 1e-6


def test_a_batch_without_a_counted_target_has_loss_and_gradient_zero(rng):
    _, params, carry, inputs = make_case(rng)
    batch = make_batch(rng, inputs)._replace(mask=jnp.zeros((T, B), bool))
    (loss, aux), grads = jax.jit(GRADIENTS["autodiff"](softmax))(params, carry, batch, None)
    assert float(loss) == 0 and int(aux.count) == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


def test_a_masked_target_has_no_gradient(x64, rng):
    _, params, carry, inputs = make_case(rng)
    batch = make_batch(rng, inputs)
    other = jnp.where(batch.mask, batch.targets, (batch.targets + 1) % V)
    assert not np.array_equal(other, batch.targets)
    gradient = jax.jit(GRADIENTS["autodiff"](softmax))
    gradients = [
        gradient(params, carry, batch._replace(targets=targets), None)[1]
        for targets in (batch.targets, other)
    ]
    jax.tree.map(np.testing.assert_array_equal, *gradients)


def finite_difference(params, path_index, coordinate, carry, batch, masks, step=1e-5):
    leaves, treedef = jax.tree.flatten(params)
    loss = jax.jit(sequence_loss)

    def loss_at(offset):
        moved = [np.array(leaf) for leaf in leaves]
        moved[path_index][coordinate] += offset
        return float(loss(treedef.unflatten(moved), carry, batch, masks)[0])

    return (loss_at(step) - loss_at(-step)) / (2 * step)


@pytest.mark.parametrize("name", ["autodiff", "bptt"])
def test_gradient_is_the_slope_of_the_loss(name, x64, rng):
    config, params, carry, inputs = make_case(
        rng, num_layers=2, embedding_size=3, dropout=0.3, input_dropout=0.3
    )
    masks = sample_masks(jax.random.key(2), params, config, B, 7)
    batch = make_batch(rng, inputs)
    _, grads = jax.jit(GRADIENTS[name](softmax))(params, carry, batch, masks)
    for index, leaf in enumerate(jax.tree.leaves(grads)):
        for _ in range(3):
            coordinate = tuple(int(rng.integers(n)) for n in leaf.shape)
            slope = finite_difference(params, index, coordinate, carry, batch, masks)
            assert abs(slope - float(leaf[coordinate])) < 1e-8
            assert abs(slope - 2 * float(leaf[coordinate])) > 1e-9 or abs(slope) < 1e-8


@pytest.mark.parametrize("name", ["autodiff", "bptt"])
@pytest.mark.parametrize("masked", [False, True])
def test_more_targets_than_float16_counts(name, masked, standard_promotion):
    """The same loss and gradient as in float32, over 70,000 targets; 65,504 is float16's end."""
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=2), V)
    ids = jnp.arange(70_000).reshape(7, -1) % V
    batch = Batch(ids, jnp.roll(ids, 1), jnp.ones(ids.shape, bool) if masked else None)
    gradient = jax.jit(GRADIENTS[name](softmax))

    def in_dtype(dtype):
        low = jax.tree.map(lambda a: a.astype(dtype), params)
        return gradient(low, init_carry(low, ids.shape[1]), batch, None)

    (loss, _), grads = in_dtype(jnp.float16)
    (wanted_loss, _), wanted = in_dtype(jnp.float32)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-2)
    if name == "autodiff":  # JAX adds up the rows of W in float16 itself, and loses most of it
        grads, wanted = grads.readout, wanted.readout
    for found, want in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
        assert found.dtype == jnp.float16
        np.testing.assert_allclose(found, want, atol=0.1 * np.abs(want).max())


def test_bits():
    assert bits(np.log(2)) == pytest.approx(1) and bits(np.log(65)) == pytest.approx(np.log2(65))


def test_the_derivative_is_the_whole_one_unless_it_is_to_be_truncated(x64, rng):
    _, params, carry, inputs = make_case(rng)
    batch = make_batch(rng, inputs)

    def program(**how):
        gradient = jax.grad(lambda params: sequence_loss(params, carry, batch, **how)[0])
        return str(jax.make_jaxpr(gradient)(params))

    assert program() == program(truncated=False) != program(truncated=True)
