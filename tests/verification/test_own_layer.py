"""`check_layer`: a right layer passes, and every kind of wrong one is named."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells import CELLS
from lstm_jax.gradients.bptt_layer import bptt_layer
from lstm_jax.layer import unroll
from lstm_jax.verification import check_layer

PARAMS = {"U": np.full((2, 2), 0.3), "b": np.array([0.1, -0.2])}
X = np.linspace(-1, 1, 8).reshape(4, 2)


def plain(params, x):
    """h_t = tanh(x_t + h_{t-1} U + b)."""
    h, outputs = jnp.zeros_like(params["b"]), []
    for x_t in x:
        h = jnp.tanh(x_t + h @ params["U"] + params["b"])
        outputs.append(h)
    return jnp.stack(outputs)


def by_hand(wrong):
    """The same with a backward, which a change of its gradients makes wrong."""
    layer = jax.custom_vjp(plain)

    def backward(kept, dh):
        _, vjp = jax.vjp(plain, *kept)
        return wrong(*vjp(dh))

    layer.defvjp(lambda params, x: (plain(params, x), (params, x)), backward)
    return layer


def test_a_right_layer_passes():
    rows = check_layer(by_hand(lambda *right: right), plain, PARAMS, X)
    assert {row.leaf for row in rows} == {"output", "dparams['U']", "dparams['b']", "dx"}
    assert max(row.relative for row in rows if row.pair == "mine ~ reference") == 0
    assert max(row.relative for row in rows) < 1e-9
    rows = check_layer(by_hand(lambda *right: right), plain, PARAMS, X, dtype="float32")
    assert {row.pair for row in rows} == {"mine ~ reference"}


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda p, x: (p | {"U": p["U"] * (1 + 1e-6)}, x), r"mine ~ .*: dparams\['U'\] is off by"),
        (lambda p, x: (p | {"b": -p["b"]}, x), r"dparams\['b'\] is off by 2\.0e\+00 of its"),
        (lambda p, x: (p, x.at[0, 0].add(1e-5)), "dx is off by"),
        (lambda p, x: (p, x * jnp.nan), "dx is off by inf"),
        (lambda p, x: (p, x[::-1]), "dx is off by"),
    ],
)
def test_a_wrong_backward_is_named(wrong, message):
    with pytest.raises(AssertionError, match=message):
        check_layer(by_hand(wrong), plain, PARAMS, X)


def test_a_reference_that_is_wrong_with_it_does_not_help():
    """Differences ask nobody's derivative: a gradient that is stopped in both is found."""

    def stopped(params, x):
        return plain(params | {"U": jax.lax.stop_gradient(params["U"])}, x)

    with pytest.raises(AssertionError, match=r"mine ~ differences: dparams\['U'\]"):
        check_layer(stopped, stopped, PARAMS, X)


def test_other_values_and_other_leaves_are_named():
    with pytest.raises(AssertionError, match="mine ~ reference: output is off by"):
        check_layer(lambda p, x: plain(p, x) + 1e-9, plain, PARAMS, X)
    with pytest.raises(AssertionError, match="output has the leaves output"):
        check_layer(lambda p, x: {"h": plain(p, x)}, plain, PARAMS, X)
    with pytest.raises(AssertionError, match="output is off by inf"):
        check_layer(lambda p, x: plain(p, x)[:1], plain, PARAMS, X)


@pytest.mark.parametrize("ids", [True, False])
def test_the_layer_by_hand_of_this_package(ids):
    """Of ids, too, by which nothing is differentiated."""
    params = CELLS["gru"].init(jax.random.key(0), 3, 4)
    state = CELLS["gru"].init_state(params, 2)
    x = np.array([[0, 2], [1, 1], [2, 0]]) if ids else np.ones((5, 2, 3))

    def over(layer):
        def run(params, x):
            start = jax.tree.map(lambda a: a.astype(params.U.dtype), state)
            return layer(params, start, x)

        return run

    rows = check_layer(over(bptt_layer), over(unroll), params, x)
    leaves = {row.leaf for row in rows}
    assert {"dparams.W", "dparams.b_n"} <= leaves and ("dx" in leaves) != ids


def test_the_example_of_its_docstring_runs(standard_promotion):
    runner = doctest.DocTestRunner()
    (example,) = doctest.DocTestFinder(recurse=False).find(check_layer, globs={})
    assert runner.run(example).failed == 0 and len(example.examples) > 5
