"""The persistent kernels, as far as a CPU goes: their numbers by an emulator, the layer around
them with a twin in their place, and the shapes and refusals."""

import shutil
import signal
import subprocess
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from experiments.studies.persistent import __main__ as study
from experiments.studies.persistent import kernels, layer
from experiments.studies.persistent.kernels import TILES, Tile, Tiles, find_tiles
from lstm_jax.cells.cell import Marks
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.errors import UserError

# ---- the kernels' own numbers


def by_numpy(T, B, H, rng):
    """A problem, in float32, and h, c, gates, dz, dh and dc of the start, by a float64 loop."""
    given = {
        "xw": rng.normal(size=(T, B, 4 * H)),
        "U": rng.normal(size=(H, 4 * H)) / np.sqrt(H),
        "h0": np.tanh(rng.normal(size=(B, H))),
        "c0": rng.normal(size=(B, H)),
        "e": rng.normal(size=(T, B, H)),
        "dh": rng.normal(size=(B, H)),
        "dc": rng.normal(size=(B, H)),
    }
    given = {name: a.astype(np.float32) for name, a in given.items()}
    resets = (rng.random((T, B)) < 0.2).astype(np.uint8)
    xw, U, h, c, e, dh, dc = (a.astype(float) for a in given.values())
    keep, c0 = 1.0 - resets[..., None], c
    states, cells, gates, dz = [], [], [], [np.empty(0)] * T
    for t in range(T):
        z = xw[t] + (keep[t] * h) @ U
        i, f, o = (1 / (1 + np.exp(-z[:, n * H : (n + 1) * H])) for n in (0, 1, 3))
        g = np.tanh(z[:, 2 * H : 3 * H])
        c = f * keep[t] * c + i * g
        h = o * np.tanh(c)
        states.append(h)
        cells.append(c)
        gates.append(np.concatenate([i, f, g, o], axis=1))
    for t in reversed(range(T)):
        i, f, g, o = np.split(gates[t], 4, axis=1)
        before = keep[t] * (cells[t - 1] if t else c0)
        dh, tanh_c = dh + e[t], np.tanh(cells[t])
        dc = dc + dh * o * (1 - tanh_c**2)
        di, df, dg, do = dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i, dh * tanh_c * o
        dz[t] = np.concatenate([di, df, dg * (1 - g * g), do * (1 - o)], axis=1)
        dh, dc = keep[t] * (dz[t] @ U.T), keep[t] * dc * f
    forward = [np.array(a) for a in (states, cells, gates)]
    return given | {"resets": resets}, forward, [np.array(dz), dh, dc]


def emulate(folder, kind, tile, precise, B, inputs, shapes, *, absent=0, polls=100_000):
    """The outputs of a kernel, its threads as fibers on a CPU; and whether each block failed.

    The last blocks may be absent: they never start.
    """
    program = folder / "emulator"
    flags = ["-DEMULATED", "-DSEED=1", f"-DPOLLS={polls}", f"-D{kind.upper()}"]
    flags += kernels.macros(tile, precise)
    source = kernels.HERE / "emulator.cpp"
    options = ["-O1", "-std=c++17", "-Wno-unknown-pragmas", *flags]
    subprocess.run(["g++", *options, source, "-o", program], check=True)
    T = inputs[0].shape[0]
    exchange = np.zeros(kernels.exchange_words(kind, tile, B), np.uint32)
    outputs = [np.full(shape, np.nan, np.float32) for shape in shapes]
    failed = np.full(tile.blocks(B), -1, np.int32)
    arrays = [np.array([T, B], np.int32), *inputs, exchange, *outputs, exchange[:0], failed]
    for n, a in enumerate(arrays):
        np.ascontiguousarray(a).tofile(folder / f"in{n}")
    words = map(str, (folder, tile.blocks(B) - absent, kernels.shared_words(kind, tile)))
    subprocess.run([program, *words], check=True, timeout=300)
    read = [np.fromfile(folder / f"out{n}", a.dtype) for n, a in enumerate(arrays)]
    found = [read[n].reshape(a.shape) for n, a in enumerate(arrays)]
    return found[1 + len(inputs) + 1 :][: len(shapes)], found[-1]


