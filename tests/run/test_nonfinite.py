"""Losses and gradients that are not finite: the run stops and says where, or skips and counts."""

import shutil
from functools import partial

import jax
import numpy as np
import optax
import pytest

from lstm_jax import train
from lstm_jax.data.batches import Streams
from lstm_jax.errors import UserError
from lstm_jax.hyperparameters import Hyperparameters
from lstm_jax.loss import sequence_loss
from lstm_jax.model import named_leaves
from lstm_jax.optimizer import skip_nonfinite
from lstm_jax.run import nonfinite
from lstm_jax.run.checkpoint import Checkpoints
from lstm_jax.run.figures import Recipe, curves_of, draw_curves
from lstm_jax.run.metrics import read_metrics
from lstm_jax.run.nonfinite import describe_state, describe_step, finite_steps
from lstm_jax.run.progress import Progress
from lstm_jax.train import StepInfo, init_train_state, make_train_step, reset_nonfinite
from tests.small import CONFIG, TEXT, run_in, without_times

pytestmark = pytest.mark.usefixtures("standard_promotion")

SKIP = {"train.on_nonfinite": "skip"}


def poison(run, leaf):
    """Puts a NaN into a leaf of the parameters of a run that is about to start."""
    value = named_leaves(run.state.params)[leaf]
    spoilt = value.at[(0,) * value.ndim].set(np.nan)
    leaves, tree = jax.tree.flatten(run.state.params)
    leaves = [spoilt if other is value else other for other in leaves]
    run.state = run.state._replace(params=jax.tree.unflatten(tree, leaves))


