"""The hand backward: what it must not use, any shape, and the layer for other people's models."""

import ast
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_jax.cells import (
    CELLS,
    carousel,
    elman,
    forgetting_blocks,
    gru,
    lstm,
    lstm_columns,
    lstm_gates,
    memory_blocks,
    passes,
    projection,
    vanilla,
)
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.cells.passes import COLUMNS, ROWS
from lstm_jax.config import ModelConfig
from lstm_jax.gradients import bptt
from lstm_jax.gradients import bptt_layer as by_hand_layer
from lstm_jax.gradients.bptt_layer import bptt_layer
from lstm_jax.layer import unroll
from lstm_jax.loss import sequence_loss
from lstm_jax.model import ModelParams
from lstm_jax.verification.cases import Case, make_problem
from lstm_jax.verification.compare import verify_case

T, B, D, H = 6, 3, 4, 5


BY_HAND = [
    *(bptt, by_hand_layer, passes, projection, lstm, lstm_columns, lstm_gates),
    *(gru, elman, vanilla, memory_blocks, forgetting_blocks, carousel),
]


@pytest.mark.parametrize("module", BY_HAND, ids=lambda module: module.__name__)
def test_nothing_in_the_file_is_differentiated_by_jax(module):
    forbidden = {
        "grad",
        "value_and_grad",
        "vjp",
        "jvp",
        "linearize",
        "linear_transpose",
        "jacrev",
        "jacfwd",
        "hessian",
    }
    tree = ast.parse(Path(module.__file__).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & forbidden
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not {alias.name for alias in node.names} & forbidden
            # Nor does it borrow a function that was differentiated elsewhere.
            assert node.module not in ("lstm_jax.gradients", "jax.interpreters", "jax.ad_util")


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 4)),
    layers=st.integers(1, 3),
    hidden=st.integers(1, 7),
    embedding=st.integers(0, 4),
    vocabulary=st.integers(1, 9),
    dropped=st.booleans(),
    skip=st.booleans(),
    switches=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 2**16),
)
def test_any_shape(shape, layers, hidden, embedding, vocabulary, dropped, skip, switches, seed):
    model = ModelConfig(
        hidden_size=hidden,
        num_layers=layers,
        embedding_size=embedding,
        dropout=0.25 * dropped,
        input_dropout=0.25 * dropped,
        skip="weighted" if skip and layers > 1 else "none",
    )
    case = Case(model, *shape, *switches, vocabulary_size=vocabulary, seed=seed)
    for row in verify_case(case, float32=False, optimized=False):
        assert row.passed, (case, row)


def test_a_gradient_that_arrives_at_the_final_carry(x64, rng):
    """The loss plus a linear function of the final carry, against autodiff."""
    model = ModelConfig(hidden_size=H, num_layers=2, dropout=0.25, input_dropout=0.25)
    case = Case(model, T, B, masked=True, resets=True, carry=True)
    params, carry, batch, masks = jax.tree.map(jnp.asarray, make_problem(case))
    dcarry = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), carry)

    def loss(params):
        loss, aux = sequence_loss(params, carry, batch, masks)
        return loss + optax.tree.vdot(dcarry, aux.carry)

    wanted = jax.jit(jax.grad(loss))(params)
    for layout in (ROWS, COLUMNS):
        by_hand = jax.jit(partial(bptt.value_and_grad, layout=layout))
        assert_close(by_hand(params, carry, batch, masks, dcarry=dcarry)[1], wanted)
        with pytest.raises(AssertionError):
            assert_close(by_hand(params, carry, batch, masks)[1], wanted)


def test_the_layout_is_chosen_by_size_and_platform(monkeypatch):
    """Columns on a CPU from a hidden size on; rows elsewhere, the same program on CUDA and TPU."""
    problem = make_problem(Case(ModelConfig(hidden_size=H), T, B))

    def lowered(platform):
        traced = jax.jit(lambda *problem: bptt.value_and_grad(*problem)).trace(*problem)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    small = lowered("cpu")
    monkeypatch.setattr(bptt, "COLUMNS_FROM", H)
    assert lowered("cpu") != small
    recurrent = f"tensor<{B}x{4 * H}xf32>"  # the rows' block, which the columns never make
    assert recurrent in small and recurrent not in lowered("cpu")
    assert recurrent in lowered("cuda") and recurrent in lowered("tpu")
    # One step of time per round of the loop on every platform: the program that was verified.
    monkeypatch.undo()
    assert lowered("cuda") == lowered("tpu") == small


