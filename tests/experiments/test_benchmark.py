"""The benchmark: its contenders do the same work, its formula counts it, and it writes it down.

No test looks at how long anything took.
"""

import json
import math
import sys

import jax
import numpy as np
import pytest

from experiments.studies import benchmark, benchmark_sampling
from experiments.studies.benchmark import Shape, config_of, flops_per_step, make_ours
from experiments.support import peers, timing
from experiments.support.timing import Contender, Timing, in_turn, warm_up
from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import Batch, Streams, stack_batches
from lstm_jax.loss import sequence_loss
from lstm_jax.model import init_carry, init_model
from lstm_jax.sample import SamplingConfig, generate
from lstm_jax.train import init_train_state
from tests.cli import call, process_in

pytestmark = pytest.mark.usefixtures("standard_promotion")

SHAPE = Shape(batch_size=3, sequence_length=5, hidden_size=6, num_layers=2)
STEPS = 8
RTOL = 2e-5


def count_products(jaxpr):
    """2 M K N for every matrix product in a jaxpr and in what it calls, a scan's body each time."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            K = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * K * math.prod(equation.outvars[0].aval.shape)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                total += times * count_products(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_formula_counts_the_products_of_the_textbook_gradient(num_layers):
    shape, V = Shape(2, 5, 4, num_layers), 7
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=4, num_layers=num_layers), V)
    ids_TxB = np.zeros((5, 2), np.int32)
    gradient = jax.make_jaxpr(jax.grad(sequence_loss, has_aux=True))
    found = gradient(params, init_carry(params, 2), Batch(ids_TxB, ids_TxB))
    assert count_products(found.jaxpr) == flops_per_step(shape, V)


def random_train_state(config, vocabulary_size):
    """The initial state with weights that differ everywhere, biases too."""
    rng, state = np.random.default_rng(5), init_train_state(config, vocabulary_size)
    draw = jax.tree.map(
        lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), state.params
    )
    return state._replace(params=jax.tree.map(jax.numpy.array, draw))


def revealing_batches(monkeypatch):
    """Batches that can be learned, for a training that clips some steps, and moves far in each."""
    monkeypatch.setattr(peers, "LEARNING_RATE", 0.05)
    monkeypatch.setattr(peers, "CLIP_NORM", 0.3)
    monkeypatch.setattr(benchmark, "init_train_state", random_train_state)
    text = np.tile(np.random.default_rng(0).integers(65, size=23), 20).astype(np.uint8)
    streams = Streams(text, *SHAPE[:2])
    return [streams.batch_at(step) for step in range(STEPS)]


@pytest.fixture
def batches(monkeypatch):
    return revealing_batches(monkeypatch)


@pytest.fixture(scope="module")
def right():
    """The losses of this project's own training on these batches."""
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        return our_losses(revealing_batches(patch))


def our_losses(batches, changes=None):
    step = make_ours(config_of(SHAPE).replace(changes or {}))
    return [step(stack_batches([batch])).item() for batch in batches]


@pytest.mark.parametrize("name", ["autodiff", *peers.PEERS])
def test_every_contender_does_the_same_work(name, batches, right):
    """The same losses from the same weights, and on: loss, gradient, clipping, Adam and carry."""
    if name == "autodiff":
        found = our_losses(batches, {"train.gradient": "autodiff"})
    else:
        pytest.importorskip(name)
        step = peers.PEERS[name](benchmark.initial_weights(SHAPE), SHAPE.batch_size)
        found = [float(step(batch)) for batch in batches]
    np.testing.assert_allclose(found, right, rtol=RTOL)


@pytest.mark.parametrize(
    "changes",
    [
        {"train.gradient": "truncated"},
        {"optimizer.clip_norm": 0.0},
        {"optimizer.clip_norm": 0.5},
        {"optimizer.learning_rate": 0.051},
        {"optimizer.b2": 0.99},
        {"optimizer.name": "adamw", "optimizer.weight_decay": 0.01},
        "no carry",
    ],
)
def test_the_comparison_sees_other_work(changes, batches, right):
    if changes == "no carry":
        batches, changes = [b._replace(resets=b.resets | [[1]] + [[0]] * 4) for b in batches], {}
    wrong = our_losses(batches, changes)
    assert wrong[0] == pytest.approx(right[0], rel=1e-6)
    assert max(abs(np.divide(wrong, right) - 1)) > 3 * RTOL


def test_many_steps_a_dispatch_are_the_same_steps(batches, right):
    step = make_ours(config_of(SHAPE))
    np.testing.assert_allclose(step(stack_batches(batches)), right, rtol=1e-5)


def test_the_torch_sampler_writes_what_the_model_says():
    """A model so sure of itself that chance plays no part writes one text, here and there."""
    pytest.importorskip("torch")
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=8, num_layers=2), 11)
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    params = params._replace(readout=params.readout._replace(W=1e4 * params.readout.W))
    prompt, config = np.array([3, 1, 4], np.uint8), SamplingConfig(temperature=1.0)
    wanted, _ = generate(params, jax.random.key(0), prompt, 40, config, 2)
    found = peers.make_torch_sampler(jax.tree.map(np.array, params))(prompt, 40, 2)
    assert len(set(wanted[0].tolist())) > 2
    np.testing.assert_array_equal(found, wanted)


