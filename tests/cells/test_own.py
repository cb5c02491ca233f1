"""A cell of one's own: a file's worth of lines and one in CELLS, and all else takes it."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from experiments.command import catalogue
from lstm_jax.cells import CELLS
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.passes import Calculus, make_passes
from lstm_jax.cells.projection import multiply_input, outer_sum, project_backward
from lstm_jax.config import Config, ModelConfig
from lstm_jax.errors import UserError
from lstm_jax.gradients import GRADIENTS
from lstm_jax.gradients.bptt_layer import bptt_layer
from lstm_jax.gradients.remat import make_gradient
from lstm_jax.gradients.weight_drop import drop_weights, sample_weight_masks, with_weight_drop
from lstm_jax.heads import HEADS, softmax
from lstm_jax.layer import unroll
from lstm_jax.loss import sequence_loss
from lstm_jax.model import init_carry, init_model
from lstm_jax.run.checkpoint import load_model
from lstm_jax.verification.cases import Case, make_problem
from lstm_jax.verification.compare import verify_case
from tests.cli import EVALUATE, SAMPLE, TEXT, TRAIN, call, line_of, process_in
from tests.loops import B, D, H, affine, compare, loop, make_inputs, random

DYNAMIC = {"dynamic": "true", "draws": "2"}


class Params(NamedTuple):
    """With names that no other cell has."""

    read: Array  # DxH
    recall: Array  # HxH
    lean: Array  # H


class State(NamedTuple):
    h: Array


def init(key, input_size, hidden_size, *, input_bound=None):
    key_read, key_recall = jax.random.split(key)
    draw, bound = jax.random.uniform, hidden_size**-0.5
    return Params(
        (input_bound or bound) * draw(key_read, (input_size, hidden_size), minval=-1),
        bound * draw(key_recall, (hidden_size, hidden_size), minval=-1),
        jnp.zeros(hidden_size),
    )


def prepare(params, x, mask_BxD):
    return multiply_input(x, params.read, mask_BxD) + params.lean[None, None]


def forward(params, before, a_BxH):
    return State(jnp.tanh(a_BxH + before.h @ params.recall)), ()


TANH = Cell(
    params=Params,
    state=State,
    init=init,
    init_state=lambda params, batch_size: State(
        jnp.zeros((batch_size, params.recall.shape[0]), params.recall.dtype)
    ),
    prepare=prepare,
    step=lambda params, state, a_BxH: forward(params, state, a_BxH)[0],
    widths=lambda params: params.read.shape,
    recurrent=("recall",),
)


def backward(recall_back, h_BxH, _, d):
    dz_BxH = d.h * (1 - h_BxH * h_BxH)
    return State(dz_BxH @ recall_back), dz_BxH


def collect(params, x, mask_BxD, before, after, _, dz_TxBxH):
    dread, dx = project_backward(params.read, x, mask_BxD, dz_TxBxH)
    return Params(dread, outer_sum(before.h, dz_TxBxH), jnp.sum(dz_TxBxH, (0, 1))), dx


CALCULUS = Calculus(
    forward_weights=lambda params, x: params,
    prepare=prepare,
    forward=forward,
    reads=lambda before, after: after.h,
    backward_weights=lambda params, x, truncated: params.recall.T,
    backward=backward,
    collect=collect,
)


def by_hand(calculus):
    return TANH._replace(by_hand={"rows": make_passes(calculus)})


@pytest.fixture
def cell(monkeypatch):
    """Nobody has derived its backward."""
    monkeypatch.setitem(CELLS, "tanh", TANH)


@pytest.fixture
def derived(monkeypatch):
    monkeypatch.setitem(CELLS, "tanh", by_hand(CALCULUS))


def make_params(rng):
    return Params(random(rng, D, H), random(rng, H, H), random(rng, H))


def plain(params):
    """The cell, unit by unit."""
    read, recall, lean = (np.array(leaf) for leaf in params)

    def step(h, x, *_):
        sums = zip(affine(x, read), affine(h, recall), lean, strict=True)
        return ([math.tanh(p + q + float(r)) for p, q, r in sums],)

    return step


@pytest.mark.parametrize("ids", [False, True])
def test_unrolled_it_is_the_loop(ids, cell, x64, rng):
    params = make_params(rng)
    compare(unroll, params, plain(params), make_inputs(rng, ids, State))


@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_and_the_reverse_direction_are_the_loops(reverse, derived, x64, rng):
    params, (state, x, _, resets) = make_params(rng), make_inputs(rng, ids=False, kind=State)
    lengths = [2, 4]
    wanted = loop(plain(params), state, x, np.ones((B, D)), resets, lengths, reverse)
    for layer in (unroll, bptt_layer):
        final, outputs = layer(
            params, state, x, resets_TxB=resets, lengths_B=jnp.asarray(lengths), reverse=reverse
        )
        for found, want in zip((*final, outputs), wanted, strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)


def case_of(head="softmax", **options):
    """A model of two layers with all that it may have."""
    model = ModelConfig(
        cell="tanh",
        hidden_size=4,
        num_layers=2,
        dropout=0.2,
        input_dropout=0.2,
        zoneout_hidden=0.2,
        skip="weighted",
        **options,
    )
    return Case(model, 6, 3, masked=True, resets=True, carry=True, lengths=True, head=head)


def test_a_models_gradient_is_the_slope_of_its_loss(cell):
    """By the verification itself, which takes the cell as it takes its own."""
    rows = verify_case(case_of(), optimized=False)
    assert {row.pair for row in rows} == {"autodiff ~ differences"}
    leaves = {row.leaf for row in rows}
    assert {f"layers[1].{name}" for name in Params._fields} <= leaves
    assert all(row.passed for row in rows), rows


def test_the_verification_sees_a_wrong_gradient_of_it(monkeypatch, cell):
    monkeypatch.setitem(CELLS, "tanh", TANH._replace(prepare=stopped))
    rows = verify_case(case_of(readout_rank=3), optimized=False)  # whose program is not kept yet
    assert not all(row.passed for row in rows)


def stopped(params, x, mask_BxD):
    """Of which autodiff does not see the bias."""
    return prepare(params._replace(lean=jax.lax.stop_gradient(params.lean)), x, mask_BxD)


def test_what_weight_drop_acts_on_is_what_the_cell_names(cell, x64, rng):
    params = init_model(jax.random.key(0), ModelConfig(cell="tanh", hidden_size=50), 5)
    masks = sample_weight_masks(jax.random.key(1), params, 0.5)
    assert {name: mask.shape for name, mask in masks[0].items()} == {"recall": (50, 50)}
    dropped = drop_weights(params, masks).layers[0]
    assert 0.4 < float((dropped.recall == 0).mean()) < 0.6
    np.testing.assert_array_equal(dropped.read, params.layers[0].read)
    _, carry, batch, drawn = jax.tree.map(jnp.asarray, make_problem(case_of()))
    params = jax.tree.map(jnp.asarray, make_problem(case_of()).params)
    masks = sample_weight_masks(jax.random.key(1), params, 0.5)
    _, gradient = with_weight_drop(GRADIENTS["autodiff"](softmax), masks)(
        params, carry, batch, drawn
    )
    wanted = jax.grad(lambda p: sequence_loss(drop_weights(p, masks), carry, batch, drawn)[0])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14),
        gradient,
        wanted(params),
    )


def test_its_state_and_its_parameters_are_its_own(cell):
    config = ModelConfig(cell="tanh", hidden_sizes=(4, 7))
    params = init_model(jax.random.key(0), config, 5)
    assert [leaf.shape for leaf in params.layers[1]] == [(4, 7), (7, 7), (7,)]
    assert [state.h.shape for state in init_carry(params, 3)] == [(3, 4), (3, 7)]
    assert 3 < float(jnp.abs(params.layers[0].read).max()) <= 4  # it reads symbols


def test_shapes_that_do_not_fit_are_one_line(cell, rng):
    params, (state, x, _, _) = make_params(rng), make_inputs(rng, ids=False, kind=State)
    wrong = random(rng, B, H + 1)
    for args in ((params, State(wrong), x), (params, state, x[..., :-1]), (params, state, x[0])):
        with pytest.raises(ValueError, match=r"^x_TxBxD [^\n]* read \(4, 3\)[^\n]*$"):
            unroll(*args)


def test_a_cell_with_the_parameters_of_another_is_refused(monkeypatch):
    """By their type a layer's cell is found: the LSTM would run in its place."""
    monkeypatch.setitem(CELLS, "mine", CELLS["lstm"]._replace(step=TANH.step))
    with pytest.raises(TypeError, match=r"^the cell mine needs a type of parameters of its own$"):
        init_model(jax.random.key(0), ModelConfig(cell="mine", hidden_size=3), 5)