def folder(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_the_step_the_leaf_and_the_last_good_checkpoint_are_named(tmp_path, finished):
    """A run goes on from step 18 with a NaN in the second layer's bias."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "20")
    before = folder(workdir / "checkpoints")
    with run_in(workdir) as run:
        poison(run, "layers[1].b")
        with pytest.raises(UserError) as stop:
            run.train()
    message = str(stop.value)
    assert message.startswith(
        "step 19: the loss is nan and the gradient is not finite in layers[0].W"
    )
    assert f"The last good checkpoint is {workdir / 'checkpoints' / '18'};" in message
    assert f"the state is in {workdir / 'nonfinite' / 'step-19.npz'}, for a look" in message
    assert folder(workdir / "checkpoints") == before
    assert read_metrics(workdir)[-1]["step"] == 18

    with np.load(workdir / "nonfinite" / "step-19.npz") as dumped:
        assert np.isnan(dumped["state.params.layers.1.b"]).any()
        assert np.isnan(dumped["infos.loss"]).all() and dumped["infos.loss"].shape == (2,)
        batches = [run.task.batch_at(step) for step in (18, 19)]
        np.testing.assert_array_equal(dumped["batches.inputs"], [b.inputs for b in batches])
        np.testing.assert_array_equal(dumped["batches.targets"], [b.targets for b in batches])


def test_a_leafs_norm_is_that_of_its_gradient():
    """By autodiff and NumPy; and a gradient that is not finite in one leaf alone is named by it."""
    config = CONFIG.replace({"model.dropout": 0.0})
    state, batch = init_train_state(config, 4), Streams(TEXT.ids, 3, 4).batch_at(0)
    _, info = jax.jit(make_train_step(config))(Hyperparameters.of(config), state, batch)
    grads = jax.grad(lambda params: sequence_loss(params, state.carry, batch)[0])(state.params)
    norms, wanted = named_leaves(info.leaf_norms), named_leaves(grads)
    assert list(norms) == list(wanted)
    for name, gradient in wanted.items():
        np.testing.assert_allclose(norms[name], np.linalg.norm(gradient), rtol=1e-4)

    infos = jax.tree.map(lambda x: np.array([x, x]), info)
    infos.leaf_norms.layers[1].U[1] = infos.grad_norm[1] = np.inf
    assert list(finite_steps(infos)) == [True, False]
    assert describe_step(infos, 1).endswith("the gradient is not finite in layers[1].U")


def test_a_huge_learning_rate_stops_the_run_within_a_dispatch(tmp_path):
    # Every step multiplies the weights by -1e9.
    config = CONFIG.replace({"optimizer.learning_rate": 1e6, "optimizer.weight_decay": 1e3})
    with (
        run_in(tmp_path, config) as run,
        pytest.raises(
            UserError, match=r"step [2-6]: .*(nan|not finite).*would have been the first"
        ),
    ):
        run.train()
    assert run.step <= 6 and Checkpoints(tmp_path).steps() == []
    assert all(np.isfinite(line["train_loss"]) for line in read_metrics(tmp_path))
    assert len(list((tmp_path / "nonfinite").iterdir())) == 1


def test_what_the_last_update_spoilt_is_not_saved(tmp_path, finished):
    """Loss and gradient were finite; the parameters that came of them are not."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    with run_in(workdir) as run:
        poison(run, "readout.W")
        with pytest.raises(UserError, match=r"step 20: the parameters are not finite in readout.W"):
            run.watch.check_state(run.state)
        run.state = run.state._replace(params=run.checkpoints.restore(20)[0].params)
        run.watch.check_state(run.state)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("field", ["h", "c"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_carry_that_is_not_finite_is_found(layer, field, value):
    state = jax.tree.map(np.array, init_train_state(CONFIG, 4))
    assert describe_state(state) is None
    getattr(state.carry[layer], field)[2, 7] = value
    assert describe_state(state) == "the carry is not finite"


def test_skipping_changes_nothing_where_there_is_nothing_to_skip(tmp_path, finished):
    """But for the last bits: it is another program, whose sums may be in another order."""
    with run_in(tmp_path, CONFIG.replace(SKIP)) as run:
        run.train()
        assert run.summary()["skipped"] == 0
        params = run.state.params
    lines = without_times(tmp_path)
    assert all(line.pop("skipped") == 0 for line in lines)
    for line, wanted in zip(lines, without_times(finished), strict=True):
        assert line == pytest.approx(wanted, rel=1e-5)
    wanted, _ = Checkpoints(finished).restore(20)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, params, wanted.params)


@pytest.fixture
def poisoned(monkeypatch):
    """Steps 4, 8 and 9 (from 0) begin with a NaN in the carry of lane 0."""

    def make(config, head):
        train_step = make_train_step(config, head)

        def step(hyper, state, batch):
            value = jax.numpy.where((state.step == np.array([4, 8, 9])).any(), np.nan, 1)
            carry = jax.tree.map(lambda x_BxH: x_BxH.at[0, 0].mul(value), state.carry)
            return train_step(hyper, state._replace(carry=carry), batch)

        return step

    monkeypatch.setattr(train, "make_train_step", make)
    train.dispatch_of.cache_clear()
    yield
    train.dispatch_of.cache_clear()


@pytest.mark.usefixtures("poisoned")
def test_skipped_updates_are_counted_and_nothing_of_them_stays(tmp_path, capfd):
    with run_in(tmp_path, CONFIG.replace(SKIP)) as run:
        run.train()
        summary, state = run.summary(), run.state
    assert summary["skipped"] == 3 and "skipped" in capfd.readouterr().err
    lines = read_metrics(tmp_path)
    assert [line["skipped"] for line in lines] == [0, 1, 2, 3, 3, 3, 3]
    assert all(np.isfinite(line["train_loss"]) for line in lines)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert int(state.opt_state.inner[1][0].count) == 17 and int(state.step) == 20
    # The learning rate is the optimizer's own, whose schedule waits for the updates skipped.
    cosine = [2e-3 * (1 + np.cos(np.pi * n / 20)) / 2 for n in range(20)]
    np.testing.assert_allclose(lines[-1]["learning_rate"], cosine[16], rtol=1e-5)

    with run_in(tmp_path, CONFIG.replace(SKIP)) as again:
        assert int(again.state.opt_state.skipped) == 3


@pytest.mark.usefixtures("poisoned")
def test_skipping_for_ever_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(nonfinite, "MAX_IN_A_ROW", 2)
    with (
        run_in(tmp_path, CONFIG.replace(SKIP)) as run,
        pytest.raises(UserError, match=r"step 10: 2 updates in a row skipped: .*checkpoints/6;"),
    ):
        run.train()
    assert [line["step"] for line in read_metrics(tmp_path)] == [3, 6, 9]


def test_a_dispatch_in_which_every_update_was_skipped_has_no_loss(tmp_path, finished, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    nothing = np.full(2, np.nan, np.float32)
    infos = StepInfo(nothing, nothing, None, np.ones(2, np.float32), np.array([1, 2]))
    with run_in(workdir) as run:
        line = run.journal.line(22, infos, 1.0)
    assert "train_loss" not in line and "grad_norm" not in line and line["skipped"] == 2
    Progress(22, 20, "nats/char").update(line)
    assert "step 22/22  loss nan nats/char  2 updates skipped" in capsys.readouterr().err
    recipe = Recipe("run", [[*read_metrics(workdir), line]])
    draw_curves(curves_of([recipe], "title", "nats/char"), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_lane_that_is_not_finite_starts_afresh_and_the_others_go_on(rng):
    carry = init_train_state(CONFIG, 4).carry
    carry = jax.tree.map(lambda x: jax.numpy.asarray(rng.normal(size=x.shape), x.dtype), carry)
    spoilt = (carry[0], carry[1]._replace(c=carry[1].c.at[1, 3].set(np.inf)))
    for before, after in zip(
        jax.tree.leaves(carry), jax.tree.leaves(reset_nonfinite(spoilt)), strict=True
    ):
        np.testing.assert_array_equal(after[1], np.zeros(8))
        np.testing.assert_array_equal(after[::2], before[::2])


def test_skips_are_those_of_optax():
    """On gradients alone, `optax.apply_if_finite` does the same and counts the same."""
    ours, theirs = skip_nonfinite(optax.adam(0.1)), optax.apply_if_finite(optax.adam(0.1), 1000)
    params = jax.numpy.ones(3)
    state, other_state, other = ours.init(params), theirs.init(params), params
    for gradient in ([1, 2, 3], [np.nan, 1, 1], [1, np.inf, 1], [1, 1, 1], [-np.inf, 1, 1]):
        grads = jax.numpy.array(gradient, float)
        updates, state = ours.update(grads, state, params, loss=jax.numpy.float32(1))
        params = params + updates
        updates, other_state = theirs.update(grads, other_state, other)
        other = other + updates
        np.testing.assert_allclose(params, other, rtol=1e-6)
        assert state.in_a_row == other_state.notfinite_count
        assert state.skipped == other_state.total_notfinite
    before = params
    updates, state = ours.update(grads * 0 + 1, state, params, loss=jax.numpy.float32(np.inf))
    np.testing.assert_array_equal(before + updates, before)
    assert state.skipped == 4
