"""The benchmark: its contenders do the same work, its formula counts it, and it writes it down.

No test looks at how long anything took.
"""

import json
import math
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental import rnn

from experiments.studies import benchmark, benchmark_gpu, benchmark_sampling
from experiments.support import contenders, floors, peers, timing
from experiments.support.contenders import Shape, config_of, flops_per_step, make_ours
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
    monkeypatch.setattr(contenders, "init_train_state", random_train_state)
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


def cudnn_by_jax(x_BxTxD, h, c, weights):
    """What JAX says that cuDNN does."""
    (B, T, D), (L, _, H) = x_BxTxD.shape, h.shape
    parts = rnn.unpack_lstm_weights(weights, D, H, L, False)
    return rnn.lstm_ref(x_BxTxD, h, c, *parts, np.full(B, T, np.int32), D, H, L, 0.0, False)


def cudnn_step(monkeypatch):
    monkeypatch.setattr(peers, "cudnn_lstm", cudnn_by_jax)
    return peers.make_cudnn(contenders.initial_weights(SHAPE), SHAPE.batch_size)


def torch_step(**how):
    pytest.importorskip("torch")
    return peers.make_torch(contenders.initial_weights(SHAPE), SHAPE.batch_size, **how)


def test_the_weights_for_cudnn_are_packed_as_it_has_them(batches, right, monkeypatch):
    step = cudnn_step(monkeypatch)
    np.testing.assert_allclose([step(batch).item() for batch in batches], right, rtol=RTOL)


def test_the_weights_for_cudnn_in_double_precision(x64, batches, monkeypatch):
    """Outputs and gradients beside this project's own layers."""
    rng = np.random.default_rng(1)
    params = random_train_state(config_of(SHAPE), 65).params
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    kept = []
    monkeypatch.setattr(peers, "cudnn_lstm", cudnn_by_jax)
    monkeypatch.setattr(peers, "jax_step", lambda *parts: kept.append(parts))
    peers.make_cudnn(params, SHAPE.batch_size)
    (their_loss, theirs, carry), batch = kept[0], batches[0]
    carry = jax.tree.map(lambda leaf: leaf.astype(float), carry)
    gradient = jax.jit(jax.value_and_grad(their_loss, has_aux=True))
    (loss, _), found = gradient(theirs, carry, batch.inputs, batch.targets)
    ours = jax.jit(jax.value_and_grad(sequence_loss, has_aux=True))
    (wanted, _), grads = ours(params, init_carry(params, SHAPE.batch_size), batch)
    assert loss == pytest.approx(wanted.item(), rel=1e-13)
    no_biases = np.zeros(2 * found["b_LxG"].size)
    packed = np.concatenate([found["matrices"], no_biases])
    W_ih, W_hh, *_ = rnn.unpack_lstm_weights(packed, 128, 6, 2, False)
    for n, layer in enumerate(grads.layers):
        dW_DxG, dU_HxG, db_G = W_ih[n].T, W_hh[n].T, found["b_LxG"][n]
        assert not dW_DxG[len(layer.W) :].any()
        for mine, theirs in zip(layer, (dW_DxG[: len(layer.W)], dU_HxG, db_G), strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=0, atol=1e-13 * abs(mine).max())


@pytest.mark.parametrize("how", [{"apart": True}, {"width": 128}])
def test_what_torch_does_on_a_gpu_is_the_same_work(how, batches, right, monkeypatch):
    if width := how.pop("width", 0):
        monkeypatch.setattr(peers, "one_hot_width", lambda *_: width)
    step = torch_step(device="cpu", **how)
    np.testing.assert_allclose([step(batch).item() for batch in batches], right, rtol=RTOL)


