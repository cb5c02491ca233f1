"""Gradients in blocks of steps: the same numbers, in less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import Batch
from lstm_jax.gradients import (
    BLOCK_GRADIENTS,
    GRADIENTS,
    BlockGradient,
    backward_by_jax,
    bptt,
    by_jax,
    forward_by_jax,
    remat,
)
from lstm_jax.heads import softmax
from lstm_jax.masks import evaluation_masks, sample_masks
from lstm_jax.model import init_carry, init_model
from lstm_jax.verification.cases import Case, make_problem
from lstm_jax.verification.compare import UNOPTIMIZED
from tests.mutants import load

T, B = 10, 3
LENGTHS = (1, 4)  # the last block has 1 and 2 steps
TOLERANCE = 1e-12

EVERYTHING = Case(
    ModelConfig(
        hidden_size=5,
        num_layers=2,
        embedding_size=4,
        dropout=0.25,
        input_dropout=0.25,
        skip="weighted",
    ),
    T,
    B,
    masked=True,
    resets=True,
    carry=True,
)
CASES = {
    "2 layers, everything": EVERYTHING,
    # Ids dropped as whole symbols; every target counts.
    "1 layer, ids": Case(ModelConfig(hidden_size=5, input_dropout=0.25), T, B),
    # Units that stay are drawn for every step, so each block has its own; some lanes end in it.
    "zoneout and lengths": Case(
        ModelConfig(
            hidden_size=5, num_layers=2, dropout=0.25, zoneout_cell=0.4, zoneout_hidden=0.3
        ),
        T,
        B,
        lengths=True,
    ),
}
# A cell with another state, that has neither columns nor a truncated rule.
GRU = Case(ModelConfig(hidden_size=5, cell="gru"), T, B, lengths=True, resets=True, carry=True)


@pytest.fixture(params=["rows", "columns"])
def layout(request, monkeypatch):
    """The hand backward's layout that a CPU runs, whatever the size."""
    monkeypatch.setattr(bptt, "COLUMNS_FROM", 1 if request.param == "columns" else 1000)


def run(functions, case):
    """((loss, aux), gradients) by each function, by one program."""
    problem = jax.tree.map(jnp.asarray, make_problem(case))
    compiled = jax.jit(lambda *p: [f(*p) for f in functions], compiler_options=UNOPTIMIZED)
    return compiled(*problem)


def error(found, wanted):
    """The largest difference between two trees, each leaf's as a share of its largest value."""

    def of_leaf(a, b):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = float(jnp.abs(b).max()) or 1.0
        return float(jnp.abs(a - b).max()) / scale

    return max(jax.tree.leaves(jax.tree.map(of_leaf, found, wanted)))


def assert_blocks_equal_the_whole(names, case):
    for name in names:
        functions = [remat.make_gradient(name, k) for k in LENGTHS]
        wanted, *found = run([GRADIENTS[name](softmax), *functions], case)
        assert max(error(f, wanted) for f in found) < TOLERANCE, name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_by_hand_blocks_give_what_the_whole_gives(case, layout, x64):
    assert_blocks_equal_the_whole(["bptt", "truncated"], case)


def test_another_cells_blocks_give_what_the_whole_gives(x64):
    assert_blocks_equal_the_whole(["bptt"], GRU)


@pytest.mark.parametrize("case", [*CASES.values(), GRU], ids=[*CASES, "gru"])
def test_by_jax_blocks_give_what_the_whole_gives(case, x64):
    assert_blocks_equal_the_whole(["autodiff"], case)


def test_one_zoneout_for_all_steps(x64):
    """What stands for the drawn masks in scoring is as long as one step."""
    case = CASES["zoneout and lengths"]
    mean = evaluation_masks(case.model)
    functions = [GRADIENTS["bptt"](softmax), remat.make_gradient("bptt", 3)]
    whole, blocks = run([lambda *p, f=f: f(*p[:3], mean) for f in functions], case)
    assert error(blocks, whole) < TOLERANCE


def test_the_truncated_rule_by_jax_in_blocks(x64):
    """Across the blocks, too, the error flows through the cell state alone: by stop_gradient."""
    blocks = BlockGradient(forward_by_jax, partial(backward_by_jax, head=softmax, truncated=True))
    functions = [
        by_jax(softmax, truncated=True),
        partial(remat.in_blocks, blocks, 3),
        GRADIENTS["bptt"](softmax),
    ]
    wanted, in_blocks, bptt_whole = run(functions, EVERYTHING)
    (by_hand,) = run([remat.make_gradient("truncated", 4)], EVERYTHING)
    assert error(in_blocks, wanted) < TOLERANCE and error(by_hand, wanted) < TOLERANCE
    assert error(bptt_whole, wanted) > 1e-3  # the case tells the rules apart