SMALL = {  # alone and in clusters; one tile of lanes and two; several teams
    "alone": (Tiles(Tile(64, 8, 8, 2, 1, 1), Tile(64, 8, 8, 2, 1, 1)), 24),
    "clusters": (Tiles(Tile(64, 8, 16, 2, 2, 2), Tile(64, 8, 16, 2, 2, 2)), 32),
}


def kernel_problems(tiles, B, T, rng):
    """What each kernel is given, the shapes of what it puts out, and what that should be."""
    H = tiles.forward.hidden
    given, forward, backward = by_numpy(T, B, H, rng)
    xw, U, h0, c0, e, dh, dc, resets = given.values()
    _, c, gates = (a.astype(np.float32) for a in forward)
    state, states, by_gates = (B, H), (T, B, H), (T, B, 4 * H)
    there = (xw, U, h0, c0, resets), (states, states, by_gates), forward
    back = (gates, c, c0, U, e, dh, dc, resets), (by_gates, state, state), backward
    return {"forward": there, "backward": back}


EMULATED = [pytest.mark.long, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]


@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize("name", [pytest.param(name, marks=EMULATED) for name in SMALL])
def test_the_kernels_agree_with_a_loop(name, precise, tmp_path, rng):
    tiles, B = SMALL[name]
    for kind, (inputs, shapes, wanted) in kernel_problems(tiles, B, 6, rng).items():
        tile = getattr(tiles, kind)
        found, failed = emulate(tmp_path, kind, tile, precise, B, inputs, shapes)
        assert not failed.any()
        for a, right in zip(found, wanted, strict=True):
            allowed = (3e-6 if precise else 3e-3) * np.abs(right).max()
            np.testing.assert_allclose(a, right, rtol=0, atol=allowed)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=EMULATED) for k in ("forward", "backward")])
def test_blocks_that_wait_in_vain_end_and_put_out_nan(kind, tmp_path, rng):
    tiles, B, T = SMALL["alone"][0], 8, 4
    inputs, shapes, _ = kernel_problems(tiles, B, T, rng)[kind]
    tile, named = getattr(tiles, kind), {"absent": 1, "polls": 50}
    found, failed = emulate(tmp_path, kind, tile, False, B, inputs, shapes, **named)
    assert failed.tolist() == [1] * 7 + [-1]
    last = found[0][-1] if kind == "forward" else found[1]  # of what was computed
    kept = inputs[-1][-1 if kind == "forward" else 0] == 0  # lanes that no reset made anew
    assert kept.any() and np.isnan(last[kept][:, : 7 * 8]).all()


# ---- the layer around them


def twin_forward(tile, xw_TxBxG, U, h0, c0, resets, *, precise):
    """What forward.cu computes, of the same arguments, by plain JAX."""

    def step(state, inputs):
        xw, reset = inputs
        h, c = (jnp.where(reset[:, None] > 0, 0, s) for s in state)
        i, f, g, o = jnp.split(xw + h @ U, 4, axis=1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (h, c), (h, c, jnp.concatenate([i, f, g, o], axis=1))

    h, c, gates = lax.scan(step, (h0, c0), (xw_TxBxG, resets))[1]
    return kernels.Forward(h, c, gates, jnp.zeros(tile.blocks(h0.shape[0]), jnp.int32))


def twin_backward(tile, gates, c, c0, U, e, dh, dc, resets, *, precise):
    """What backward.cu computes, as the derivative of a step, by JAX."""

    def step(arriving, inputs):
        gates, before, e, reset = inputs
        (dh, dc), keep = arriving, jnp.where(reset[:, None] > 0, 0.0, 1.0)

        def put_out(gates, before):
            i, f, g, o = jnp.split(gates, 4, axis=1)
            c = f * before + i * g
            return o * jnp.tanh(c), c

        dgates, dbefore = jax.vjp(put_out, gates, before * keep)[1]((dh + e, dc))
        i, f, g, o = jnp.split(gates, 4, axis=1)
        dz = dgates * jnp.concatenate([i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)], axis=1)
        return (keep * (dz @ U.T), keep * dbefore), dz

    before = jnp.concatenate([c0[None], c[:-1]])
    (dh, dc), dz = lax.scan(step, (dh, dc), (gates, before, e, resets), reverse=True)
    return kernels.Backward(dz, dh, dc, jnp.zeros(tile.blocks(c0.shape[0]), jnp.int32))