@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
def test_torch_in_16_bits_is_near_and_is_not_float32(narrow, batches, right, monkeypatch):
    torch = pytest.importorskip("torch")
    # Few CPUs have an LSTM in float16. What is done for it, the scaled loss, is tested without.
    monkeypatch.setattr(torch, "float16", torch.bfloat16)
    step = torch_step(narrow=narrow, device="cpu")
    found = [step(batch).item() for batch in batches]
    np.testing.assert_allclose(found, right, rtol=3e-2)
    assert max(abs(np.divide(found, right) - 1)) > 3 * RTOL


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


def test_a_torch_for_cpus_is_left_out_on_a_gpu_with_what_to_install(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "has no gpu here, where JAX has one; install" in peers.why_missing("torch")
    cuda.is_available = lambda: True
    assert peers.why_missing("torch") is None


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


@pytest.fixture
def as_on_a_gpu(quick, monkeypatch):
    """What a GPU's benchmark does, on this device."""
    monkeypatch.setattr(benchmark, "on_gpu", lambda: True)
    for name, value in {"TURN_S": 0.0, "PRODUCT_SIZE": 16}.items():
        monkeypatch.setattr(benchmark_gpu, name, value)
    for name in ("haiku", "flax", "equinox"):
        monkeypatch.setitem(sys.modules, name, None)


def test_on_a_gpu_it_has_16_bits_and_the_least_that_a_step_takes(
    as_on_a_gpu, monkeypatch, tmp_path, capsys
):
    def refuse(*_):
        raise ValueError("cuDNN takes no such shape")

    monkeypatch.setattr(peers, "why_no_cudnn", lambda: None)
    monkeypatch.setattr(peers, "make_cudnn", refuse)
    assert benchmark.main(benchmark.get_config().replace(TINY), tmp_path) == 0
    out = capsys.readouterr().out
    assert "haiku: not installed" in out and "cudnn: failed: ValueError" in out
    found = strict_json(tmp_path / "benchmark.json")
    assert found["machine"]["commit"] and found["machine"]["peak_source"] == "large product"
    (shape,) = found["shapes"]
    made = shape["contenders"]
    narrow = {name for name, contender in made.items() if contender["precision"] == "bfloat16"}
    torch = set() if "torch" in found["missing"] else {"torch bfloat16"}
    assert narrow == {"lstm_jax bfloat16", *torch} and "lstm_jax autodiff" in made
    ours = made["lstm_jax"]
    assert ours["us_per_step_of_time_and_layer"] == pytest.approx(ours["ms"] * 1e3 / 3)
    assert ours["share_of_floor"] == pytest.approx(ours["floor_ms"] / ours["ms"])
    for contender in made.values():
        np.testing.assert_allclose(contender["losses"], ours["losses"], rtol=1e-2)
    assert (tmp_path / "figures" / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_on_a_gpu_who_would_begin_too_late_is_left_out(as_on_a_gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark_gpu, "LIMIT_S", 0.0)
    assert benchmark.compare((Shape(2, 3, 4, 1), Shape(2, 3, 4, 2)), tmp_path) == 0
    out = capsys.readouterr().out
    assert "lstm_jax autodiff: no time was left" in out
    assert "B 2, T 3, H 4, L 2: no time was left" in out
    (shape,) = strict_json(tmp_path / "benchmark.json")["shapes"]
    assert [*shape["contenders"]] == ["lstm_jax"]


def test_the_least_is_what_takes_longer_the_products_or_the_latency():
    peak = floors.peak_of("NVIDIA H100 80GB HBM3", 1.0, 2.0)
    assert (peak.of("float32"), peak.of("float16")) == (494.7e12, 989.4e12)
    assert floors.peak_of("another", 1.0, 2.0).of("bfloat16") == 2.0
    long = floors.floor_of(10**12, 99, 2, 1e15)
    assert (long.kind, long.seconds) == ("products", 1e-3)
    assert long.latency_s == pytest.approx((3e-4, 6e-4))
    short = floors.floor_of(10**11, 99, 2, 1e15)
    assert (short.kind, short.seconds) == ("latency", pytest.approx(3e-4))


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