def test_a_batch_in_which_no_target_counts(x64):
    params, carry, batch, masks = jax.tree.map(jnp.asarray, make_problem(EVERYTHING))
    batch = batch._replace(mask=jnp.zeros((T, B), bool))
    for name in ("autodiff", "bptt"):
        gradient = jax.jit(remat.make_gradient(name, 4), compiler_options=UNOPTIMIZED)
        (loss, aux), grads = gradient(params, carry, batch, masks)
        assert loss == 0 and aux.count == 0
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


@pytest.fixture(scope="module")
def whole():
    """What the mutants should give."""
    with jax.enable_x64(True):
        return run([GRADIENTS["bptt"](softmax)], EVERYTHING)[0]


MUTANTS = [
    (
        "the error stops at a block's start",
        "backward_block(start, part, dcarry)",
        "backward_block(start, part, zeros)",
    ),
    ("the blocks from the first to the last", ", reverse=True", ""),
    ("the losses of all blocks but one", "return (loss_later + loss,", "return (loss_later,"),
    (
        "the gradients of all blocks but one",
        "jax.tree.map(jnp.add, dparams_later, dparams)",
        "dparams",
    ),
    (
        "every block from the state after it",
        "return block.forward(params, carry, part.batch, masks_of(part)), carry",
        "return 2 * (block.forward(params, carry, part.batch, masks_of(part)),)",
    ),
    (
        "the loss a sum of means",
        "masks_of(part), dcarry, count)",
        "masks_of(part), dcarry, None)",
    ),
    (
        "the dropout forgotten going forward",
        "block.forward(params, carry, part.batch, masks_of(part))",
        "block.forward(params, carry, part.batch, None)",
    ),
    (
        "the last step left out",
        "cut(Part(batch, zoneout), length)",
        "cut(jax.tree.map(lambda a: a[:-1], Part(batch, zoneout)), length)",
    ),
]


@pytest.mark.parametrize("old, new", [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS])
def test_a_broken_block_is_caught(old, new, whole, x64):
    broken = load(remat, old, new, wanted=remat)[remat.__name__]
    in_blocks = partial(broken.in_blocks, BLOCK_GRADIENTS["bptt"](softmax), 4)
    (found,) = run([in_blocks], EVERYTHING)
    assert error(found, whole) > 1e-3


def test_nothing_changes_where_there_is_only_one_block():
    """No option, or no shorter block than the sequence: the very same program."""
    problem = make_problem(EVERYTHING)
    for name, whole in GRADIENTS.items():
        wanted = str(jax.make_jaxpr(whole(softmax))(*problem))
        for length in (0, T, T + 5):
            assert str(jax.make_jaxpr(remat.make_gradient(name, length))(*problem)) == wanted
        assert str(jax.make_jaxpr(remat.make_gradient(name, T - 1))(*problem)) != wanted


def test_every_gradient_has_its_blocks():
    assert BLOCK_GRADIENTS.keys() == GRADIENTS.keys()


def temporary_bytes(gradient, config, length):
    """What the compiled gradient of a sequence needs besides its arguments and its results."""

    def shapes():
        params = init_model(jax.random.key(0), config, 11)
        return params, init_carry(params, 4), sample_masks(jax.random.key(0), params, config, 4, 7)

    params, carry, masks = jax.eval_shape(shapes)
    ids = jax.ShapeDtypeStruct((length, 4), np.uint8)
    jitted = jax.jit(gradient, compiler_options=UNOPTIMIZED)
    compiled = jitted.lower(params, carry, Batch(ids, ids), masks).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not tell")
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize("name", GRADIENTS)
def test_blocks_need_little_memory(name, layout):
    """From T to 16 T: 16 times as much without blocks, with blocks of sqrt(T) about 4 times."""
    config = ModelConfig(hidden_size=32, embedding_size=8, dropout=0.25, input_dropout=0.25)

    def temporary(length, block_length):
        return temporary_bytes(remat.make_gradient(name, block_length), config, length)

    whole, in_blocks = temporary(4096, 0), temporary(4096, 64)
    assert whole > 14 * temporary(256, 0)
    assert in_blocks < 6 * temporary(256, 16)
    assert in_blocks < whole / 12