def test_contenders_take_turns(monkeypatch):
    monkeypatch.setattr(timing, "TURN_S", 0.0)
    calls, rounds = [], []
    contenders = {name: Contender(lambda name=name: calls.append(name), 2) for name in "ABC"}
    warm = {name: warm_up(contender) for name, contender in contenders.items()}
    found = in_turn(warm, 0.0, rounds.append)
    assert "".join(calls) == "AABBCC" + "ABC" * timing.MIN_ROUNDS
    assert rounds == list(range(1, timing.MIN_ROUNDS + 1))
    assert all(len(t.rounds) == timing.MIN_ROUNDS and t.steps == 2 for t in found.values())


def test_a_timing_in_figures():
    found = Timing(first_s=10.0, steps=2, rounds=[5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.median, found.quartiles, found.compile_s) == (3.0, (2.0, 4.0), 4.0)
    assert Timing(1.0, 1, [2.0, 2.0]).compile_s == 0.0


@pytest.mark.parametrize("module", [benchmark, benchmark_sampling])
def test_everything_or_what_is_given(module, tmp_path, monkeypatch):
    """Also where what is given is the default."""
    compared = []
    monkeypatch.setattr(module, "compare", lambda shapes, workdir: compared.append(shapes) or 0)
    experiment = module.__name__.rpartition(".")[2]
    for flags in ((), ("--config.model.hidden_size=200",)):
        with process_in(tmp_path):
            assert call(f"--experiment={experiment}", *flags).code == 0
    everything, own = compared
    assert len(everything) > 2 and {shape.hidden_size for shape in own} == {200}


def test_a_peer_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_peer.py").write_text("import math\nmath.no_such_thing\n")
    (tmp_path / "lacking_peer.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "no_such_thing" in peers.why_missing("broken_peer")
    assert "no_such_module" in peers.why_missing("lacking_peer")
    assert peers.why_missing("no_such_peer") == "not installed; pip install '.[peers]'"
    assert peers.why_missing("math") is None


@pytest.fixture
def quick(monkeypatch):
    """The fewest rounds of the smallest things."""
    monkeypatch.setattr(timing, "TURN_S", 0.0)
    monkeypatch.setattr(benchmark, "PRODUCT_SIZE", 16)
    monkeypatch.setattr(benchmark_sampling, "LENGTH", 5)
    for module in (benchmark, benchmark_sampling):
        monkeypatch.setattr(module, "BUDGET_S", 0.0)


def strict_json(path):
    """What is in the file, if it is JSON to the letter (no NaN)."""
    return json.loads(path.read_text(), parse_constant=pytest.fail)


TINY = {
    "model.hidden_size": 4,
    "model.num_layers": 1,
    "train.batch_size": 2,
    "train.sequence_length": 3,
}


@pytest.mark.parametrize("present", [(), ("torch",)])
def test_the_benchmark_prints_draws_and_names_who_is_missing(
    present, quick, monkeypatch, tmp_path, capsys
):
    for name in peers.PEERS:
        if name in present:
            pytest.importorskip(name)
        else:
            monkeypatch.setitem(sys.modules, name, None)
    assert benchmark.main(benchmark.get_config().replace(TINY), tmp_path) == 0
    out = capsys.readouterr().out
    absent = [name for name in peers.PEERS if name not in present]
    for name in absent:
        assert f"{name}: not installed; pip install '.[peers]'" in out
    assert "B 2, T 3, H 4, L 1" in out and "5 rounds" in out

    found = strict_json(tmp_path / "benchmark.json")
    assert sorted(found["missing"]) == sorted(absent) and found["machine"]["versions"]["jax"]
    (shape,) = found["shapes"]
    assert shape["flops_per_step"] == flops_per_step(Shape(2, 3, 4, 1), 65)
    assert {"lstm_jax", "lstm_jax autodiff", *present} <= set(shape["contenders"])
    assert not set(absent) & set(shape["contenders"])
    assert (tmp_path / "figures" / "benchmark.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("present", [False, True])
def test_the_sampling_benchmark(present, quick, monkeypatch, tmp_path, capsys):
    if present:
        pytest.importorskip("torch")
    else:
        monkeypatch.setitem(sys.modules, "torch", None)
    config = benchmark_sampling.get_config().replace({"model.hidden_size": 4})
    assert benchmark_sampling.main(config, tmp_path) == 0
    assert ("torch: not installed" in capsys.readouterr().out) is not present
    cases = strict_json(tmp_path / "benchmark_sampling.json")["cases"]
    assert [case["num_samples"] for case in cases] == [1, 64]
    assert all(("torch" in case["contenders"]) is present for case in cases)
