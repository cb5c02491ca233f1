"""Zoneout: which units of the state stay, against loops; how often, and which are drawn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import split_ids
from lstm_jax.layer import unroll
from lstm_jax.masks import evaluation_masks, mean_zoneout, sample_masks
from lstm_jax.model import apply, init_carry, init_model, no_masks
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.metrics import read_metrics
from lstm_jax.tasks.text import vocabulary_of
from tests import oracle
from tests.cli import TEXT, TRAIN, call, line_of, process_in
from tests.loops import B, D, H, T, compare, coupled, make_coupled, make_inputs, random


def make_lstm(rng):
    return LSTMParams(random(rng, D, 4 * H), random(rng, H, 4 * H), random(rng, 4 * H))


def lstm(params):
    leaves = [np.array(leaf) for leaf in params]
    return lambda h, c, x, *_: oracle.cell(*leaves, h, c, x)


def draw_stay(rng):
    return LSTMState(*(jnp.asarray(1.0 * (rng.random((T, B, H)) < 0.5)) for _ in "hc"))


def zoned_out(cell_step, stay):
    """The paper's step: h is that of the whole new c, whatever of c is kept."""
    stay = LSTMState(*(np.array(k) for k in stay))

    def step(h, c, x, t, lane):
        new_h, new_c = cell_step(h, c, x, t, lane)
        for n in range(H):
            for old, new, k in ((h, new_h, stay.h), (c, new_c, stay.c)):
                share = k[t, lane, n]
                new[n] = share * old[n] + (1 - share) * new[n]
        return new_h, new_c

    return step


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize(("make", "cell"), [(make_lstm, lstm), (make_coupled, coupled)])
def test_unrolled_it_is_the_loop(make, cell, ids, x64, rng):
    params, stay = make(rng), draw_stay(rng)
    compare(unroll, params, zoned_out(cell(params), stay), make_inputs(rng, ids), zoneout=stay)


def test_a_rate_for_all_stands_for_itself_everywhere(x64, rng):
    params, rates = make_lstm(rng), LSTMState(h=0.3, c=0.6)
    everywhere = LSTMState(*(np.full((T, B, H), rate) for rate in rates))
    step = zoned_out(lstm(params), everywhere)
    compare(unroll, params, step, make_inputs(rng, ids=False), zoneout=mean_zoneout(rates))


MUTANTS = {
    "none": lambda stay: None,
    "h and c swapped": lambda stay: LSTMState(h=stay.c, c=stay.h),
    "a step late": lambda stay: LSTMState(*(jnp.roll(k, 1, axis=0) for k in stay)),
    "the others stay": lambda stay: LSTMState(*(1 - k for k in stay)),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_the_comparison_notices_other_units(mutant, x64, rng):
    params, stay = make_lstm(rng), draw_stay(rng)
    step, inputs = zoned_out(lstm(params), stay), make_inputs(rng, ids=False)
    with pytest.raises(AssertionError):
        compare(unroll, params, step, inputs, zoneout=mutant(stay))


def test_where_all_stays_the_state_is_frozen_until_a_reset(x64, rng):
    params, (state, x, mask_BxD, resets_TxB) = make_lstm(rng), make_inputs(rng, ids=False)
    frozen = mean_zoneout(LSTMState(1.0, 1.0))
    final, outputs = unroll(params, state, x, mask_BxD=mask_BxD, zoneout=frozen)
    jax.tree.map(np.testing.assert_array_equal, final, state)
    assert (outputs == state.h).all()
    final, _ = unroll(params, state, x, resets_TxB=resets_TxB, zoneout=frozen)
    assert not final.h.any() and not final.c.any()


def test_where_nothing_stays_it_is_no_zoneout(x64, rng):
    params, (state, x, _, resets_TxB) = make_lstm(rng), make_inputs(rng, ids=False)
    none = mean_zoneout(LSTMState(0.0, 0.0))
    found = unroll(params, state, x, resets_TxB=resets_TxB, zoneout=none)
    wanted = unroll(params, state, x, resets_TxB=resets_TxB)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), found, wanted)


