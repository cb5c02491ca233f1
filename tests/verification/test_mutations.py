"""The checks are checked: the hand backward, broken in one place, must be caught each time.

Every mutant is `bptt.py`, `rows.py` or `columns.py` with one piece of its source replaced, compared
with the other sources by the verification that `--experiment=verify_gradients` runs.
"""

from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest

from lstm_jax.cells import columns, rows
from lstm_jax.cells.passes import COLUMNS, ROWS
from lstm_jax.config import ModelConfig
from lstm_jax.gradients import GRADIENTS, GradFn, bptt
from lstm_jax.gradients.bptt import value_and_grad
from lstm_jax.heads import softmax
from lstm_jax.verification import compare
from lstm_jax.verification.cases import Case
from lstm_jax.verification.compare import Suspects, verify_case

SOURCES = [Path(module.__file__).read_text() for module in (bptt, rows)]
COLUMNS_SOURCE = Path(columns.__file__).read_text()

# (what is broken, the source, what stands there instead)
MUTANTS = [
    # (B1) the loss
    (
        "the error's sign",
        "(exp_TxBxV / sum_TxBx1 - hit_TxBxV)",
        "(hit_TxBxV - exp_TxBxV / sum_TxBx1)",
    ),
    ("the softmax not normalised", "exp_TxBxV / sum_TxBx1 - hit", "exp_TxBxV - hit"),
    ("the target forgotten", "exp_TxBxV / sum_TxBx1 - hit_TxBxV", "exp_TxBxV / sum_TxBx1"),
    (
        "the target mask forgotten",
        "jnp.ones(nll_TxB.shape, bool) if batch.mask is None else batch.mask",
        "jnp.ones(nll_TxB.shape, bool)",
    ),
    ("the mean a sum", " / jnp.maximum(count, 1).astype(nll_TxB.dtype)", ""),
    # (B2) the readout
    (
        "the readout mask forgotten forward",
        "masked_TxBxH = h_TxBxH if mask_BxH is None else h_TxBxH * mask_BxH[None]",
        "masked_TxBxH = h_TxBxH",
    ),
    (
        "the readout mask forgotten backward",
        "e_TxBxH = e_TxBxH * mask_BxH[None].astype(dtype)",
        "pass",
    ),
    (
        "the readout's bias without its gradient",
        "b=jnp.sum(dy_TxBxV, (0, 1))",
        "b=0 * jnp.sum(dy_TxBxV, (0, 1))",
    ),
    (
        "the readout's gradient of unmasked outputs",
        "W=outer_sum(masked_TxBxH.astype(dtype), dy_TxBxV)",
        "W=outer_sum(h_TxBxH.astype(dtype), dy_TxBxV)",
    ),
    # (B3) what arrives at h
    (
        "no error through the recurrent weights",
        "jnp.zeros_like(dc_BxH) if truncated else dz_BxG @ U_GxH",
        "jnp.zeros_like(dc_BxH)",
    ),
    ("the recurrent error's sign", "else dz_BxG @ U_GxH", "else -dz_BxG @ U_GxH"),
    ("the recurrent weights in another order", "else dz_BxG @ U_GxH", "else dz_BxG @ U_GxH[::-1]"),
    (
        "the recurrent weights not transposed",
        "lax.optimization_barrier(U_HxG.T)",
        "lax.optimization_barrier(U_HxG.reshape(U_HxG.shape[::-1]))",
    ),
    ("what arrives from above forgotten", "e_BxH + dnext.h, dnext.c", "dnext.h, dnext.c"),
    ("h learns nothing from the next step", "e_BxH + dnext.h, dnext.c", "e_BxH, dnext.c"),
    ("h and c of the next step swapped", "e_BxH + dnext.h, dnext.c", "e_BxH + dnext.c, dnext.h"),
    # (B4) what arrives at c
    ("no error along the cell", "(1 - tanh_c * tanh_c) + dc_next", "(1 - tanh_c * tanh_c)"),
    ("the cell's error doubled", "+ dc_next  # (B4)", "+ 2 * dc_next  # (B4)"),
    (
        "the cell's slope with a plus",
        "dh * o * (1 - tanh_c * tanh_c)",
        "dh * o * (1 + tanh_c * tanh_c)",
    ),
    ("the cell's slope forgotten", "dh * o * (1 - tanh_c * tanh_c)", "dh * o"),
    ("the slope of c instead of tanh c", "dh * o * (1 - tanh_c * tanh_c)", "dh * o * (1 - c * c)"),
    ("the output gate forgotten on the way to c", "dh * o * (1 -", "dh * (1 -"),
    ("the input gate instead of the output gate", "dh * o * (1 -", "dh * i * (1 -"),
    ("the cell not forgotten", "return dz, dc * f", "return dz, dc"),
    ("the input gate instead of the forget gate", "return dz, dc * f", "return dz, dc * i"),
    ("h's error handed to the cell before", "return dz, dc * f", "return dz, dh * f"),
    # (B5) the gates
    ("i: the candidate forgotten", "dc * g * i * (1 - i)", "dc * i * (1 - i)"),
    ("i: the slope of tanh", "dc * g * i * (1 - i)", "dc * g * (1 - i * i)"),
    ("i: the slope with a plus", "dc * g * i * (1 - i)", "dc * g * i * (1 + i)"),
    ("i: from h's error", "dc * g * i * (1 - i)", "dh * g * i * (1 - i)"),
    ("f: this step's cell", "dc * c_before * f", "dc * c * f"),
    ("f: tanh of the cell before", "dc * c_before * f", "dc * jnp.tanh(c_before) * f"),
    ("f: the slope of tanh", "c_before * f * (1 - f)", "c_before * (1 - f * f)"),
    ("f: the slope forgotten", "dc * c_before * f * (1 - f)", "dc * c_before"),
    ("g: the input gate forgotten", "dc * i * (1 - g * g)", "dc * (1 - g * g)"),
    ("g: the slope of the sigmoid", "dc * i * (1 - g * g)", "dc * i * g * (1 - g)"),
    ("g: tanh taken twice", "dc * i * (1 - g * g)", "dc * i * (1 - jnp.tanh(g) ** 2)"),
    ("g: the forget gate", "dc * i * (1 - g * g)", "dc * f * (1 - g * g)"),
    ("o: the cell without tanh", "dh * tanh_c * o * (1 - o)", "dh * c * o * (1 - o)"),
    ("o: the slope forgotten", "dh * tanh_c * o * (1 - o)", "dh * tanh_c"),
    ("o: from the cell's error", "dh * tanh_c * o * (1 - o)", "dc * tanh_c * o * (1 - o)"),
    ("input and forget gate swapped", "i, f, g, o = gates", "f, i, g, o = gates"),
    ("candidate and output gate swapped", "i, f, g, o = gates", "i, f, o, g = gates"),
    # (B6) recurrent weights and bias
    (
        "dU of this step's h",
        "outer_sum(residuals.before.h, dz_TxBxG)",
        "outer_sum(residuals.gates.o * jnp.tanh(residuals.c), dz_TxBxG)",
    ),
    ("dU of the cell", "outer_sum(residuals.before.h, dz", "outer_sum(residuals.before.c, dz"),
    (
        "dU without the first step",
        "outer_sum(residuals.before.h, dz_TxBxG)",
        "outer_sum(residuals.before.h[1:], dz_TxBxG[1:])",
    ),
    ("db without the last step", "jnp.sum(dz_TxBxG, (0, 1)))", "jnp.sum(dz_TxBxG[:-1], (0, 1)))"),
    ("db without the first step", "jnp.sum(dz_TxBxG, (0, 1)))", "jnp.sum(dz_TxBxG[1:], (0, 1)))"),
    # (B7), (B8) inputs, layers, embedding
    (
        "dW without the first step",
        "outer_sum(masked_TxBxD, dz_TxBxG), dx",
        "outer_sum(masked_TxBxD[1:], dz_TxBxG[1:]), dx",
    ),
    ("dW of inputs that were not dropped", "outer_sum(masked_TxBxD, dz", "outer_sum(x, dz"),
    ("a mask forgotten on the way down", "dx_TxBxD = dx_TxBxD * mask_BxD[None]", "pass"),
    (
        "W not transposed on the way down",
        "dx_TxBxD = dz_TxBxG @ params.W.T",
        "dx_TxBxD = dz_TxBxG @ params.W.reshape(params.W.shape[::-1])",
    ),
    (
        "ids: the mask forgotten",
        "dz_TxBxG = dz_TxBxG * mask_of_ids(mask_BxD, x)[..., None]",
        "pass",
    ),
    ("ids: rows overwritten instead of added", "zeros.at[ids_TxB].add(", "zeros.at[ids_TxB].set("),
    (
        "the embedding's rows of the targets",
        "params.embedding, batch.inputs, masks.embedding, layout",
        "params.embedding, batch.targets, masks.embedding, layout",
    ),
    (
        "the symbols' mask forgotten forward",
        "x = embed(params, batch.inputs, masks.embedding)",
        "x = embed(params, batch.inputs)",
    ),
    (
        "the symbols' mask forgotten backward",
        "e_TxBxE = e_TxBxE * mask_of_ids(mask_BxV, ids_TxB)[..., None]",
        "pass",
    ),
    # (F5), (B9) skips
    ("the skip forgotten forward", "h + layout.enter(skip_H[None])[None] * below", "h"),
    (
        "the skip of what the layer puts out",
        "h + layout.enter(skip_H[None])[None] * below",
        "h + layout.enter(skip_H[None])[None] * h",
    ),
    (
        "the skip's gradient of one lane",
        "jnp.sum(layout.leave(e * below), (0, 1))",
        "jnp.sum(layout.leave(e * below)[:, 0], 0)",
    ),
    (
        "the skip's gradient of dropped inputs",
        "kept[n].read, e)",
        "kept[n].read * masks.layers[n], e)",
    ),
    ("nothing goes past the layer", "dread = dread + past", "pass"),
    ("all goes past the layer", "layout.enter(skip_H[None])[None] * e", "e"),
    ("past the layer its own error", "dread = dread + past", "dread = dread * 2"),
    ("the skips' gradients in another order", "dskips.insert(0, dskip)", "dskips.append(dskip)"),
    # resets and the initial state
    ("a reset forgotten backward", "dbefore = reset_state(dbefore, resets_B)", "pass"),
    (
        "a reset forgotten in what a step read",
        "before = jax.vmap(reset_state)(before, resets_TxB)",
        "pass",
    ),
    (
        "the initial state forgotten",
        "jnp.concatenate([s0[None], s[:-1]])",
        "jnp.concatenate([0 * s0[None], s[:-1]])",
    ),
    (
        "the state of this step for the step before",
        "jnp.concatenate([s0[None], s[:-1]])[:T], state",
        "s, state",
    ),
    ("the scan not reversed", "reverse=True", "reverse=False"),
    (
        "the layers' gradients in another order",
        "dlayers.insert(0, dlayer)",
        "dlayers.append(dlayer)",
    ),
]