@pytest.mark.parametrize("gradient", ["bptt", "truncated"])
def test_asked_for_by_hand_it_is_refused_in_one_line(gradient, cell, rng):
    params, (state, x, _, _) = make_params(rng), make_inputs(rng, ids=False, kind=State)
    missing = "not for the cell tanh"
    with pytest.raises(UserError, match=f"^train.gradient={gradient} [^\n]*{missing}[^\n]*$"):
        Config().replace({"model.cell": "tanh", "train.gradient": gradient})
    Config().replace({"model.cell": "tanh", "train.gradient": "autodiff"})
    with pytest.raises(TypeError, match=rf"{missing}: take layer\.unroll$"):
        bptt_layer(params, state, x)
    problem = make_problem(case_of())
    with pytest.raises(TypeError, match=f"{missing}: take autodiff$"):
        GRADIENTS[gradient](softmax)(*problem)
    with pytest.raises(TypeError, match=r"no truncated rule$"):
        unroll(params, state, x, truncated=True)


@pytest.mark.parametrize("gradient", ["autodiff", "bptt"])
def test_a_run_of_it_trains_resumes_scores_and_samples(gradient, request, monkeypatch, tmp_path):
    """As an experiment's own config, because the flags' choices are those of the start."""
    request.getfixturevalue("cell" if gradient == "autodiff" else "derived")
    config = Config().replace(
        {
            "model.cell": "tanh",
            "model.zoneout_hidden": 0.1,
            "model.weight_drop": 0.1,
            "train.gradient": gradient,
        }
    )
    monkeypatch.setitem(
        catalogue.EXPERIMENTS, "shakespeare", SimpleNamespace(get_config=lambda: config)
    )
    (tmp_path / "text").write_bytes(TEXT)
    with process_in(tmp_path):
        first, again, *looks = (
            call(*line_of(flags)) for flags in (TRAIN, TRAIN, EVALUATE, EVALUATE | DYNAMIC, SAMPLE)
        )
    for done in (first, again, *looks):
        assert done.code == 0, done.stderr
    assert "resuming at step 1" in again.stderr
    state, _ = load_model(tmp_path / "run", "latest")
    assert isinstance(state.params.layers[0], Params) and isinstance(state.carry[0], State)