@pytest.fixture
def problem(x64, rng):
    params = LSTMParams(
        *map(
            jnp.asarray,
            (rng.normal(size=(D, 4 * H)), rng.normal(size=(H, 4 * H)), rng.normal(size=4 * H)),
        )
    )
    state = LSTMState(*map(jnp.asarray, rng.normal(size=(2, B, H))))
    return params, state, jnp.asarray(rng.normal(size=(T, B, D)))


def loss_of(layer, resets_TxB=None):
    """A loss that looks at the outputs and at both parts of the final state."""

    def loss(params, state, x):
        final, h_TxBxH = layer(params, state, x, resets_TxB)
        return jnp.sum(jnp.sin(h_TxBxH)) + jnp.sum(final.h**2) + jnp.sum(jnp.cos(3 * final.c))

    return loss


def textbook(params, state, x, resets_TxB=None):
    return unroll(params, state, x, resets_TxB=resets_TxB)


def assert_close(found, wanted, tolerance=1e-12):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, float),
            np.asarray(b, float),
            rtol=tolerance,
            atol=tolerance * float(np.abs(b).max()),
        ),
        found,
        wanted,
    )


@pytest.mark.parametrize("with_resets", [False, True])
def test_the_layer_differentiates_by_everything(with_resets, problem, rng):
    """Parameters, initial state, input; from outputs and final state; under jit."""
    resets = jnp.asarray(rng.random((T, B)) < 0.3) if with_resets else None
    argnums = (0, 1, 2)
    found = jax.jit(jax.value_and_grad(loss_of(bptt_layer, resets), argnums))(*problem)
    wanted = jax.jit(jax.value_and_grad(loss_of(textbook, resets), argnums))(*problem)
    assert_close(found, wanted)


def test_the_layer_under_vmap(problem, rng):
    params, state, _ = problem
    xs = jnp.asarray(rng.normal(size=(4, T, B, D)))

    def gradients(layer):
        mapped = jax.vmap(jax.grad(loss_of(layer)), in_axes=(None, None, 0))
        return jax.jit(mapped)(params, state, xs)

    assert_close(gradients(bptt_layer), gradients(textbook))


def test_the_layer_reads_ids(problem, rng):
    params, state, _ = problem
    ids = jnp.asarray(rng.integers(D, size=(T, B)))
    found = jax.grad(loss_of(bptt_layer))(params, state, ids)
    assert_close(found, jax.grad(loss_of(textbook))(params, state, jax.nn.one_hot(ids, D)))


def test_the_layer_in_bfloat16(problem):
    """As close to the float64 gradient as autodiff in bfloat16 is (eight bits of mantissa)."""

    def low(tree):
        return jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree)

    found = jax.jit(jax.grad(loss_of(bptt_layer), (0, 1, 2)))(*low(problem))
    wanted = jax.jit(jax.grad(loss_of(textbook), (0, 1, 2)))(*problem)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        assert np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) > 0.999


MIXTURES = [  # the dtypes of the parameters, of the state, which is no narrower, and of x
    ("float32", "float32", "bfloat16"),
    ("float32", "float32", "float16"),
    ("bfloat16", "float32", "float32"),
    ("bfloat16", "float32", "bfloat16"),
    ("float16", "float32", "bfloat16"),
    ("float16", "float16", "float16"),
]


def rounded(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype), tree)