# What the columns do in their own way; `cell_backward` is the rows' and has its mutants above.
COLUMN_MUTANTS = [
    ("the sigmoid without its half", "0.5 * jnp.tanh(0.5 * z) + 0.5", "0.5 * jnp.tanh(z) + 0.5"),
    (
        "input and forget gate swapped",
        "i=sigmoid(z.i), f=sigmoid(z.f)",
        "i=sigmoid(z.f), f=sigmoid(z.i)",
    ),
    ("the candidate a sigmoid", "g=jnp.tanh(z.g)", "g=sigmoid(z.g)"),
    ("ids: the bias forgotten", "+ picked_HxB + b_Hx1", "+ picked_HxB"),
    ("ids: the mask forgotten forward", "picked_HxB = picked_HxB * drop_B[None]", "pass"),
    ("ids: the mask forgotten backward", "mask_of_ids(mask_BxD, x)[..., None]", "1"),
    ("the input below h", "jnp.concatenate([x_DxB, h_HxB])", "jnp.concatenate([h_HxB, x_DxB])"),
    ("a mask forgotten forward", "x = x * mask_BxD.T[None]", "pass"),
    ("a mask forgotten on the way down", "dx_TxDxB = dx_TxDxB * mask_BxD.T[None]", "pass"),
    ("a reset forgotten forward", "state = reset_columns(state, resets_B)", "pass"),
    (
        "a reset forgotten backward",
        "reset_columns(LSTMState(dh_HxB, dc_HxB), resets_B)",
        "LSTMState(dh_HxB, dc_HxB)",
    ),
    (
        "a reset forgotten in what a step read",
        "before = reset_columns(before, resets_TxB[:, None])",
        "pass",
    ),
    (
        "the initial state forgotten",
        "jnp.concatenate([s0[None], s[:-1]])",
        "jnp.concatenate([0 * s0[None], s[:-1]])",
    ),
    ("the state of this step for the step before", "jnp.concatenate([s0[None], s[:-1]])", "s"),
    ("what arrives from above forgotten", "e_HxB + dnext.h, dnext.c", "dnext.h, dnext.c"),
    ("h learns nothing from the next step", "e_HxB + dnext.h, dnext.c", "e_HxB, dnext.c"),
    ("h and c of the next step swapped", "e_HxB + dnext.h, dnext.c", "e_HxB + dnext.c, dnext.h"),
    (
        "dx for dh",
        "dx_DxB, dh_HxB = d[:D], d[D:]",
        "dh_HxB, dx_DxB = d[-H:], d[:D]; dh_HxB = d[:H]",
    ),
    (
        "a gate left out of the error",
        "zip(weights, dz, strict=True))",
        "list(zip(weights, dz))[1:])",
    ),
    (
        "the input's weights forgotten",
        "jnp.concatenate([params.W, U_HxG])",
        "jnp.concatenate([0 * params.W, U_HxG])",
    ),
    ("dU of the cell", "outer_sum(residuals.before.h, dz)", "outer_sum(residuals.before.c, dz)"),
    (
        "dU and dW without the last step",
        "outer_sum(both_TxDHxB, dz)",
        "outer_sum(both_TxDHxB[:-1], Gates(*(d[:-1] for d in dz)))",
    ),
    ("db without the first step", "jnp.sum(dz_TxHxB, (0, 2))", "jnp.sum(dz_TxHxB[1:], (0, 2))"),
    ("the scan not reversed", "reverse=True", "reverse=False"),
]

