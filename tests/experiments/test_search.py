"""Random search: what is drawn, models of few units among many, and what the losses say."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.support import effects, search
from experiments.support.effects import best_tenth, compare, share_between, shares
from experiments.support.search import (
    Configuration,
    Problem,
    Rule,
    Side,
    draw_configuration,
    range_of,
)
from lstm_jax.cells.vanilla import GatesState
from lstm_jax.data.batches import Batch
from lstm_jax.layer import unroll
from lstm_jax.model import Interface
from lstm_jax.verification.compare import UNOPTIMIZED

D, SIZE, T, B, STEPS = 2, 3, 4, 2, 3
RULE = Rule("sgd", 0.5, STEPS, B, forget_bias=1.0, seed=7)


def draw(rng, count):
    """The sum of all that is read, at every step."""
    x_TxBxD = rng.normal(size=(T, count, D)).astype(np.float32)
    return Batch(x_TxBxD, np.cumsum(x_TxBxD.sum(-1, keepdims=True), 0))


PROBLEM = Problem(
    name="sums",
    unit="squared error/step",
    interface=Interface(D, 1, reads_ids=False, head="squared"),
    draw=draw,
    held_out=draw(np.random.default_rng(1), 5),
    reference=1.0,
)


def cut(params, size):
    """The weights of the first units alone: unit axes hold a block of H for each gate."""

    def of_units(leaf, axis):
        H = params.readout.W.shape[0]
        blocks = np.moveaxis(np.asarray(leaf), axis, 0).reshape(-1, H, *np.delete(leaf.shape, axis))
        first = blocks[:, :size].reshape(-1, *blocks.shape[2:])
        return np.moveaxis(first, 0, axis)

    leaves = params.layers[0]._asdict()
    for name, leaf in leaves.items():
        for axis in range(leaf.ndim):
            if (name, axis) != ("W", 0):
                leaf = of_units(leaf, axis)
        leaves[name] = jnp.asarray(leaf)
    layer = params.layers[0]._replace(**leaves)
    return layer, jnp.asarray(params.readout.W[:size]), params.readout.b


def train_alone(small, drawn, side):
    """The small model by itself, differentiated by JAX, in a loop."""
    key = jax.random.fold_in(jax.random.key(RULE.seed), 2**31)
    rule = optax.chain(
        optax.clip_by_global_norm(RULE.clip_norm),
        optax.sgd(drawn.learning_rate * (1 - drawn.momentum) * T, drawn.momentum, nesterov=True),
    )

    def loss(small, x, y):
        layer, W, b = small
        zeros = jnp.zeros((x.shape[1], SIZE))
        _, h = unroll(layer, GatesState(*[zeros] * 5), x)
        return jnp.mean(jnp.sum((h @ W + b[None, None] - y) ** 2, -1))

    gradient, memory = jax.jit(jax.grad(loss), compiler_options=UNOPTIMIZED), rule.init(small)
    for n in range(STEPS):
        batch = draw(np.random.default_rng([RULE.seed, n]), B)
        noise = jax.random.normal(jax.random.fold_in(key, n), batch.inputs.shape)
        updates, memory = rule.update(
            gradient(small, batch.inputs + drawn.noise * noise, batch.targets), memory, small
        )
        small = optax.apply_updates(small, updates)
    return small, float(loss(small, PROBLEM.held_out.inputs, PROBLEM.held_out.targets))


@pytest.mark.long
def test_a_model_of_few_units_among_many_is_the_small_model(monkeypatch, standard_promotion):
    """Of the one cell whose gates would reach other units if it were not for the masks."""
    monkeypatch.setattr(search, "SIZES", (SIZE, SIZE + 2))
    monkeypatch.setattr(search, "RANGES", 1)
    drawn = [Configuration(SIZE, 0.2, 0.5, 0.3, 1), Configuration(SIZE + 2, 0.1, 0.9, 0.0, 2)]
    side = Side(PROBLEM, "full_gate_recurrence", 0, RULE)
    many = Configuration(*map(np.asarray, zip(*drawn, strict=True)))
    masks, state = side.begin(many._replace(seed=many.seed.astype(np.uint32)))
    first = jax.tree.map(lambda leaf: leaf[0], state[0])
    first = jax.tree.map(jnp.copy, first)  # the state is donated
    state = side.advance(many, masks, state, side._batches(0, STEPS), 0)
    found = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state[0])
    wanted, loss = train_alone(cut(first, SIZE), drawn[0], side)
    for a, b in zip(jax.tree.leaves(cut(found, SIZE)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), cut(found, SIZE), cut(first, SIZE)
    )
    assert min(jax.tree.leaves(moved)) > 1e-5
    # The other units are where they were: at 0.
    ones = jax.tree.map(lambda leaf: np.asarray(leaf[0]) == 1, masks)
    assert not any(
        np.any(a[~one]) for a, one in zip(*map(jax.tree.leaves, (found, ones)), strict=True)
    )
    scores = jax.device_get(side.score(state[0], PROBLEM.held_out))
    assert scores[0][0] == pytest.approx(loss, rel=1e-5)
    # And it began as a model of its own size does.
    layer = cut(first, SIZE)[0]
    for name in ("W", "U", "R", "p_f"):
        assert SIZE**-0.5 * 0.5 < np.abs(getattr(layer, name)).max() <= SIZE**-0.5 + 1e-6
    np.testing.assert_array_equal(layer.b, np.repeat([0, 1, 0, 0], SIZE).astype(np.float32))


def test_what_is_drawn_is_what_the_paper_draws():
    drawn = [draw_configuration(n, 0, 3) for n in range(3000)]
    assert [range_of(n) for n in range(3)] == [(20, 43), (44, 92), (93, 200)]
    sizes, rates, momenta, noise, _ = map(np.array, zip(*drawn, strict=True))
    assert sizes.min() == 20 and sizes.max() == 200
    assert np.median(sizes) == pytest.approx(63, abs=4)  # the middle on a logarithmic scale
    assert rates.min() < 2e-6 and rates.max() > 5e-3
    assert np.median(rates) == pytest.approx(1e-4, rel=0.3)
    assert momenta.min() >= 0 and momenta.max() <= 0.99
    assert np.median(momenta) == pytest.approx(0.9, abs=0.01)
    assert np.mean(noise) == pytest.approx(0.5, abs=0.02) and noise.max() < 1
    for n, one in enumerate(drawn[:100]):
        least, most = range_of(n % 3)
        assert least <= one.size <= most
    assert drawn[5] == draw_configuration(5, 0, 3) != draw_configuration(5, 0, 4)


def student(t, free):
    """The chance of a t beyond ±t, by the trapezoid rule."""
    x = np.linspace(-abs(t), abs(t), 200_001)
    log_scale = math.lgamma((free + 1) / 2) - math.lgamma(free / 2)
    density = np.exp(log_scale) / math.sqrt(free * math.pi) * (1 + x**2 / free) ** (-(free + 1) / 2)
    return 1 - np.trapezoid(density, x)


def test_where_the_same_is_drawn_the_comparison_is_the_pooled_t_test(rng):
    losses = {"base": rng.uniform(1, 2, 20), "other": rng.uniform(1.1, 2.1, 30)}
    logs = {name: np.log(of) for name, of in losses.items()}
    within = sum(((of - of.mean()) ** 2).sum() for of in logs.values()) / 48
    apart = logs["other"].mean() - logs["base"].mean()
    p = student(apart / math.sqrt(within * (1 / 20 + 1 / 30)), 48)
    found = compare({name: np.ones((len(of), 2)) for name, of in losses.items()}, losses, "base")
    assert found["other"].ratio == pytest.approx(math.exp(apart))
    assert found["other"].p == pytest.approx(p, rel=1e-6)


def test_a_variant_is_not_better_for_what_was_drawn_for_it(rng):
    """The base's draws are the worse ones, and the others are 1, 1.1 and 0.9 times as high."""
    true = {"base": 1.0, "same": 1.0, "worse": 1.1, "better": 0.9}
    drawn = {name: rng.uniform(0 if name == "base" else -1, 1, size=(40, 3)) for name in true}
    losses = {}
    for name, of in drawn.items():
        x, y, z = of.T
        noise = rng.normal(scale=0.02, size=len(x))
        losses[name] = true[name] * np.exp(x + x**3 + 0.3 * x * y - z**2 + noise)
    assert losses["base"].mean() > max(losses[name].mean() for name in true if name != "base")
    found = compare(drawn, losses, "base")
    for name, one in found.items():
        assert one.ratio == pytest.approx(true[name], rel=0.04)
        assert (one.worse, one.better) == (name == "worse", name == "better")


