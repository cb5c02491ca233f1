"""What units do, what surprises a model, and how far the gradient reaches."""

import jax
import numpy as np
import pytest

from lstm_jax.cells import CELLS
from lstm_jax.data.batches import Documents
from lstm_jax.inspection.reach import reach
from lstm_jax.inspection.saturation import dead_units, norms, saturation
from lstm_jax.inspection.surprise import surprise
from lstm_jax.inspection.traces import Trace, trace
from lstm_jax.masks import evaluation_masks
from lstm_jax.model import apply, init_carry, init_model
from lstm_jax.model_config import ModelConfig
from tests.inspection.loops import loss_after, read

V = 5
TWO_LAYERS = ModelConfig(hidden_size=4, num_layers=2)


@pytest.fixture
def model(x64):
    """Two layers in float64."""
    return init_model(jax.random.key(3), TWO_LAYERS, V)


@pytest.fixture
def ids(rng):
    return rng.integers(V, size=12).astype(np.uint8)


def test_traces_are_those_of_a_loop_in_numpy(model, ids):
    traces = trace(model, ids)
    wanted, logits = read(model, ids)
    np.testing.assert_allclose(traces.logits, logits, atol=1e-13)
    for layer, fields in zip(traces.layers, wanted, strict=True):
        assert [*layer.fields] == ["c", "h", "i", "f", "g", "o"] and layer.gates == ["i", "f", "o"]
        for name, a_TxN in fields.items():
            np.testing.assert_allclose(layer.fields[name], a_TxN, atol=1e-13)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_has_its_own_names(cell, ids):
    config = ModelConfig(cell=cell, hidden_size=V + 3, num_layers=1)
    traces = trace(init_model(jax.random.key(0), config, V), ids)
    (layer,) = traces.layers
    assert {*CELLS[cell].state._fields} <= {*layer.fields}
    assert layer.memory in ("c", "s", "h") and next(iter(layer.fields)) == layer.memory
    by_hand = {"gru": "rznq", "carousel": "ig", "no_input_gate": "fgo", "elman": ""}
    assert {*layer.kept} == {*by_hand.get(cell, layer.kept)}
    assert bool(layer.kept) == bool(CELLS[cell].by_hand and cell not in ("elman", "memory_blocks"))
    for name in layer.gates:
        assert np.all((layer.fields[name] >= 0) & (layer.fields[name] <= 1)), name


@pytest.mark.parametrize("cell", ["lstm", "coupled"])
def test_documents_zoneout_and_skips_are_read_as_the_model_reads_them(cell, ids):
    config = ModelConfig(
        cell=cell,
        hidden_size=4,
        num_layers=2,
        skip="weighted",
        zoneout_hidden=0.2,
        embedding_size=3,
    )
    params, masks = init_model(jax.random.key(1), config, V), evaluation_masks(config)
    ids[4], text = 0, Documents(ids, np.array([0]))
    resets_Tx1 = text.begin_at(np.arange(len(ids)))[:, None]
    assert resets_Tx1.any()
    wanted, carry = apply(params, init_carry(params, 1), ids[:, None], masks, resets_Tx1)
    traces = trace(params, text, masks)
    np.testing.assert_allclose(traces.logits, wanted[:, 0], atol=1e-5)
    for layer, state in zip(traces.layers, carry, strict=True):
        jax.tree.map(
            lambda a, s: np.testing.assert_allclose(a[-1:], s, atol=1e-5), layer.states, state
        )


def test_surprise_by_its_definition(rng):
    logits, ids = rng.normal(size=(4, 7)), np.array([3, 0, 6, 2])
    found = surprise(logits, ids)
    assert np.isnan(found.nats[0]) and not found.probabilities[0].any()
    for t in (1, 2, 3):
        p = [np.exp(y) / sum(map(np.exp, logits[t - 1])) for y in logits[t - 1]]
        assert np.isclose(found.nats[t], -np.log(p[ids[t]]))
        order = sorted(range(7), key=lambda n: -p[n])[:5]
        assert found.likeliest[t].tolist() == order
        np.testing.assert_allclose(found.probabilities[t], [p[n] for n in order])


def test_saturation_dead_units_and_norms_are_counted():
    h = np.array([[0.3, 0.0], [-0.4, 0.001], [0.0, 0.0], [0.1, 0.0]])
    gate = np.array([[0.05, 0.95], [0.1, 0.9], [0.02, 0.99], [0.5, 1.0]])
    layer = Trace(CELLS["lstm"].state(h=h, c=2 * h - 1), {"i": gate, "g": 2 * gate - 1})
    assert [*saturation(layer)] == ["i"]
    assert saturation(layer)["i"].left.tolist() == [0.5, 0]
    assert saturation(layer)["i"].right.tolist() == [0, 0.75]
    assert dead_units(layer) == [1]
    assert np.isclose(norms(layer)["h"][0], 0.3) and np.isclose(norms(layer)["c"][2], 2**0.5)


def test_the_reach_is_that_of_central_differences(model, ids):
    found = reach(model, ids, trace(model, ids), lags=4, ends=3)
    assert found.by_hand and len(found.ends) == 3 and min(found.ends) == 4
    fields, _ = read(model, ids)
    for e, t in enumerate(found.ends):
        for k in (1, 3, 4):
            before = [(each["h"][t - k], each["c"][t - k]) for each in fields]
            for n in range(2):
                for place, name in enumerate(("h", "c")):
                    gradient = []
                    for unit in range(4):
                        losses = []
                        for nudge in (1e-5, -1e-5):
                            states = [[h.copy(), c.copy()] for h, c in before]
                            states[n][place][unit] += nudge
                            part = ids[t - k + 1 : t + 1]
                            losses.append(loss_after(model, states, part, ids[t + 1]))
                        gradient.append((losses[0] - losses[1]) / 2e-5)
                    norm = np.linalg.norm(gradient)
                    np.testing.assert_allclose(found.layers[n][name][k - 1, e], norm, rtol=1e-5)


def test_the_reach_of_a_cell_without_a_backward_by_hand(ids, x64):
    """By autodiff, and the same as by hand where both are known; nothing beyond a document."""
    plain = init_model(jax.random.key(0), ModelConfig(cell="coupled", hidden_size=4), V)
    twin = init_model(jax.random.key(0), ModelConfig(cell="coupled_peephole", hidden_size=4), V)
    zero = np.zeros_like(twin.layers[0].p_f)  # without peepholes it is the same cell
    layer = twin.layers[0]._replace(p_f=zero, p_o=zero, **plain.layers[0]._asdict())
    twin = plain._replace(layers=(layer,))
    reaches = [reach(params, ids, trace(params, ids), lags=3, ends=2) for params in (plain, twin)]
    assert [each.by_hand for each in reaches] == [False, True]
    jax.tree.map(np.testing.assert_allclose, reaches[0].layers, reaches[1].layers)
    text = Documents(np.array([1, 2, 0, 3, 1, 2]), np.array([0]))
    (norms_by_field,) = reach(plain, text, trace(plain, text), lags=2, ends=9).layers
    assert norms_by_field["h"].shape == (2, 3)
    assert (norms_by_field["h"] == 0).tolist() == [[False, True, False], [False, True, True]]