# Everything on; ids read as rows of W by two layers, then an embedding, three layers and skips.
CASES = [
    Case(
        ModelConfig(hidden_size=4, dropout=0.25, input_dropout=0.25, **model),
        T=5,
        B=3,
        masked=True,
        resets=True,
        carry=True,
    )
    for model in (
        {"num_layers": 2},
        {"num_layers": 3, "skip": "weighted", "embedding_size": 11, "embedding_dropout": 0.25},
    )
]


VARIANT = Case(ModelConfig(hidden_size=4, num_layers=2, cell="coupled"), T=5, B=3)


def load(source: str, old: str, new: str) -> ModuleType:
    """The module that the source makes once a piece of it is replaced."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.py"
        path.write_text(source.replace(old, new))
        spec = spec_from_file_location("mutant", path)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def mutate(old: str, new: str) -> GradFn:
    """The gradient in rows, with one piece of `bptt.py` or `rows.py` replaced."""
    counts = [source.count(old) for source in SOURCES]
    assert sum(counts) == 1, f"{old!r} stands {sum(counts)} times in bptt.py and rows.py"
    if counts[0]:
        return partial(load(SOURCES[0], old, new).value_and_grad_in, ROWS)
    mutant = load(SOURCES[1], old, new)
    layout = ROWS._replace(forward=mutant.forward, backward=mutant.backward)
    return partial(value_and_grad, layout=layout)


def mutate_columns(old: str, new: str) -> GradFn:
    """The gradient in columns, with one piece of `columns.py` replaced."""
    assert COLUMNS_SOURCE.count(old) == 1, f"{old!r} does not stand once in columns.py"
    mutant = load(COLUMNS_SOURCE, old, new)
    layout = COLUMNS._replace(forward=mutant.forward, backward=mutant.backward)
    return partial(value_and_grad, layout=layout)


def fails(suspects: Suspects, truncated: bool = False) -> bool:
    """Whether the verification finds a difference on any of the cases."""
    check = partial(verify_case, directions=0, float32=False, optimized=False)
    return any(
        not row.passed for case in CASES for row in check(case, suspects, truncated=truncated)
    )


@pytest.fixture(scope="module")
def tally(request):
    """Prints how many mutants were killed."""
    outcomes = []
    yield outcomes
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\nmutants of the hand backward killed: {sum(outcomes)}/{len(outcomes)}")


def test_the_gradients_as_they_are_pass():
    assert not fails(Suspects(), truncated=True)


@pytest.mark.parametrize("old, new", [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS])
def test_a_broken_backward_is_caught(old, new, tally):
    killed = fails(Suspects(rows=mutate(old, new)))
    tally.append(killed)
    assert killed


@pytest.mark.parametrize(
    "old, new", [m[1:] for m in COLUMN_MUTANTS], ids=[m[0] for m in COLUMN_MUTANTS]
)
def test_a_broken_backward_in_columns_is_caught(old, new, tally):
    killed = fails(Suspects(columns=mutate_columns(old, new)))
    tally.append(killed)
    assert killed


def test_a_gradient_that_is_not_finite_is_caught():
    """Also where the true gradient is zero, and NaN would be lost in a maximum."""
    suspects = Suspects(
        rows=mutate("return LSTMParams(dW, dU,", "return LSTMParams(dW, dU * jnp.nan,")
    )
    assert fails(suspects)
    still = Case(ModelConfig(hidden_size=4), T=1, B=1)  # dU is zero
    rows = verify_case(still, suspects, truncated=False, float32=False, optimized=False)
    assert {row.pair for row in rows if not row.passed} == {
        "autodiff ~ bptt rows",
        "bptt rows ~ bptt columns",
        "bptt rows ~ reference",
        "bptt rows ~ differences",
    }


def test_a_truncated_rule_that_is_not_truncated_is_caught():
    old, new = "jnp.zeros_like(dc_BxH) if truncated else dz_BxG @ U_GxH", "dz_BxG @ U_GxH"
    whole = partial(mutate(old, new), truncated=True)
    assert fails(Suspects(truncated_rows=whole), truncated=True)
    old, new = "jnp.zeros_like(params.U) if truncated else params.U", "params.U"
    whole = partial(mutate_columns(old, new), truncated=True)
    assert fails(Suspects(truncated_columns=whole), truncated=True)


@pytest.mark.parametrize("optimized", [False, True])
def test_a_variant_is_compiled_as_it_is_asked_for(optimized, monkeypatch):
    asked = []
    original = compare.compile_gradients

    def compile_gradients(gradients, dtypes, optimized):
        asked.append(optimized)
        return original(gradients, dtypes, False)

    monkeypatch.setattr(compare, "compile_gradients", compile_gradients)
    verify_case(VARIANT, directions=1, optimized=optimized)
    assert asked == [optimized]


WRONG = {
    "one coordinate": lambda d: d.at[0, 1].multiply(1.01),
    "two swapped": lambda d: d.at[0].set(d[0, ::-1]),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_the_differences_see_a_coordinate_that_is_wrong(change):
    def wrong(*problem):
        found, grads = GRADIENTS["autodiff"](softmax)(*problem)
        first, second = grads.layers
        return found, grads._replace(layers=(first._replace(U=change(first.U)), second))

    rows = verify_case(VARIANT, Suspects(autodiff=wrong))
    assert [row.leaf for row in rows if not row.passed] == ["layers[0].U"]
