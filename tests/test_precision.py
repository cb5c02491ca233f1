"""Mixed precision, against a network and its backward in NumPy that round each factor."""

import types
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.experimental import pallas as pl

from lstm_jax import precision
from lstm_jax.cells import CELLS
from lstm_jax.gradients import GRADIENTS
from lstm_jax.heads import softmax
from lstm_jax.model_config import ModelConfig
from lstm_jax.precision import in_bfloat16
from lstm_jax.verification.cases import Case, make_problem
from lstm_jax.verification.compare import cast

T, B, D, H = 6, 3, 4, 5
# A factor halfway between two numbers may go either way; else the errors are some 1e-7.
SAME = 1e-3


@pytest.fixture
def problem(rng):
    """W, U and x of a plain RNN, in float32."""
    shapes = (D, H), (H, H), (T, B, D)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def loss(W, U, x_TxBxD):
    """The sum of squares of what h_t = tanh(x_t W + h_{t-1} U) ends as, and of all h_t V U."""

    def step(h_BxH, x_BxD):
        h_BxH = jnp.tanh(x_BxD @ W + h_BxH @ U)
        return h_BxH, jnp.sum((h_BxH @ U) ** 2)

    h_BxH, squares_T = jax.lax.scan(step, jnp.zeros((B, H)), x_TxBxD)
    return jnp.sum(h_BxH**2) + jnp.sum(squares_T)


def multiply(a, b):
    """What the product of two matrices of bfloat16 is."""
    return np.matmul(*(np.asarray(m).astype(ml_dtypes.bfloat16).astype(float) for m in (a, b)))


def by_loops(W, U, x_TxBxD, multiply=multiply):
    """The loss and its gradient."""
    h = [np.zeros((B, H))]
    for x in x_TxBxD:
        h.append(np.tanh(multiply(x, W) + multiply(h[-1], U)))
    y = [multiply(each, U) for each in h[1:]]
    total = np.sum(h[-1] ** 2) + np.sum(np.square(y))
    dW, dU, dx, dh = np.zeros((D, H)), np.zeros((H, H)), [], 2 * h[-1]
    for t in reversed(range(T)):
        dU += multiply(h[t + 1].T, 2 * y[t])
        dz = (dh + multiply(2 * y[t], np.transpose(U))) * (1 - h[t + 1] ** 2)
        dW += multiply(np.transpose(x_TxBxD[t]), dz)
        dU += multiply(h[t].T, dz)
        dx.insert(0, multiply(dz, np.transpose(W)))
        dh = multiply(dz, np.transpose(U))
    return total, (dW, dU, np.stack(dx))


def error(found, wanted):
    """The largest, as a share of a leaf's largest value."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs)


GRADIENT = jax.value_and_grad(loss, (0, 1, 2))


def test_each_product_of_a_gradient_rounds_its_factors_and_nothing_else(problem):
    found = in_bfloat16(GRADIENT)(*problem)
    assert error(found, by_loops(*problem)) < SAME
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    exact = by_loops(*problem, multiply=np.matmul)
    assert error(GRADIENT(*problem), exact) < 1e-6 < 5 * SAME < error(found, exact)


def checkpointed(*problem):
    return jax.value_and_grad(jax.checkpoint(loss), (0, 1, 2))(*problem)


def branching(*problem):
    return jax.lax.cond(problem[0].sum() < jnp.inf, GRADIENT, GRADIENT, *problem)


@pytest.mark.parametrize("gradient", [checkpointed, branching])
def test_so_do_those_inside_of_other_functions(gradient, problem):
    assert error(in_bfloat16(gradient)(*problem), by_loops(*problem)) < SAME


def test_many_side_by_side(problem, rng):
    W, U, x = problem
    Us = jnp.stack([U, 0.3 * U])
    found = jax.jit(jax.vmap(in_bfloat16(GRADIENT), in_axes=(None, 0, None)))(W, Us, x)
    for n, U in enumerate(Us):
        assert error([leaf[n] for leaf in jax.tree.leaves(found)], by_loops(W, U, x)) < SAME


def test_what_is_not_float32_is_left_alone(problem, x64):
    wide = [np.asarray(a, float) for a in problem]

    def double(W, U, x_TxBxD):
        return jnp.tanh(x_TxBxD @ W) @ U

    np.testing.assert_array_equal(in_bfloat16(double)(*wide), jax.jit(double)(*wide))


def test_a_kernel_is_left_alone(problem):
    def kernel(a_ref, b_ref, out_ref):
        out_ref[...] = a_ref[...] @ b_ref[...]

    multiply = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((D, H), jnp.float32))
    traced = str(jax.make_jaxpr(in_bfloat16(lambda W, U: multiply(W, U) @ U))(*problem[:2]))
    assert traced.count("dot_general[") == traced.count("dot_general_of_bfloat16[") == 1


def test_a_gradient_from_outside_is_refused(problem):
    """Its products would not be rounded."""
    with pytest.raises(NotImplementedError, match="dot_general_of_bfloat16"):
        jax.grad(in_bfloat16(loss))(*problem)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_elsewhere_than_on_a_cpu_the_product_itself_rounds(platform, problem):
    lowered = jax.jit(in_bfloat16(GRADIENT)).trace(*problem).lower(lowering_platforms=(platform,))
    products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    algorithm = "<lhs_precision_type = bf16, rhs_precision_type = bf16, accumulation_type = f32"
    assert len(products) > 5 and all(algorithm in line for line in products)


@pytest.mark.parametrize(
    "cell, gradient",
    [(n, g) for n in CELLS for g in ("autodiff", "bptt") if CELLS[n].by_hand or g == "autodiff"],
)
def test_no_product_of_a_model_is_left_out(cell, gradient):
    model = ModelConfig(hidden_sizes=(16, 20), cell=cell, readout_rank=3)
    problem = cast(make_problem(Case(model, T, B, vectors=True)), "float32")
    function = GRADIENTS[gradient](softmax)
    before, after = (str(jax.make_jaxpr(f)(*problem)) for f in (function, in_bfloat16(function)))
    assert before.count("dot_general[") == after.count("dot_general_of_bfloat16[") > 10
    assert after.count("dot_general[") == 0


MUTANTS = {
    "the first factor as it is": ("(round_off(a), round", "(a, round"),
    "the second factor as it is": (", round_off(b)", ", b"),
    "the product rounded, too": (
        "lax.dot_general(round_off(a), round_off(b), **dimensions)",
        "round_off(lax.dot_general(round_off(a), round_off(b), **dimensions))",
    ),
    "the product alone rounded": (
        "lax.dot_general(round_off(a), round_off(b), **dimensions)",
        "round_off(lax.dot_general(a, b, **dimensions))",
    ),
    "a bit more": ("mantissa_bits=bits.nmant", "mantissa_bits=bits.nmant + 1"),
    "a bit less": ("mantissa_bits=bits.nmant", "mantissa_bits=bits.nmant - 1"),
    "loops left out": ("params=jax.tree.map(narrow, equation.params)", "params=equation.params"),
    "float64 instead": ("FLOAT32 = jnp.dtype(jnp.float32)", "FLOAT32 = jnp.dtype(jnp.float64)"),
}


@pytest.mark.parametrize("old, new", MUTANTS.values(), ids=MUTANTS)
def test_a_rounding_that_is_wrong_is_caught(old, new, problem):
    source = Path(precision.__file__).read_text()
    assert source.count(old) == 1
    mutant = types.ModuleType("mutant")
    exec(source.replace(old, new), vars(mutant))
    assert error(mutant.in_bfloat16(GRADIENT)(*problem), by_loops(*problem)) > 5 * SAME