def test_every_layer_of_a_model_has_its_own(x64, rng):
    config = ModelConfig(hidden_size=H, num_layers=2, zoneout_hidden=0.5, zoneout_cell=0.5)
    params = init_model(jax.random.key(0), config, D)
    params = jax.tree.map(lambda leaf: random(rng, *leaf.shape), params)
    masks = no_masks(params)._replace(zoneout=(draw_stay(rng), draw_stay(rng)))
    ids_TxB = jnp.asarray(rng.integers(D, size=(T, B)))
    carry = init_carry(params, B)
    logits, (first, second) = apply(params, carry, ids_TxB, masks)
    wanted_first, h_TxBxH = unroll(params.layers[0], carry[0], ids_TxB, zoneout=masks.zoneout[0])
    wanted_second, h_TxBxH = unroll(params.layers[1], carry[1], h_TxBxH, zoneout=masks.zoneout[1])
    wanted = (h_TxBxH @ params.readout.W + params.readout.b, wanted_first, wanted_second)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), (logits, first, second), wanted
    )
    swapped, _ = apply(params, carry, ids_TxB, masks._replace(zoneout=masks.zoneout[::-1]))
    assert not np.allclose(swapped, logits)


def draw(config, batch_size, sequence_length):
    params = jax.eval_shape(lambda: init_model(jax.random.key(0), config, D))
    sizes = (batch_size, sequence_length)
    return jax.jit(lambda: sample_masks(jax.random.key(1), params, config, *sizes))()


def test_on_average_as_many_stay_as_the_rates_say():
    config = ModelConfig(hidden_size=50, num_layers=2, zoneout_hidden=0.1, zoneout_cell=0.4)
    masks = draw(config, 20, 30)
    assert masks.layers == (None, None) and masks.readout is None and masks.embedding is None
    expected = evaluation_masks(config)
    assert expected.layers == (None, None) and expected.readout is None
    for drawn, rates in zip(masks.zoneout, expected.zoneout, strict=True):
        assert float(rates.h.item()) == pytest.approx(0.1)
        assert float(rates.c.item()) == pytest.approx(0.4)
        for stay, rate in zip(drawn, rates, strict=True):
            assert stay.shape == (30, 20, 50) and set(np.unique(stay).tolist()) == {0.0, 1.0}
            assert float(stay.mean()) == pytest.approx(rate.item(), abs=0.01)
            assert float(stay.mean((1, 2)).min()) > 0 and float(stay.mean((0, 1)).min()) > 0


def test_what_stays_is_drawn_apart_for_steps_lanes_layers_and_fields():
    config = ModelConfig(hidden_size=50, num_layers=2, zoneout_hidden=0.5, zoneout_cell=0.5)
    first, second = draw(config, 3, 4).zoneout
    rows = np.concatenate([k.reshape(12, 50) for k in (first.h, first.c, second.h, second.c)])
    assert len({row.tobytes() for row in rows}) == len(rows)
    shares = [(a == b).mean() for n, a in enumerate(rows) for b in rows[:n]]
    assert 0.45 < np.mean(shares) < 0.55 and max(shares) < 0.9


def test_one_rate_alone():
    config = ModelConfig(hidden_size=5, zoneout_cell=0.9)
    (stay,) = draw(config, 3, 4).zoneout
    assert not stay.h.any() and stay.c.any()
    assert evaluation_masks(ModelConfig(dropout=0.5)) is None