T, B, D, H = 7, 4, 3, 5
FAKE = Tile(H, 1, 1, 1, 1, 1)


def layer_problem(rng, ids):
    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = LSTMParams(draw(D, 4 * H), draw(H, 4 * H), draw(4 * H))
    x = jnp.asarray(rng.integers(0, D, (T, B))) if ids else draw(T, B, D)
    return params, LSTMState(draw(B, H), draw(B, H)), x, draw(B, D), draw(T, B, H), draw(B, H)


def run_passes(passes, problem, marks, *, truncated=False):
    """All that a layer's passes put out, but for what they keep."""

    def run(params, state, x, mask, e, dh):
        final, h, kept = passes.forward(params, state, x, mask, marks)
        dfinal = LSTMState(dh, dh * 0.5)
        back = passes.backward(params, kept, mask, marks, e, dfinal, truncated=truncated)
        return final, h, back

    return jax.jit(run)(*problem)


PLAIN = Marks()
RESETS = Marks(resets=jnp.arange(T * B).reshape(T, B) % 5 == 2)
LENGTHS = Marks(live=jnp.arange(T)[:, None] < jnp.array([7, 3, 0, 5]))
ZONEOUT = Marks(zoneout=LSTMState(*(jnp.full((1, 1, 1), 0.3),) * 2))


@pytest.mark.parametrize(
    ("marks", "ids", "truncated", "calls"),
    [
        pytest.param(PLAIN, False, False, "forward backward", id="vectors"),
        pytest.param(RESETS, True, False, "forward backward", id="resets, ids"),
        pytest.param(RESETS, False, True, "forward", id="truncated: no product for a kernel"),
        pytest.param(LENGTHS, False, False, "", id="lengths"),
        pytest.param(ZONEOUT, False, False, "", id="zoneout"),
    ],
)
def test_the_layer_is_rows(marks, ids, truncated, calls, rng):
    """By the kernels where they suit, and else by rows itself."""
    called = []

    def forward(*args, **named):
        called.append("forward")
        return twin_forward(*args, **named)

    def backward(*args, **named):
        called.append("backward")
        return twin_backward(*args, **named)

    twins = layer.Kernels(forward, backward)
    passes = layer.make_persistent(twins, lambda B, H: Tiles(FAKE, FAKE))
    problem = layer_problem(rng, ids)
    found = run_passes(passes, problem, marks, truncated=truncated)
    assert " ".join(called) == calls
    wanted = run_passes(layer.BY_ROWS, problem, marks, truncated=truncated)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), found, wanted)


def test_a_shape_without_tiles_is_rows():
    """And nothing is compiled by NVRTC, which is not here."""
    problem = layer_problem(np.random.default_rng(0), ids=False)
    passes = layer.make_persistent()
    found, wanted = (
        jax.make_jaxpr(partial(run_passes, p, marks=RESETS))(problem)
        for p in (passes, layer.BY_ROWS)
    )
    assert str(found) == str(wanted)


@pytest.mark.parametrize("precision", [None, "default", "highest", "float32"])
def test_products_have_the_bits_that_jax_is_set_to(precision):
    with jax.default_matmul_precision(precision):
        assert layer.wants_precise() == (precision in ("highest", "float32"))


# ---- shapes, and refusals


