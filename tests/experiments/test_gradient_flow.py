"""The study of gradient flow: its derivatives against loops, its table and its picture."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.studies import gradient_flow as study
from lstm_jax.cells.elman import ElmanParams
from lstm_jax.cells.lstm import LSTMParams
from lstm_jax.data.batches import Batch
from lstm_jax.files import read_json
from tests import oracle
from tests.cli import call, process_in

T, B, D, H, COUNT = 6, 2, 2, 3, 4
LENGTHS = (6, 5)


def batch_of(rng, width=D):
    live_TxB = np.arange(T)[:, None] < np.array(LENGTHS)
    return Batch(rng.normal(size=(T, B, width)), None, live=live_TxB)


@pytest.fixture(scope="module")
def lstm():
    """A small LSTM's leaves, a batch, and what the study finds."""
    rng = np.random.default_rng(0)
    leaves = [rng.normal(size=shape) for shape in ((D, 4 * H), (H, 4 * H), (4 * H,))]
    batch = batch_of(rng)
    with jax.enable_x64(True):
        flow = study.flow_back(LSTMParams(*leaves), batch, COUNT)
        return leaves, batch, SimpleNamespace(**{k: np.array(v) for k, v in flow._asdict().items()})


def run_loop(leaves, x_TxD, state):
    """h and c after these steps, one unit after another."""
    for x in x_TxD:
        state = [np.array(part) for part in oracle.cell(*leaves, *state, x)]
    return state


@pytest.mark.parametrize("lane", range(B))
def test_all_ways_are_the_central_differences_of_loops(lane, lstm):
    leaves, batch, flow = lstm
    x_TxD, eps = batch.inputs[: LENGTHS[lane], lane], 1e-6
    for n in range(COUNT):
        at = LENGTHS[lane] - 1 - n
        start = run_loop(leaves, x_TxD[:at], [np.zeros(H), np.zeros(H)])
        for field, found in enumerate((flow.h, flow.memory)):
            for unit in range(H):
                ends = []
                for sign in (1, -1):
                    moved = [part.copy() for part in start]
                    moved[field][unit] += sign * eps
                    ends.append(run_loop(leaves, x_TxD[at:], moved)[field])
                wanted = (ends[0] - ends[1]) / (2 * eps)
                np.testing.assert_allclose(found[n, lane, :, unit], wanted, rtol=1e-6, atol=1e-9)


def test_along_the_memory_alone_is_the_product_of_forget_gates(lstm):
    (W, U, b), batch, flow = lstm
    for lane, length in enumerate(LENGTHS):
        x_TxD, kept = batch.inputs[:length, lane], np.ones(H)
        for n in range(COUNT):
            at = length - 1 - n
            h, _ = run_loop((W, U, b), x_TxD[:at], [np.zeros(H), np.zeros(H)])
            kept = kept / (1 + np.exp(-(x_TxD[at] @ W + h @ U + b)[H : 2 * H]))
            np.testing.assert_allclose(flow.alone[n, lane], np.diag(kept), atol=1e-14)


@pytest.mark.parametrize("radius, seen", [(0.5, 4), (2.0, 4), (1e-200, 1)])
def test_a_linear_network_decays_by_its_spectral_radius(radius, seen, rng):
    """Where nothing comes in, h stays 0 and the slopes of tanh are 1. What is below float64 is
    missing, and not 0."""
    Q, _ = np.linalg.qr(rng.normal(size=(H, H)))
    U = Q @ np.diag([radius, -radius / 2, radius / 3]) @ Q.T
    layer = ElmanParams(np.zeros((D, H)), U, np.zeros(H))
    logs = study.logs_of_norms(layer, batch_of(rng), COUNT)["h"]
    wanted = np.log10(radius) * np.arange(COUNT + 1)
    np.testing.assert_allclose(logs[: seen + 1, 0], wanted[: seen + 1], atol=1e-12)
    assert np.isnan(logs[seen + 1 :]).all()
    lines = study.over_sequences(logs)
    assert lines["mean"] == lines["low"] == lines["high"]
    assert lines["mean"][seen + 1 :] == [None] * (COUNT - seen)


