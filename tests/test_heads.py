"""The heads against their formulas in plain floats, and their derivatives against the slopes."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import Batch
from lstm_jax.gradients import GRADIENTS
from lstm_jax.heads import HEADS, Head, takes_ids
from lstm_jax.loss import sequence_loss
from lstm_jax.model import Interface, init_carry, init_model
from tests import oracle

T, B, N = 4, 3, 5
# What is true of every head is asked of all of HEADS; a new one needs no entry here. Its formula
# has its own below.
NAMES = pytest.mark.parametrize("name", HEADS)
DERIVED = [name for name, head in HEADS.items() if head.by_hand]
OF_VECTORS = [name for name, head in HEADS.items() if not takes_ids(head)]
WAYS = [("autodiff", name) for name in HEADS] + [("bptt", name) for name in DERIVED]


def softmax(y, target):
    """-log p of the target, where p is exp(y) over its sum."""
    return -math.log(math.exp(y[target]) / sum(math.exp(v) for v in y))


def squared(y, target):
    return sum((v - t) ** 2 for v, t in zip(y, target, strict=True))


def bernoulli(y, target):
    """-log p of every entry, which is 1 with probability p = 1 / (1 + exp(-y))."""
    p = [1 / (1 + math.exp(-v)) for v in y]
    return -sum(math.log(q if t else 1 - q) for q, t in zip(p, target, strict=True))


def logistic(y):
    return [1 / (1 + math.exp(-v)) for v in y]


def sigmoid_squared(y, target):
    return sum((p - t) ** 2 for p, t in zip(logistic(y), target, strict=True)) / 2


FORMULAS = {
    "softmax": softmax,
    "squared": squared,
    "bernoulli": bernoulli,
    "sigmoid_squared": sigmoid_squared,
}
# What outputs say, on the scale of the targets.
SAID = {
    "softmax": lambda y: [math.exp(v) / sum(map(math.exp, y)) for v in y],
    "squared": lambda y: y,
    "bernoulli": logistic,
    "sigmoid_squared": logistic,
}
WITH_FORMULA = pytest.mark.parametrize("name", FORMULAS)


def make_targets(name, rng):
    """Ids, numbers, or vectors of 0 and 1, which every other head of vectors takes."""
    if name not in OF_VECTORS:
        return rng.integers(N, size=(T, B))
    numbers = rng.normal(size=(T, B, N))
    return numbers if name == "squared" else (numbers > 0.3).astype(float)


def plain(name, outputs, targets):
    """The losses TxB by the formula, target by target."""
    losses = np.zeros((T, B))
    for t, lane in np.ndindex(T, B):
        losses[t, lane] = FORMULAS[name](outputs[t, lane].tolist(), targets[t, lane].tolist())
    return losses


def compare(head, losses_of, targets, rng):
    """Fails where a head, or its losses by hand, are not what `losses_of` says, or its derivative
    by hand is not their slope, by central differences."""
    outputs = 2 * rng.normal(size=(T, B, N))
    wanted = losses_of(outputs, targets)
    assert wanted.shape == (T, B)
    by_hand, dy_TxBxN = head.by_hand(jnp.asarray(outputs), jnp.asarray(targets))
    for found in (head.losses(jnp.asarray(outputs), jnp.asarray(targets)), by_hand):
        assert found.shape == (T, B)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert dy_TxBxN.shape == (T, B, N)
    for n in range(N):
        way = 1e-5 * (np.arange(N) == n)
        slope = losses_of(outputs + way, targets) - losses_of(outputs - way, targets)
        np.testing.assert_allclose(dy_TxBxN[..., n], slope / 2e-5, rtol=1e-8, atol=1e-9)


def compare_with_formula(head, name, rng):
    targets = make_targets(name, rng)
    compare(head, partial(plain, name), targets > 0 if name == "bernoulli" else targets, rng)


def compare_with_itself(head, name, rng):
    """Its derivative by hand with its own losses: with autodiff, and with central differences."""

    def losses_of(outputs, targets):
        return np.asarray(head.losses(jnp.asarray(outputs), jnp.asarray(targets)))

    targets = make_targets(name, rng)
    compare(head, losses_of, targets, rng)
    outputs, targets = jnp.asarray(rng.normal(size=(T, B, N))), jnp.asarray(targets)
    of_jax = jax.grad(lambda y: jnp.sum(head.losses(y, targets)))(outputs)
    np.testing.assert_allclose(head.by_hand(outputs, targets)[1], of_jax, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DERIVED)
def test_a_derivative_by_hand_is_the_slope_of_the_losses(name, x64, rng):
    compare_with_itself(HEADS[name], name, rng)


@WITH_FORMULA
def test_a_head_is_its_formula_and_its_slope(name, x64, rng):
    compare_with_formula(HEADS[name], name, rng)


@pytest.mark.parametrize("name", SAID)
def test_what_outputs_say_is_on_the_scale_of_the_targets(name, x64, rng):
    outputs = rng.normal(size=(T, B, N))
    wanted = [[SAID[name](y.tolist()) for y in lanes] for lanes in outputs]
    np.testing.assert_allclose(HEADS[name].predict(jnp.asarray(outputs)), wanted, rtol=1e-12)


def test_a_head_of_ones_own_says_its_outputs():
    outputs = jnp.ones((T, B, N))
    assert Head(squared).predict(outputs) is outputs


@NAMES
def test_there_is_one_loss_for_each_target(name, x64, rng):
    """Which follows its own outputs, and its own target, alone."""
    outputs, targets = rng.normal(size=(T, B, N)), make_targets(name, rng)
    losses = HEADS[name].losses(jnp.asarray(outputs), jnp.asarray(targets))
    outputs[1, 2] += 1 + np.arange(N)
    others = HEADS[name].losses(jnp.asarray(outputs), jnp.asarray(targets))
    assert losses.shape == (T, B)
    np.testing.assert_array_equal(np.argwhere(np.asarray(losses != others)), [[1, 2]])


def changed(losses=lambda a: a, by_hand=lambda a: a, dy=lambda a: a):
    def mutant(head):
        def both(*args):
            found, slope = head.by_hand(*args)
            return by_hand(found), dy(slope)

        return Head(lambda *args: losses(head.losses(*args)), both)

    return mutant


MUTANTS = {
    "twice the loss": changed(losses=lambda a: 2 * a),
    "another loss by hand": changed(by_hand=lambda a: a + 1e-6),
    "half the slope": changed(dy=lambda a: a / 2),
    "the slope with another sign": changed(dy=lambda a: -a),
    "the slope of another target": changed(dy=lambda a: jnp.roll(a, 1, axis=1)),
    "the mean over entries": changed(*3 * [lambda a: a / N]),
}


@WITH_FORMULA
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_another_head(mutant, name, x64, rng):
    with pytest.raises(AssertionError):
        compare_with_formula(mutant(HEADS[name]), name, rng)


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("mutant", [name for name in MUTANTS if "mean" not in name])
def test_a_derivative_of_another_head_is_noticed(mutant, name, x64, rng):
    with pytest.raises(AssertionError):
        compare_with_itself(MUTANTS[mutant](HEADS[name]), name, rng)


def extreme(name, size):
    """Outputs of a float32 of which one is so far out, and targets that it is right for and not."""
    outputs = jnp.zeros((1, 2, N)).at[..., 0].set(size)
    if name not in OF_VECTORS:
        return outputs, jnp.array([[0, 1]])
    return outputs, jnp.zeros((1, 2, N)).at[0, 0, 0].set(1)


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_outputs_have_finite_losses_and_slopes(name, size):
    head, (outputs, targets) = HEADS[name], extreme(name, size)
    losses, dy = head.by_hand(outputs, targets)
    of_jax = jax.grad(lambda y: jnp.sum(head.losses(y, targets)))(outputs)
    for leaf in (losses, head.losses(outputs, targets), dy, of_jax):
        assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all()
    np.testing.assert_allclose(head.losses(outputs, targets), losses, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dy, of_jax, rtol=1e-6, atol=1e-6)


@WITH_FORMULA
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_certain_and_right_is_no_loss(name, size):
    """Certain and wrong is as large as the output."""
    others = math.log(4) if size < 0 else 0  # what is left to choose among
    wanted = {
        "softmax": [0, 1e4] if size > 0 else [1e4 + others, others],
        "squared": [(size - 1) ** 2, size**2],
        "bernoulli": [4 * math.log(2) + (size < 0) * 1e4, 4 * math.log(2) + (size > 0) * 1e4],
        "sigmoid_squared": [0.5 + (size < 0) / 2, 0.5 + (size > 0) / 2],
    }[name]
    losses = HEADS[name].losses(*extreme(name, size))
    np.testing.assert_allclose(losses[0], wanted, rtol=1e-6, atol=1e-6)


@NAMES
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_losses_are_float32_at_least(name, dtype, rng):
    """Of narrow outputs the very losses, and slopes, that their values have in float32."""
    outputs = jnp.asarray(rng.normal(size=(T, B, N)), dtype)
    targets = jnp.asarray(make_targets(name, rng))
    wide, head = outputs.astype(jnp.float32), HEADS[name]
    for function in filter(None, (head.losses, head.by_hand)):
        found, wanted = function(outputs, targets), function(wide, targets)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.fixture
def problem_of(x64, rng):
    """A model of one head that reads vectors, and a batch some of whose targets do not count."""

    def make(name):
        config, interface = ModelConfig(hidden_size=3), Interface(2, N, reads_ids=False, head=name)
        params = init_model(jax.random.key(0), config, interface)
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
        batch = Batch(
            jnp.asarray(rng.normal(size=(T, B, 2))),
            jnp.asarray(make_targets(name, rng)),
            jnp.asarray(rng.random((T, B)) < 0.6).at[0, :2].set(jnp.array([True, False])),
        )
        return params, init_carry(params, B), batch

    return make


def other_targets(name, batch):
    """The batch with every target changed that does not count."""
    targets, mask = np.array(batch.targets), np.array(batch.mask)
    if name in OF_VECTORS:
        moved, mask = 1 - targets, mask[..., None]
    else:
        moved = (targets + 1) % N
    return batch._replace(targets=jnp.asarray(np.where(mask, targets, moved)))


@pytest.mark.parametrize("gradient, name", WAYS)
def test_a_masked_target_has_no_gradient(gradient, name, problem_of):
    params, carry, batch = problem_of(name)
    of_head = jax.jit(GRADIENTS[gradient](HEADS[name]))
    wanted = of_head(params, carry, batch, None)
    found = of_head(params, carry, other_targets(name, batch), None)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    opposite = other_targets(name, batch._replace(mask=~batch.mask))._replace(mask=batch.mask)
    assert of_head(params, carry, opposite, None)[0][0] != wanted[0][0]


@pytest.mark.parametrize("gradient, name", [way for way in WAYS if way[1] in OF_VECTORS])
def test_a_number_that_is_missing_may_be_nan_where_it_does_not_count(gradient, name, problem_of):
    params, carry, batch = problem_of(name)
    of_head = jax.jit(GRADIENTS[gradient](HEADS[name]))
    missing = jnp.where(batch.mask[..., None], batch.targets, jnp.nan)
    assert jnp.isnan(missing).any()
    found = of_head(params, carry, batch._replace(targets=missing), None)
    wanted = of_head(params, carry, batch, None)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@NAMES
def test_targets_that_would_broadcast_are_refused_in_one_line(name, rng):
    """As many lanes as steps, so that some other shapes would."""
    outputs = jnp.asarray(rng.normal(size=(T, T, N)))
    right = jnp.zeros((T, T, N) if name in OF_VECTORS else (T, T), int)
    for wrong in (right[..., :1], right[..., None], right[0], right[..., 0]):
        for function in filter(None, (HEADS[name].losses, HEADS[name].by_hand)):
            with pytest.raises(
                ValueError, match=r"^targets .* do not fit outputs that ask for .*$"
            ):
                function(outputs, wrong)


def sequence_outputs(params, batch):
    """The model's outputs, by the oracle's cell."""
    layer, outputs = [np.array(leaf) for leaf in params.layers[0]], np.zeros((T, B, N))
    for lane in range(B):
        h, c = [0.0] * 3, [0.0] * 3
        for t in range(T):
            h, c = oracle.cell(*layer, h, c, np.array(batch.inputs)[t, lane])
            outputs[t, lane] = h @ np.array(params.readout.W) + np.array(params.readout.b)
    return outputs


@NAMES
def test_the_mean_is_over_targets_and_not_over_their_entries(name, problem_of):
    params, carry, batch = problem_of(name)
    outputs = sequence_outputs(params, batch)
    losses, mask = np.array(HEADS[name].losses(outputs, batch.targets)), np.array(batch.mask)
    for case, wanted, count in (
        (batch, losses[mask].mean(), mask.sum()),
        (batch._replace(mask=None), losses.mean(), T * B),
    ):
        loss, aux = sequence_loss(params, carry, case, head=HEADS[name])
        np.testing.assert_allclose(loss, wanted, rtol=1e-12)
        assert int(aux.count) == count
        if name in DERIVED:
            (loss, aux), _ = GRADIENTS["bptt"](HEADS[name])(params, carry, case, None)
            np.testing.assert_allclose(loss, wanted, rtol=1e-12)
            assert int(aux.count) == count