@pytest.mark.parametrize("shape", study.SHAPES, ids=str)
def test_every_shape_of_the_study_has_tiles_that_fit(shape):
    """All blocks run at once, and no size leaves a rest that a kernel would forget."""
    for tiles in find_tiles(shape.B, shape.H):
        for kind, tile in tiles._asdict().items():
            assert tile.hidden == shape.H and shape.B % tile.lanes == 0
            assert tile.blocks(shape.B) <= kernels.MULTIPROCESSORS
            assert 4 * kernels.shared_words(kind, tile) <= kernels.SHARED_BYTES
            part = shape.H // tile.cluster
            assert shape.H % tile.units == 0 and shape.H // tile.units % tile.cluster == 0
            assert part % (tile.warps * (8 if kind == "forward" else 16)) == 0
            if kind == "forward":
                lane_tiles = tile.lanes // 8
                vectors = part // tile.warps // 8 * lane_tiles / 2
                assert vectors % tile.batch == 0


def test_each_shape_of_the_table_is_studied():
    assert {(shape.B, shape.H) for shape in study.SHAPES} == set(TILES)


def test_another_shape_is_refused_in_one_line():
    with pytest.raises(UserError, match="no persistent kernel for B 17 H 768: there are") as info:
        find_tiles(17, 768)
    assert "\n" not in str(info.value) and layer.first_tiles(17, 768) is None


# ---- the study


@pytest.mark.parametrize("scale", [1.0, 1.1], ids=["right", "wrong"])
def test_the_study_sees_whether_a_gradient_is_right(scale):
    problem = study.draw_problem(study.Shape(B, T, H, 1))

    def backward(*args, **named):
        found = twin_backward(*args, **named)
        return found._replace(dc=found.dc * scale)

    twins = layer.Kernels(twin_forward, backward)
    passes = layer.make_persistent(twins, lambda B, H: Tiles(FAKE, FAKE))
    compiled = study.compile_passes(passes, problem)
    line = study.check(compiled, problem, study.right_answer(problem))
    assert line["same"]
    assert study.is_right({"TF32": line, "precise": line}) == (scale == 1.0)
    assert scale == 1.0 or (line["where"] == "['dstart'].c" and 0.05 < line["error"] < 0.2)


def test_the_study_sees_what_moves_and_what_is_no_number():
    answers = iter([np.ones(3), np.ones(3), np.array([1.0, 1.0, 1.0 + 1e-16 * 4])])
    line = study.check(lambda: next(answers), (), np.ones(3))
    assert line["error"] == 0 and not line["same"]
    answers = iter([np.array([1.0, np.nan])] * 3)
    line = study.check(lambda: next(answers), (), np.ones(2))
    assert line["same"] and not study.is_right({"TF32": line, "precise": line})


@pytest.mark.parametrize(
    ("code", "said"),
    [(-signal.SIGALRM, "killed: longer than"), (1, "exit 1: ValueError: no"), (0, None)],
)
def test_a_job_that_dies_is_a_line_of_the_table(code, said, monkeypatch, tmp_path):
    def run(command, **named):
        return subprocess.CompletedProcess(
            command, code, 'noise\n{"fine": 1}\n', "…\nValueError: no"
        )

    monkeypatch.setattr(study.subprocess, "run", run)
    line = study.start(study.Job(0, 1), tmp_path, time.monotonic() + 9)
    assert line == {"fine": 1} if said is None else line["error"].startswith(said)
    assert said is None or "WRONG" in study.in_words(study.Job(0, 1), line)


def test_no_job_begins_when_time_is_over(tmp_path):
    line = study.start(study.Job(0, "rows"), tmp_path, time.monotonic())
    assert line == {"error": "no time was left"} and not study.is_right(line)


# ---- what is not here


def test_without_nvrtc_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(kernels, "nvrtc_files", lambda: iter(["no such library"]))
    kernels.nvrtc.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'jax\[cuda13\]'"):
        kernels.compile_ptx("forward", TILES[64, 128][0].forward, False)


def test_without_a_gpu_the_study_says_so(capsys):
    assert study.main([]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "error: the study needs a CUDA GPU" in err