def dtypes(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


def assert_near(found, wanted, tolerance):
    """Every leaf within that share of its largest value."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("mixture", MIXTURES, ids="-".join)
def test_gradients_come_in_the_dtype_of_what_they_belong_to(mixture, problem, standard_promotion):
    low = tuple(map(rounded, problem, mixture))
    found = jax.grad(loss_of(bptt_layer), (0, 1, 2))(*low)
    assert dtypes(found) == dtypes(low)
    wanted = jax.grad(loss_of(textbook), (0, 1, 2))(*rounded(low, float))
    assert_near(found, wanted, 0.02 if "bfloat16" in mixture else 0.005)


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if cell.by_hand])
def test_so_they_do_for_every_cell(name, standard_promotion):
    params = CELLS[name].init(jax.random.key(0), D, 2 * D)
    problem = params, CELLS[name].init_state(params, B), jnp.zeros((T, B, D))
    for mixture in MIXTURES:
        low = tuple(map(rounded, problem, mixture))
        final, h_TxBxH = jax.eval_shape(bptt_layer, *low)
        assert {*dtypes(final), h_TxBxH.dtype} == {jnp.dtype(mixture[1])}
        gradient = jax.grad(lambda *args: bptt_layer(*args)[1].sum(), (0, 1, 2))
        assert dtypes(jax.eval_shape(gradient, *low)) == dtypes(low)


@pytest.mark.parametrize("layer", [unroll, bptt_layer])
def test_a_state_that_is_narrower_is_refused(layer, problem, standard_promotion):
    """Each step would leave another dtype."""
    params, state, x = rounded(problem, jnp.float32)
    for narrow in ((params, rounded(x, jnp.float16)), (rounded(params, jnp.bfloat16), x)):
        with pytest.raises(TypeError, match=r"state's h is bfloat16, and .* are float32: begin"):
            layer(narrow[0], rounded(state, jnp.bfloat16), narrow[1])


def test_layers_in_a_scan_on_a_residual_path(problem, standard_promotion):
    """The stream in bfloat16, parameters and state in float32."""
    params, _, x = problem
    square = params._replace(W=params.W[:, : 4 * D], U=params.U[:D, : 4 * D], b=params.b[: 4 * D])
    stacked = rounded(jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), square), jnp.float32)
    start = LSTMState(*(jnp.zeros((B, D), jnp.float32),) * 2)

    def loss(layer, stacked, x):
        def residual(x, params):
            return x + layer(params, rounded(start, params.b.dtype), x)[1].astype(x.dtype), None

        return jnp.sum(jnp.sin(jax.lax.scan(residual, x, stacked)[0].astype(params.b.dtype)))

    low = stacked, x.astype(jnp.bfloat16)
    found = jax.grad(partial(loss, bptt_layer), (0, 1))(*low)
    assert dtypes(found) == dtypes(low)
    assert_near(found, jax.grad(partial(loss, unroll), (0, 1))(*rounded(low, float)), 0.05)


def test_a_model_of_several_dtypes(x64, standard_promotion):
    """The embedding, the first layer and its state are narrower than what lies above."""
    model = ModelConfig(hidden_size=H, num_layers=2, embedding_size=4, skip="weighted")
    problem = make_problem(Case(model, T, B, masked=True, resets=True, carry=True))
    params, carry, batch, _ = jax.tree.map(jnp.asarray, problem)
    low, high = jnp.bfloat16, jnp.float32
    params = ModelParams(
        embedding=params.embedding.astype(low),
        layers=(rounded(params.layers[0], low), rounded(params.layers[1], high)),
        readout=rounded(params.readout, low),
        skips=rounded(params.skips, low),
    )
    carry = rounded(carry[0], low), rounded(carry[1], high)
    wide = rounded(params, float), rounded(carry, float)
    wanted = jax.jit(jax.grad(lambda *args: sequence_loss(*args, batch)[0]))(*wide)
    for layout in (ROWS, COLUMNS):
        _, found = jax.jit(partial(bptt.value_and_grad, layout=layout))(params, carry, batch)
        assert dtypes(found) == dtypes(params)
        assert_near(found, wanted, 0.03)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_narrow_model_promotes_nothing(dtype):
    """Under strict promotion, as everything else; losses and what comes of them are float32."""
    model = ModelConfig(hidden_size=H, num_layers=2, dropout=0.25)
    problem = make_problem(Case(model, T, B, masked=True, resets=True, carry=True))
    low = rounded(jax.tree.map(jnp.asarray, problem[:2]), dtype)
    rest = problem.batch, rounded(jax.tree.map(jnp.asarray, problem.masks), dtype)
    wanted = jax.jit(jax.grad(lambda *args: sequence_loss(*args)[0]))(*low, *rest)
    for layout in (ROWS, COLUMNS):
        (loss, _), found = jax.jit(partial(bptt.value_and_grad, layout=layout))(*low, *rest)
        assert loss.dtype == jnp.float32 and dtypes(found) == dtypes(low[0])
        assert_near(rounded(found, jnp.float32), rounded(wanted, jnp.float32), 0.05)


def test_many_like_ids_add_up_in_bfloat16():
    ids = jnp.zeros((1000, 1), jnp.int32)
    d = jnp.ones((1000, 1, 1), jnp.bfloat16)
    assert projection.add_rows(ids, d, 2).tolist() == [[1000], [0]]


def loss_of_all(layer, resets_TxB):
    """As `loss_of`, for a state of any fields."""

    def loss(params, state, x):
        final, h_TxBxH = layer(params, state, x, resets_TxB)
        return jnp.sum(jnp.sin(h_TxBxH)) + sum(jnp.sum(jnp.cos(3 * leaf)) for leaf in final)

    return loss


def problem_of(name, rng):
    """Random parameters, state and input of a cell, by its own shapes."""
    cell = CELLS[name]
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H))
    state = jax.eval_shape(lambda: cell.init_state(params, B))
    shapes = params, state, jax.ShapeDtypeStruct((T, B, D), float)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), shapes)


@pytest.mark.parametrize(
    "name", ["gru", "peephole", "memory_blocks", "forgetting_blocks", "carousel"]
)
def test_another_cells_layer_differentiates_by_everything(name, x64, rng):
    """Every parameter, the initial state, the input; under jit, under vmap, and of ids."""
    params, state, x = problem_of(name, rng)
    resets = jnp.asarray(rng.random((T, B)) < 0.3)
    ids, xs = jnp.asarray(rng.integers(D, size=(T, B))), jnp.stack([x, 2 * x, x + 1])

    def gradients(layer):
        loss = loss_of_all(layer, resets)
        alone = jax.value_and_grad(loss, (0, 1, 2))(params, state, x)
        mapped = jax.vmap(jax.grad(loss, (0, 1, 2)), (None, None, 0))(params, state, xs)
        return alone, mapped, jax.grad(loss, (0, 1))(params, state, ids)

    found = jax.jit(partial(gradients, bptt_layer))()
    assert_close(found, jax.jit(partial(gradients, textbook))())
    one = jax.tree.map(lambda a: a[0], found[1])
    assert_close(one, found[0][1])


@pytest.mark.parametrize("name", ["gru", "peephole"])
def test_every_gradient_of_another_cells_layer_is_looked_at(name, x64, rng):
    """The comparison fails where one leaf of the gradient is off by a thousandth."""
    params, state, x = problem_of(name, rng)
    wanted = jax.jit(jax.grad(loss_of_all(bptt_layer, None), (0, 1, 2)))(params, state, x)
    leaves, structure = jax.tree.flatten(wanted)
    assert len(leaves) == len(params) + len(state) + 1
    for n, leaf in enumerate(leaves):
        assert leaf.any()
        with pytest.raises(AssertionError):
            assert_close(structure.unflatten([*leaves[:n], 1.001 * leaf, *leaves[n + 1 :]]), wanted)


@pytest.mark.parametrize("name", ["coupled", "layer_norm", "mogrifier"])
def test_a_cell_without_a_backward_by_hand_is_refused_in_one_line(name, rng):
    wanted = f"^the backward by hand is not for the cell {name}: take layer.unroll$"
    with pytest.raises(TypeError, match=wanted):
        bptt_layer(*problem_of(name, rng))


def test_the_layer_says_that_it_has_no_forward_mode(problem):
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss_of(bptt_layer), problem, problem)


def test_the_layer_composes_with_itself_and_with_other_layers(problem, rng):
    params, state, x = problem
    V = jnp.asarray(rng.normal(size=(H, D)))

    def stacked(layer):
        def loss(params, V):
            _, h = layer(params, state, x)
            _, h = layer(params, state, jnp.tanh(h @ V))
            return jnp.sum(jax.nn.log_softmax(h)[..., 0])

        return loss

    found = jax.jit(jax.grad(stacked(bptt_layer), (0, 1)))(params, V)
    assert_close(found, jax.jit(jax.grad(stacked(textbook), (0, 1)))(params, V))