def test_of_more_comparisons_each_says_less(rng):
    drawn = {name: np.ones((20, 1)) for name in "abcd"}
    losses = {name: rng.uniform(1, 2, 20) for name in "abcd"}
    two = compare({n: drawn[n] for n in "ab"}, losses, "a")["b"].p
    assert two < compare(drawn, losses, "a")["b"].p <= 1
    assert compare({n: drawn[n][:10] for n in "ab"}, {n: losses[n][:10] for n in "ab"}, "a") == {}


def test_the_best_tenth():
    assert best_tenth([3.0, 1.0, 2.0]) == [1.0]
    assert best_tenth([float(n) for n in range(21, 0, -1)]) == [1.0, 2.0, 3.0]


def test_the_share_between_groups_is_epsilon_squared():
    """Of 0 2 and 4 6: 20 in all, 4 within, and 16 - 4/2 between, by hand."""
    groups, losses = np.array([0, 0, 1, 1]), np.array([0.0, 2, 4, 6])
    assert share_between(groups, losses) == pytest.approx(14 / 20)
    assert share_between(groups, losses[[0, 2, 1, 3]]) == 0  # 16 within, less than nothing between
    assert share_between(np.zeros(4, int), losses) == 0


def test_what_decides_is_found_and_what_two_have_together(rng):
    a, b, c = rng.uniform(-1, 1, size=(3, 4000))
    drawn = {"a": a, "b": b, "c": c}
    alone = shares(drawn, 3 * a + b)  # variances 9 : 1, but for what lies within a bin
    assert alone["a"] == pytest.approx(0.9 * 35 / 36, abs=0.01)
    assert alone["b"] == pytest.approx(0.1 * 35 / 36, abs=0.01)
    assert alone["c"] < 0.01 and alone["a x b"] < 0.01
    together = shares(drawn, a * b)
    assert together["a"] < 0.01 and together["a x b"] > 0.9


def test_bins_have_as_many_values_each():
    counts = np.bincount(effects.in_bins(np.array([5.0, 1, 1, 9, 2, 7, 3]), 3))
    assert counts.tolist() == [3, 2, 2]