@pytest.mark.parametrize("name", ["forget_bias", "mogrifier_rounds", "zoneout_cell", "init"])
def test_an_option_that_it_does_not_read_is_refused(name, cell):
    value = {"zoneout_cell": 0.5, "init": "notebook"}.get(name, 3)
    with pytest.raises(UserError, match=f"^model.{name}={value}[^\n]* needs [^\n]*$"):
        ModelConfig(cell="tanh", **{name: value})


def disagreement(cases=(("softmax", 0), ("squared", 0), ("bernoulli", 4))):
    """How far by hand and autodiff are apart, as a share of each leaf's largest gradient; the
    third in blocks of 4 steps."""
    worst = 0.0
    for head, remat_every in cases:
        problem = jax.tree.map(jnp.asarray, make_problem(case_of(head)))
        found, wanted = jax.jit(
            lambda *args, head=HEADS[head], every=remat_every: (
                make_gradient("bptt", every, head)(*args)[1],
                GRADIENTS["autodiff"](head)(*args)[1],
            )
        )(*problem)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
    return worst


def test_with_twenty_lines_by_hand_it_agrees_with_autodiff(derived, x64):
    """With dropout, zoneout, resets, lengths, skips, every head, and in blocks of steps."""
    assert disagreement() < 1e-13
    Config().replace({"model.cell": "tanh", "train.gradient": "bptt"})


def test_its_layer_by_hand_agrees_with_autodiff(derived, x64, rng):
    params, (state, x, _, resets) = make_params(rng), make_inputs(rng, ids=False, kind=State)

    def loss(layer, *args):
        final, outputs = layer(*args, resets_TxB=resets, lengths_B=jnp.array([2, 4]), reverse=True)
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(jnp.cos(3 * final.h))

    found, wanted = (
        jax.grad(lambda *args, layer=layer: loss(layer, *args), (0, 1, 2))(params, state, x)
        for layer in (bptt_layer, unroll)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), found, wanted
    )


MUTANTS = {
    "no slope of tanh": CALCULUS._replace(
        backward=lambda recall, h, _, d: (State(d.h @ recall), d.h)
    ),
    "not transposed": CALCULUS._replace(
        backward_weights=lambda params, x, truncated: params.recall
    ),
    "reads the state before": CALCULUS._replace(reads=lambda before, after: before.h),
    "collects the state after": CALCULUS._replace(
        collect=lambda params, x, mask, before, after, kept, dz: collect(
            params, x, mask, after, after, kept, dz
        )
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_a_wrong_derivation(mutant, monkeypatch, x64):
    monkeypatch.setitem(CELLS, "tanh", by_hand(mutant))
    assert disagreement((("softmax", 0),)) > 1e-3
