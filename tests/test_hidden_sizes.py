"""Layers of different sizes: what a model of them is, computes, refuses, and remembers."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.lstm import LSTMState
from lstm_jax.cells.passes import COLUMNS, ROWS
from lstm_jax.config import Config, ModelConfig, check_read
from lstm_jax.data.vocabulary import Text, Vocabulary
from lstm_jax.errors import UserError
from lstm_jax.gradients import GRADIENTS
from lstm_jax.gradients.bptt import value_and_grad
from lstm_jax.heads import softmax
from lstm_jax.loss import sequence_loss
from lstm_jax.masks import evaluation_masks, sample_masks
from lstm_jax.model import apply, count_parameters, hidden_sizes, init_carry, init_model
from lstm_jax.run.checkpoint import Description, load_model
from lstm_jax.run.metrics import read_metrics
from lstm_jax.tasks.text import TextTask
from lstm_jax.verification.cases import Case, make_problem
from tests import oracle
from tests.cli import EVALUATE, SAMPLE, TEXT, TRAIN, call, is_one_line, line_of, process_in
from tests.test_model import compare

V, T, B = 6, 7, 3
SIZES = (5, 3, 6)


def test_every_layer_has_its_size():
    params = init_model(jax.random.key(0), ModelConfig(hidden_sizes=SIZES), V)
    assert hidden_sizes(params) == SIZES
    assert count_parameters(params) == {
        "layers[0].W": V * 20,
        "layers[0].U": 5 * 20,
        "layers[0].b": 20,
        "layers[1].W": 5 * 12,
        "layers[1].U": 3 * 12,
        "layers[1].b": 12,
        "layers[2].W": 3 * 24,
        "layers[2].U": 6 * 24,
        "layers[2].b": 24,
        "readout.W": 6 * V,
        "readout.b": V,
    }
    for state, H in zip(init_carry(params, B), SIZES, strict=True):
        assert state.h.shape == state.c.shape == (B, H)
    # Bounds of 1/sqrt(H), of its own H, but where symbols come in.
    for layer, H in zip(params.layers, SIZES, strict=True):
        assert 0.8 * H**-0.5 < float(jnp.abs(layer.U).max()) <= H**-0.5
    assert float(jnp.abs(params.layers[1].W).max()) <= 3**-0.5


def test_equal_sizes_are_the_model_of_one_size():
    """Bit for bit, as the same layers are drawn from the same keys."""
    one, other = (
        init_model(jax.random.key(0), config, V)
        for config in (ModelConfig(hidden_sizes=(4, 4)), ModelConfig(hidden_size=4, num_layers=2))
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert ModelConfig(hidden_size=4, num_layers=2).layer_sizes == (4, 4)
    assert ModelConfig(hidden_sizes=(7, 4)).layer_sizes == (7, 4)


@pytest.mark.parametrize("embedding_size", [0, 2])
def test_the_model_is_the_oracle(embedding_size, x64, rng):
    config = ModelConfig(
        hidden_sizes=SIZES, embedding_size=embedding_size, dropout=0.4, input_dropout=0.3
    )
    params = init_model(jax.random.key(0), config, V)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    carry = tuple(LSTMState(*jnp.asarray(rng.normal(size=(2, B, H)))) for H in SIZES)
    ids, resets = rng.integers(V, size=(T, B)), rng.random((T, B)) < 0.3
    masks = sample_masks(jax.random.key(1), params, config, B, T)
    found = apply(params, carry, jnp.asarray(ids), masks, jnp.asarray(resets))
    compare(found, oracle.language_model(params, carry, ids, masks, resets))
    with pytest.raises(AssertionError):
        compare(apply(params, carry, jnp.asarray(ids), masks), (found[0], ((0, 0),) * 3))


def test_masks_have_the_widths_of_what_they_multiply():
    config = ModelConfig(
        hidden_sizes=SIZES,
        embedding_size=2,
        dropout=0.5,
        input_dropout=0.5,
        embedding_dropout=0.5,
        zoneout_cell=0.5,
        zoneout_hidden=0.5,
    )
    params = init_model(jax.random.key(0), config, V)
    masks = sample_masks(jax.random.key(0), params, config, B, T)
    assert [mask.shape for mask in masks.layers] == [(B, 2), (B, 5), (B, 3)]
    assert masks.readout.shape == (B, 6) and masks.embedding.shape == (B, V)
    for drawn, H in zip(masks.zoneout, SIZES, strict=True):
        assert drawn.h.shape == drawn.c.shape == (T, B, H)
    assert len(evaluation_masks(config).zoneout) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"zoneout_cell": 0.3, "zoneout_hidden": 0.2},
        {"embedding_size": 4, "readout": "tied"},
        {"cell": "gru", "readout_rank": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_gradient_by_hand_is_that_of_autodiff(options, x64):
    model = ModelConfig(hidden_sizes=SIZES, dropout=0.3, input_dropout=0.3, **options)
    case = Case(model, T, B, masked=True, resets=True, carry=True, lengths=True)
    problem = jax.tree.map(jnp.asarray, make_problem(case))
    layouts = (ROWS,) if model.cell == "gru" else (ROWS, COLUMNS)
    gradients = [
        GRADIENTS["autodiff"](softmax),
        *(partial(value_and_grad, layout=layout) for layout in layouts),
    ]
    (wanted, *others) = jax.jit(lambda *args: [gradient(*args) for gradient in gradients])(*problem)
    slope_along_everything(problem, wanted[1])
    for found in others:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), found, wanted
        )


def slope_along_everything(problem, gradient, step=1e-5):
    """Central differences of the loss along all parameters at once."""
    params, *rest = problem
    rng, loss = np.random.default_rng(1), jax.jit(lambda params: sequence_loss(params, *rest)[0])
    way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

    def at(offset):
        return float(loss(jax.tree.map(lambda p, d: p + offset * d, params, way)))

    along = sum(map(float, jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, way))))
    assert along == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_sizes": (3, 0)}, "hidden_sizes lie between 1 and 65536; not "),
        ({"hidden_sizes": (3, -1)}, "hidden_sizes lie between 1 and 65536; not "),
        ({"hidden_sizes": (65537,)}, "hidden_sizes lie between 1 and 65536; not "),
        ({"hidden_sizes": (3, 4.0)}, "hidden_sizes takes integers with commas between them, not "),
        ({"hidden_sizes": (3, True)}, "hidden_sizes takes integers with commas between them, not "),
        ({"hidden_sizes": ("3",)}, "hidden_sizes takes integers with commas between them, not "),
        ({"hidden_sizes": "3,4"}, "hidden_sizes takes integers with commas between them, not "),
        ({"hidden_sizes": (3,) * 65}, "hidden_sizes names 65 layers, and at most 64 "),
        ({"hidden_sizes": 3}, "hidden_sizes takes integers with commas between them, not "),
        ({"hidden_sizes": None}, "hidden_sizes takes integers with commas between them, not "),
        ({"hidden_sizes": (3, [4])}, "hidden_sizes takes integers with commas between them, not "),
        (
            {"hidden_sizes": (3, 4), "skip": "weighted"},
            "skip=weighted needs two layers of one size",
        ),
        ({"hidden_sizes": (3,), "skip": "weighted"}, "skip=weighted needs two layers of one size"),
    ],
)
def test_what_is_no_size_is_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=f"^model.{message}") as error:
        ModelConfig(**changes)
    assert "\n" not in str(error.value)


def test_layers_of_one_size_may_have_skips():
    config = ModelConfig(hidden_sizes=(3, 3), skip="weighted")
    assert init_model(jax.random.key(0), config, V).skips[0].shape == (3,)


@pytest.mark.parametrize("name, value", [("hidden_size", 64), ("num_layers", 2)])
def test_a_size_for_all_beside_one_for_each_is_refused(name, value):
    changes = {f"model.{name}": value, "model.hidden_sizes": (3, 4)}
    config = Config().replace(changes)
    with pytest.raises(UserError, match=f"^--config.model.{name} means nothing [^\n]*leave it out"):
        check_read(config, changes)
    check_read(config, ["model.hidden_sizes"])  # the other is the experiment's own


def describe(sizes):
    config = Config().replace({"model.hidden_sizes": sizes})
    text = Text("text", np.zeros(99_999, np.uint8), Vocabulary("ab"), "hash")
    return Description.of(config, TextTask(config, text))


@pytest.mark.parametrize("sizes", [(), (4,), SIZES])
def test_sizes_survive_json(sizes):
    config = Config().replace({"model.hidden_sizes": sizes})
    assert config.flatten()["model.hidden_sizes"] == list(sizes)  # as JSON has it
    again = Config().replace(json.loads(json.dumps(config.flatten())))
    assert again == config and hash(again) == hash(config)
    assert again.model.hidden_sizes == sizes and type(again.model.hidden_sizes) is tuple


@pytest.mark.parametrize("sizes", [(), (4,), SIZES])
def test_a_description_read_again_is_the_same_run(sizes):
    here = describe(sizes)
    there = json.loads(json.dumps(here.to_json()))
    assert here.differences(there) == []
    assert Description.from_json(there) == here
    (difference,) = here.differences(json.loads(json.dumps(describe((*sizes, 2)).to_json())))
    assert difference.startswith("model.hidden_sizes is ")


def test_a_run_by_flags_resumes_scores_and_samples(tmp_path):
    flags = TRAIN | {"config.model.hidden_sizes": "5,3"}
    del flags["config.model.hidden_size"]
    (tmp_path / "text").write_bytes(TEXT)
    with process_in(tmp_path):
        done = call(*line_of(flags))
        assert done.code == 0, done.stderr
        again = call(*line_of(flags))
        assert again.code == 0 and "resuming at step 1" in again.stderr, again.stderr
        assert len(read_metrics(tmp_path / "run")) == 1
        for mode in (EVALUATE, SAMPLE):
            assert call(*line_of(mode)).code == 0
        state, described = load_model(tmp_path / "run", "latest")
        assert hidden_sizes(state.params) == described.config.model.hidden_sizes == (5, 3)
        other = call(*line_of(flags | {"config.model.hidden_sizes": "5,4"}))
        assert other.code == 2 and is_one_line(other.stderr)
        assert "model.hidden_sizes" in other.stderr


@pytest.mark.parametrize(
    "value", ["", ",", "3,", "3,,4", "3;4", "3.5,4", "x", "0,3", "3,65537", "-1", "9" * 5000]
)
def test_a_flag_that_is_no_size_is_one_line_and_leaves_nothing(value, tmp_path):
    (tmp_path / "text").write_bytes(TEXT)
    flags = {**TRAIN, "config.model.hidden_sizes": value}
    del flags["config.model.hidden_size"]
    with process_in(tmp_path):
        done = call(*line_of(flags))
    assert done.code not in (0, None) and done.stdout == ""
    assert is_one_line(done.stderr) and "hidden_sizes" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cell": "gru", "mogrifier_rounds": 3}, "mogrifier_rounds=3 needs model.cell=mogrifier"),
        ({"cell": "gru", "mogrifier_rank": 3}, "mogrifier_rank=3 needs "),
        ({"mogrifier_rounds": 3}, "mogrifier_rounds=3 needs model.cell=mogrifier"),
        ({"cell": "gru", "forget_bias": 2.0}, "forget_bias=2.0 needs model.cell=lstm or coupled"),
        ({"chrono": 9, "forget_bias": 2.0}, "forget_bias=2.0 means nothing beside model.chrono=9"),
        ({"cell": "gru", "chrono": 9}, "chrono=9 needs model.cell=lstm or coupled"),
        ({"cell": "gru", "zoneout_cell": 0.1}, "zoneout_cell=0.1 needs a cell with a state bes"),
        ({"cell": "gru", "init": "notebook"}, "init=notebook needs model.cell=lstm"),
        ({"cell": "peephole", "init": "notebook"}, "init=notebook needs model.cell=lstm"),
        ({"cell": "lstm ", "hidden_size": 3}, "cell is one of lstm, coupled, layer_norm, "),
    ],
)
def test_an_option_of_one_cell_given_to_another_is_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=f"^model.{message}") as error:
        ModelConfig(**changes)
    assert "\n" not in str(error.value)
    ModelConfig(cell="peephole", forget_bias=2.0, zoneout_cell=0.1)
    ModelConfig(cell="gru", zoneout_hidden=0.1)