def test_means_and_quartiles_are_over_sequences():
    logs_KxB = np.array([[0.0, 0.0, 0.0, 0.0, 0.0], [-5.0, -1.0, -2.0, -3.0, -9.0]])
    lines = study.over_sequences(logs_KxB)
    assert lines == {"mean": [0, -4], "low": [0, -5], "high": [0, -2]}


def test_names_at_the_ends_of_lines_keep_a_distance():
    placed = study.apart([0.0, -20.0, 0.2, -19.9], 1.0)
    np.testing.assert_allclose(placed, [-0.4, -20.45, 0.6, -19.45], atol=1e-6)
    assert study.apart([3.0, 1.0], 1.0) == [3.0, 1.0]


@pytest.mark.usefixtures("standard_promotion")
def test_it_trains_prints_writes_and_draws(tmp_path, capsys, monkeypatch):
    changes = {"data.length": 20, "data.held_out": 3, "model.hidden_size": 2}
    changes |= {"train.batch_size": 2, "train.steps": 1, "train.validate_every": 1}
    some = {name: study.MODELS[name] for name in ("plain RNN", "LSTM of 1997")}
    monkeypatch.setattr(study, "MODELS", some)
    assert study.main(study.get_config().replace(changes), tmp_path) == 0
    printed = capsys.readouterr().out
    assert [line[:30].rstrip() for line in printed.splitlines()] == [
        "norm by lag T - t",
        "",
        "plain RNN     dh_T/dh_t",
        "LSTM of 1997  dh_T/dh_t",
        "              ds_T/ds_t",
        "                along s alone",
    ]
    assert study.main(study.get_config().replace(changes), tmp_path) == 0
    assert capsys.readouterr().out == printed  # nothing is trained again
    found = json.loads((tmp_path / "gradient_flow.json").read_text())["models"]
    plain, blocks = found
    assert [model["memory"] for model in found] == ["h", "s"]
    for when in study.WHEN:  # in the network of 1997 it is exactly 1
        assert blocks[when]["alone"]["low"] == blocks[when]["alone"]["high"] == [0.0] * 21
    assert plain["at initialisation"]["h"] != plain["after training"]["h"]
    drawn = read_json(tmp_path / "figures" / "gradient_flow.json")
    assert drawn["lags"] == [*range(21)]
    assert (tmp_path / "figures" / "gradient_flow.png").read_bytes().startswith(b"\x89PNG")


def test_each_panel_has_every_line_and_its_name(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(study, "save", lambda figure, _: kept.append(figure))
    lines = {"mean": [0, -1.0, None], "low": [0, -2.0, None], "high": [0, -0.5, None]}
    lines |= {"h": [0, -3.0, None]}
    models = [
        {"name": "a", "memory": "h", "val_wrong": 0.84} | dict.fromkeys(study.WHEN, lines),
        {"name": "b", "memory": "c", "val_wrong": 0.004} | dict.fromkeys(study.WHEN, lines),
    ]
    study.draw({"about": "", "lags": [0, 2, 4], "models": models}, tmp_path / "a.png")
    before, after = kept[0].axes
    assert [text.get_text() for text in before.texts] == ["a", "b"]
    assert [text.get_text() for text in after.texts] == ["a: 84 % wrong", "b: 0.4 % wrong"]
    drawn = [[*line.get_ydata()[:2]] for line in after.lines if len(line.get_xdata()) == 3]
    assert drawn == [[0, -1], [0, -1], [0, -3]]  # a's h is its memory


def test_what_a_model_cannot_be_is_refused_before_the_first_is_trained(tmp_path):
    with process_in(tmp_path):
        found = call("--experiment=gradient_flow", "--config.model.hidden_size=3")
        wanted = "error: the model `LSTM of 1997`: model.block_size=2 needs layers of so many cells"
        assert found.code == 2 and found.stderr.startswith(wanted) and found.stdout == ""
        assert not [*tmp_path.iterdir()]