RATES = LSTMState(h=0.3, c=0.6)
RUN = TRAIN | {
    "config.model.zoneout_hidden": RATES.h,
    "config.model.zoneout_cell": RATES.c,
    "config.train.gradient": "autodiff",
    "config.train.steps": 3,
    "config.optimizer.learning_rate": 1.0,
    "config.evaluate.lanes": 1,
}
del RUN["config.evaluate.warmup"]  # which one lane does not read


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with zoneout, and its model in NumPy: a step from ids to logits."""
    folder = tmp_path_factory.mktemp("zoneout")
    (folder / "text").write_bytes(TEXT)
    with process_in(folder):
        for name, seed in (("run", 0), ("other", 1)):
            changes = {"workdir": name, "config.train.seed": str(seed)}
            assert call(*line_of(RUN | changes)).code == 0
        _, description = load_model(folder / "run", "best")

        def make_step(rates, name="run"):
            state, _ = load_model(folder / name, "best")
            params = jax.tree.map(lambda leaf: np.array(leaf, np.float64), state.params)
            symbols = params.readout.W.shape[1]

            def step(h, c, symbol):
                new = map(np.array, oracle.cell(*params.layers[0], h, c, np.eye(symbols)[symbol]))
                h, c = (k * a + (1 - k) * b for k, a, b in zip(rates, (h, c), new, strict=True))
                return h, c, h @ params.readout.W + params.readout.b

            return step

        yield folder, description, make_step, np.zeros(description.config.model.hidden_size)


def read(ids, step, zero, window=None):
    """Nats of all characters but the first."""
    losses, h, c = [], zero, zero
    for t, (symbol, target) in enumerate(itertools.pairwise(ids)):
        if window and t % window == 0:
            h, c = zero, zero
        h, c, logits = step(h, c, symbol)
        losses.append(np.log(np.exp(logits).sum()) - logits[target])
    return np.array(losses)


def test_validation_scoring_ensembles_and_learning_on_take_the_rates(trained):
    folder, description, make_step, zero = trained
    vocabulary = vocabulary_of(description.identity, description.interface)
    ids = vocabulary.encode(TEXT.decode())
    ids = split_ids(ids, description.config.data.validation_fraction).validation
    steps = [make_step(RATES, name) for name in ("run", "other")]
    losses = {
        name: [read(ids, step, zero, window) for step in steps]
        for name, window in (("stream", None), ("windows", 8))
    }
    alone = {f"val_loss_{name}": np.mean(first) for name, (first, _) in losses.items()}
    best = min(read_metrics(folder / "run"), key=lambda m: m.get("val_loss_stream", np.inf))
    assert {name: best[name] for name in alone} == pytest.approx(alone, abs=1e-5)
    still = ("--dynamic", "--dynamic_rule=sgd", "--dynamic_rate=0", "--dynamic_decay=0")
    found = call("--mode=evaluate", "--workdir=run", "--ensemble=other", *still)
    printed = {line.split()[0]: float(line.split()[1]) for line in found.stdout.splitlines()}
    together = {
        f"val_loss_{name}_ensemble": np.mean(-np.log(np.mean(np.exp(-np.array(each)), axis=0)))
        for name, each in losses.items()
    }
    wanted = alone | together | {"val_loss_dynamic": alone["val_loss_stream"]}
    wanted = {name.replace("val_", "validation_"): loss for name, loss in wanted.items()}
    assert printed == pytest.approx(wanted, abs=6e-5)


def go_on(prompt_ids, step, zero, length):
    """The likeliest symbols after a prompt."""
    h, c, ids = zero, zero, []
    for symbol in prompt_ids:
        h, c, logits = step(h, c, symbol)
    for _ in range(length):
        ids.append(int(logits.argmax()))
        h, c, logits = step(h, c, ids[-1])
    return ids


def test_sampling_takes_the_rates(trained):
    _, description, make_step, zero = trained
    prompt, vocabulary = "to be or not", vocabulary_of(description.identity, description.interface)
    ids = go_on(vocabulary.encode(prompt), make_step(RATES), zero, 12)
    assert ids != go_on(vocabulary.encode(prompt), make_step(LSTMState(0.0, 0.0)), zero, 12)
    found = call("--mode=sample", "--workdir=run", f"--prompt={prompt}", "--length=12", "--top_k=1")
    assert found.stdout.removesuffix("\n") == prompt + vocabulary.decode(ids)
