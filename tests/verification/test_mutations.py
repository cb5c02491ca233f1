"""The checks are checked: the hand backward, broken in one place, must be caught each time.

Every mutant is one module of the backward by hand with one piece of its source replaced, compared
with the unbroken sources by the verification that `--experiment=verify_gradients` runs.
"""

from functools import cache, partial
from types import ModuleType
from typing import NamedTuple

import pytest

from lstm_jax import heads
from lstm_jax.cells import (
    carousel,
    elman,
    forgetting_blocks,
    gru,
    lstm,
    lstm_columns,
    lstm_gates,
    memory_blocks,
    passes,
    projection,
    vanilla,
)
from lstm_jax.cells.passes import COLUMNS, ROWS, Layout
from lstm_jax.config import ModelConfig
from lstm_jax.gradients import GRADIENTS, GradFn, bptt
from lstm_jax.verification import compare
from lstm_jax.verification.cases import Case, make_problem
from lstm_jax.verification.compare import MIXED, Suspects, verify_case
from tests.mutants import mutate

# Lists of (what is broken, the source, what stands there instead). The equations are those of the
# module's docstring.

SOFTMAX = [
    # (H2)
    (
        "the error's sign",
        "exp_TxBxV / sum_TxBx1 - hit_TxBxV",
        "hit_TxBxV - exp_TxBxV / sum_TxBx1",
    ),
    ("the softmax not normalised", "exp_TxBxV / sum_TxBx1 - hit", "exp_TxBxV - hit"),
    ("the target forgotten", "exp_TxBxV / sum_TxBx1 - hit_TxBxV", "exp_TxBxV / sum_TxBx1"),
]

SQUARED = [
    # (H4)
    ("the slope of the square halved", ", 2 * error_TxBxN", ", error_TxBxN"),
    ("the error's sign", ", 2 * error_TxBxN", ", -2 * error_TxBxN"),
    ("the error's size alone", ", 2 * error_TxBxN", ", 2 * jnp.abs(error_TxBxN)"),
    ("the target forgotten", "= outputs - targets", "= outputs"),
    (
        "the mean over the numbers",
        ", 2 * error_TxBxN",
        ", 2 * error_TxBxN / error_TxBxN.shape[-1]",
    ),
]

BERNOULLI = [
    # (H6)
    (
        "the error's sign",
        "jax.nn.sigmoid(logits) - targets",
        "targets - jax.nn.sigmoid(logits)",
    ),
    ("the target forgotten", "jax.nn.sigmoid(logits) - targets", "jax.nn.sigmoid(logits)"),
    ("a softmax", "jax.nn.sigmoid(logits) - targets", "jax.nn.softmax(logits) - targets"),
    ("tanh", "jax.nn.sigmoid(logits) - targets", "jnp.tanh(logits) - targets"),
    (
        "the slope of the sigmoid twice",
        "jax.nn.sigmoid(logits) - targets",
        "(p := jax.nn.sigmoid(logits)) * (1 - p) * (p - targets)",
    ),
]

STACK = [
    # (N1)
    ("the target mask forgotten", "mask_TxB = counted(batch)", "mask_TxB = None"),
    ("the mean a sum", " / jnp.maximum(count, 1).astype(losses_TxB.dtype)", ""),
    # (N2)
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
        "jnp.sum(dy_TxBxV, (0, 1))",
        "0 * jnp.sum(dy_TxBxV, (0, 1))",
    ),
    (
        "the readout's gradient of unmasked outputs",
        "return Read(masked_TxBxH, read, ",
        "return Read(masked_TxBxH, h_TxBxH, ",
    ),
    # (N4)
    (
        "the embedding's rows of the targets",
        "params.embedding, batch.inputs, masks.embedding, de_TxBxE",
        "params.embedding, batch.targets, masks.embedding, de_TxBxE",
    ),
    (
        "the symbols' mask forgotten forward",
        "x = embed(params, batch.inputs, batch.live, masks.embedding)",
        "x = embed(params, batch.inputs, batch.live)",
    ),
    (
        "the symbols' mask forgotten backward",
        "e_TxBxE = e_TxBxE * mask_of_ids(mask_BxV, ids_TxB)[..., None]",
        "pass",
    ),
    # (N3)
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
    (
        "the layers' gradients in another order",
        "dlayers.insert(0, dlayer)",
        "dlayers.append(dlayer)",
    ),
]

# (N2) of a tied readout that has a P, too.
TIED = [
    (
        "the embedding's gradient of what is read alone",
        "dembedding if dtied is None else dembedding + dtied",
        "dembedding",
    ),
    (
        "the embedding's gradient of the readout alone",
        "dembedding if dtied is None else dembedding + dtied",
        "dtied",
    ),
    ("the readout's part with a minus", "else dembedding + dtied", "else dembedding - dtied"),
    ("the readout's part not transposed", "dW.T if tied", "dW.reshape(dW.T.shape) if tied"),
    (
        "E not as it is on the way down",
        "readout_matrix(params).T.astype(dtype)",
        "readout_matrix(params).reshape(dy_TxBxV.shape[-1], -1).astype(dtype)",
    ),
    (
        "dP of outputs that were not dropped",
        "return Read(masked_TxBxH, read, ",
        "return Read(h_TxBxH, read, ",
    ),
]

LOW_RANK = [
    ("the mask forgotten before P", "else masked_TxBxH @ P", "else h_TxBxH @ P"),
    ("P not transposed on the way down", "e_TxBxH @ P.T.as", "e_TxBxH @ P.reshape(P.T.shape).as"),
    (
        "dP without the first step",
        "outer_sum(read.masked.astype(dtype), e_TxBxH)",
        "outer_sum(read.masked[1:].astype(dtype), e_TxBxH[1:])",
    ),
    (
        "dP's sign",
        "dP = outer_sum(read.masked.astype(dtype), e_TxBxH)",
        "dP = -outer_sum(read.masked.astype(dtype), e_TxBxH)",
    ),
    (
        "dP of the error at the outputs",
        "dP = outer_sum(read.masked.astype(dtype), e_TxBxH)",
        "dP = outer_sum(read.masked.astype(dtype), dy_TxBxV[..., : P.shape[1]])",
    ),
    (
        "dW without the last step",
        "outer_sum(read.read.astype(dtype), dy_TxBxV)",
        "outer_sum(read.read[:-1].astype(dtype), dy_TxBxV[:-1])",
    ),
]

# (N1), (N2) over pieces of time.
PIECES = [
    ("the pieces after the first forgotten", "jax.tree.map(jnp.add, total, part), e", "total, e"),
    ("the last piece twice", "total, e_NxLxBxH = lax.scan", "_, e_NxLxBxH = lax.scan"),
    ("each piece a mean of its own", "backward(*piece, count)", "backward(*piece, None)"),
    ("the last piece a mean of its own", "backward(*last, count)", "backward(*last, None)"),
    (
        "the mean over all targets",
        "count = count_targets(batch) if count is None else count",
        "count = jnp.asarray(T * B)",
    ),
    (
        "the errors in another order",
        "[e_NxLxBxH.reshape(-1, B, H), e_last]",
        "[e_last, e_NxLxBxH.reshape(-1, B, H)]",
    ),
    (
        "the pieces' errors backwards",
        "[e_NxLxBxH.reshape(-1, B, H), e_last]",
        "[e_NxLxBxH[::-1].reshape(-1, B, H), e_last]",
    ),
    ("the last error forgotten", ", e_last])", ", 0 * e_last])"),
    (
        "the outputs of another piece",
        "lax.scan(add, total, pieces)",
        "lax.scan(add, total, (pieces[0][::-1], pieces[1]))",
    ),
]

MARKS = [
    ("the resets forgotten", "Marks(resets_TxB, live", "Marks(None, live"),
    ("the lengths forgotten", "live_TxB, masks.zoneout", "None, masks.zoneout"),
    ("zoneout forgotten", "masks.zoneout and masks.zoneout[n]", "None"),
    ("another layer's zoneout", "masks.zoneout and masks.zoneout[n]", "masks.zoneout[0]"),
    ("padding counts", "mask_TxB = counted(batch)", "mask_TxB = batch.mask"),
]

# Both layouts run these loops.
PASSES = [
    # (S1), (T4): resets
    (
        "a reset forgotten forward",
        "before = reset(state, marks.resets, layout)",
        "before = state",
    ),
    (
        "a reset forgotten backward",
        "dbefore = reset(dbefore, marks.resets, layout)  # (T4)",
        "pass",
    ),
    (
        "a reset forgotten in what a step read",
        "return jax.vmap(partial(reset, layout=layout))(before, marks.resets)",
        "return before",
    ),
    (
        "all lanes reset but those that are",
        "jnp.where(layout.spread(resets_B, s), 0, s)",
        "jnp.where(layout.spread(resets_B, s), s, 0)",
    ),
    # the initial state
    (
        "the initial state forgotten",
        "jnp.concatenate([s0[None], s[:-1]])",
        "jnp.concatenate([0 * s0[None], s[:-1]])",
    ),
    (
        "the state of this step for the step before",
        "jnp.concatenate([s0[None], s[:-1]])[:T], start",
        "s, start",
    ),
    ("the scan not reversed", "reverse=True", "reverse=False"),
    # (T1)
    ("what arrives from above forgotten", "e + dstate.h", "dstate.h"),
    (
        "h learns nothing from the next step",
        "e + dstate.h",
        "e",
    ),
    (
        "h and c of the next step swapped",
        "h=e + dstate.h",
        "h=e + dstate.c, c=dstate.h",
    ),
    (
        "what arrives from above forgotten without zoneout",
        "weights, read, kept, dsettled",
        "weights, read, kept, dstate",
    ),
    # (S3), (T2), (T3): zoneout
    ("zoneout: nothing stays forward", "k * old + (1 - k) * new", "(1 - k) * new"),
    ("zoneout: all comes in forward", "k * old + (1 - k) * new", "k * old + new"),
    ("zoneout: the others stay", "k * old + (1 - k) * new", "k * new + (1 - k) * old"),
    (
        "zoneout: what stays is not reset",
        "zone_out(before, after, marks.zoneout)",
        "zone_out(state, after, marks.zoneout)",
    ),
    (
        "zoneout: the settled state for the cell's own",
        "before, states if after is None else after, kept",
        "before, states, kept",
    ),
    (
        "zoneout: the cell's own state for the one before",
        "shift(start, states, marks, layout)",
        "shift(start, after or states, marks, layout)",
    ),
    (
        "zoneout: the cell gets all of the error",
        "dafter = jax.tree.map(jnp.subtract, dsettled, stays)",
        "dafter = dsettled",
    ),
    (
        "zoneout: the cell gets the part that stays",
        "dafter = jax.tree.map(jnp.subtract, dsettled, stays)",
        "dafter = stays",
    ),
    (
        "zoneout: no error past the cell",
        "dbefore = jax.tree.map(jnp.add, dbefore, stays)",
        "pass",
    ),
    (
        "zoneout: the error past the cell with a minus",
        "dbefore = jax.tree.map(jnp.add, dbefore, stays)",
        "dbefore = jax.tree.map(jnp.subtract, dbefore, stays)",
    ),
    (
        "zoneout: no error from above past the cell",
        "jax.tree.map(jnp.multiply, marks.zoneout, dsettled)",
        "jax.tree.map(jnp.multiply, marks.zoneout, dstate)",
    ),
    (
        "zoneout: the share of h for c",
        "jax.tree.map(jnp.multiply, marks.zoneout, dsettled)",
        "jax.tree.map(lambda d: marks.zoneout.h * d, dsettled)",
    ),
    (
        "zoneout: another step's share",
        "marked = enter_marks(marks, x.shape[0], layout)",
        "marked = enter_marks(marks, x.shape[0], layout)\n"
        "    marked = marked._replace(zoneout=jax.tree.map(jnp.flip, marked.zoneout))",
    ),
    # lengths
    (
        "lengths: the state moves on",
        "after if marks.live is None else layout.choose(marks.live, after, state)",
        "after",
    ),
    (
        "lengths: the state is reset",
        "layout.choose(marks.live, after, state)",
        "layout.choose(marks.live, after, before)",
    ),
    (
        "lengths: the error goes through the cell",
        "dbefore = layout.choose(marks.live, dbefore, dstate)",
        "pass",
    ),
    (
        "lengths: the error stops",
        "layout.choose(marks.live, dbefore, dstate)",
        "layout.choose(marks.live, dbefore, 0)",
    ),
    (
        "lengths: the error is reset",
        "layout.choose(marks.live, dbefore, dstate)",
        "layout.choose(marks.live, dbefore, reset(dstate, marks.resets, layout))",
    ),
    ("lengths: padding has a dz", "dz = layout.choose(marks.live, dz, 0)", "pass"),
    (
        "lengths: only padding has a dz",
        "dz = layout.choose(marks.live, dz, 0)",
        "dz = layout.choose(~marks.live, dz, 0)",
    ),
]

PROJECTION = [
    # dW and dx of `x W + b`
    (
        "dW without the first step",
        "outer_sum(masked_TxBxD, dz_TxBxN), dx",
        "outer_sum(masked_TxBxD[1:], dz_TxBxN[1:]), dx",
    ),
    ("dW of inputs that were not dropped", "outer_sum(masked_TxBxD, dz", "outer_sum(x, dz"),
    ("a mask forgotten on the way down", "dx_TxBxD = dx_TxBxD * mask_BxD[None]", "pass"),
    (
        "W not transposed on the way down",
        "dx_TxBxD = dz_TxBxN @ W_DxN.T",
        "dx_TxBxD = dz_TxBxN @ W_DxN.reshape(W_DxN.shape[::-1])",
    ),
    (
        "ids: the mask forgotten",
        "dz_TxBxN = dz_TxBxN * mask_of_ids(mask_BxD, x)[..., None]",
        "pass",
    ),
    ("ids: rows overwritten instead of added", "zeros.at[ids_TxB].add(", "zeros.at[ids_TxB].set("),
]

LSTM_GATES = [
    # (B1)
    ("no error along the cell", "(1 - tanh_c * tanh_c) + dc ", "(1 - tanh_c * tanh_c) "),
    ("the cell's error doubled", "+ dc  # (B1)", "+ 2 * dc  # (B1)"),
    (
        "the cell's slope with a plus",
        "dh * o * (1 - tanh_c * tanh_c)",
        "dh * o * (1 + tanh_c * tanh_c)",
    ),
    ("the cell's slope forgotten", "dh * o * (1 - tanh_c * tanh_c)", "dh * o"),
    ("the slope of c instead of tanh c", "dh * o * (1 - tanh_c * tanh_c)", "dh * o * (1 - c * c)"),
    ("the output gate forgotten on the way to c", "dh * o * (1 -", "dh * (1 -"),
    ("the input gate instead of the output gate", "dh * o * (1 -", "dh * i * (1 -"),
    # (B2)
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
    # (B3), of c
    ("the cell not forgotten", "return dz, dc * f", "return dz, dc"),
    ("the input gate instead of the forget gate", "return dz, dc * f", "return dz, dc * i"),
    ("h's error handed to the cell before", "return dz, dc * f", "return dz, dh * f"),
]

LSTM = [
    # (B3), of h
    (
        "no error through the recurrent weights",
        "jnp.zeros_like(dc_BxH) if U_GxH is None else dz_BxG @ U_GxH",
        "jnp.zeros_like(dc_BxH)",
    ),
    ("the recurrent error's sign", "else dz_BxG @ U_GxH", "else -dz_BxG @ U_GxH"),
    ("the recurrent weights in another order", "else dz_BxG @ U_GxH", "else dz_BxG @ U_GxH[::-1]"),
    (
        "the recurrent weights not transposed",
        "lax.optimization_barrier(params.U.T)",
        "lax.optimization_barrier(params.U.reshape(params.U.shape[::-1]))",
    ),
    # (B4)
    ("dU of this step's h", "outer_sum(before.h, dz_TxBxG)", "outer_sum(after.h, dz_TxBxG)"),
    ("dU of the cell", "outer_sum(before.h, dz", "outer_sum(before.c, dz"),
    (
        "dU without the first step",
        "outer_sum(before.h, dz_TxBxG)",
        "outer_sum(before.h[1:], dz_TxBxG[1:])",
    ),
    ("db without the last step", "jnp.sum(dz_TxBxG, (0, 1)))", "jnp.sum(dz_TxBxG[:-1], (0, 1)))"),
    ("db without the first step", "jnp.sum(dz_TxBxG, (0, 1)))", "jnp.sum(dz_TxBxG[1:], (0, 1)))"),
]

# What the columns do in their own way; `lstm_gates` is also the rows' and has its mutants above.
LSTM_COLUMNS = [
    # (F1), (F2)
    ("the sigmoid without its half", "0.5 * jnp.tanh(0.5 * z) + 0.5", "0.5 * jnp.tanh(z) + 0.5"),
    (
        "input and forget gate swapped",
        "i=sigmoid(z.i), f=sigmoid(z.f)",
        "i=sigmoid(z.f), f=sigmoid(z.i)",
    ),
    ("the candidate a sigmoid", "g=jnp.tanh(z.g)", "g=sigmoid(z.g)"),
    ("ids: the bias forgotten", "+ picked_HxB + b_Hx1", "+ picked_HxB"),
    ("ids: the mask forgotten forward", "picked_HxB = picked_HxB * drop_B[None]", "pass"),
    ("the input below h", "jnp.concatenate([x_DxB, h_HxB])", "jnp.concatenate([h_HxB, x_DxB])"),
    ("a mask forgotten forward", "return x * mask_BxD.T[None], None", "return x, None"),
    # (B3)
    (
        "dx for dh",
        "dx_DxB, dh_HxB = both[:D], both[D:]",
        "dx_DxB, dh_HxB = both[:D], both[: len(dc_HxB)]",
    ),
    (
        "a gate left out of the error",
        "zip(weights, dz, strict=True))",
        "list(zip(weights, dz))[1:])",
    ),
    # (B4)
    ("dU of the cell", "outer_sum(before.h, dz)", "outer_sum(before.c, dz)"),
    ("dU of the cell beside vectors", "[read_TxDxB, before.h]", "[read_TxDxB, before.c]"),
    (
        "dU and dW without the last step",
        "outer_sum(both_TxDHxB, dz)",
        "outer_sum(both_TxDHxB[:-1], Gates(*(d[:-1] for d in dz)))",
    ),
    ("db without the first step", "jnp.sum(dz_TxHxB, (0, 2))", "jnp.sum(dz_TxHxB[1:], (0, 2))"),
    # (B5)
    ("ids: the mask forgotten backward", "mask_of_ids(mask_BxD, x)[..., None]", "1"),
    (
        "dW of inputs that were not dropped",
        "read_TxDxB, _ = prepare(params, x, mask_BxD)",
        "read_TxDxB = x",
    ),
    ("a mask forgotten on the way down", "dx_TxDxB = dx_TxDxB * mask_BxD.T[None]", "pass"),
    (
        "the input's weights forgotten",
        "jnp.concatenate([params.W, U_HxG])",
        "jnp.concatenate([0 * params.W, U_HxG])",
    ),
]

GRU = [
    # (F1) to (F3)
    (
        "the update gate the other way forward",
        "(1 - z) * n + z * before.h",
        "z * n + (1 - z) * before.h",
    ),
    (
        "the candidate's bias outside the reset",
        "q = s_n + params.b_n[None]",
        "q = s_n + params.b_n[None] / r",
    ),
    ("reset and update gate swapped forward", "a_r, a_z, a_n = ", "a_z, a_r, a_n = "),
    # (B1), of the candidate
    ("n: the update gate forgotten", "d.h * (1 - z) * (1 - n * n)", "d.h * (1 - n * n)"),
    ("n: the update gate the other way", "d.h * (1 - z) * (1 - n", "d.h * z * (1 - n"),
    ("n: the slope forgotten", "d.h * (1 - z) * (1 - n * n)", "d.h * (1 - z)"),
    ("n: the slope with a plus", "(1 - z) * (1 - n * n)", "(1 - z) * (1 + n * n)"),
    ("n: the slope of the sigmoid", "(1 - z) * (1 - n * n)", "(1 - z) * n * (1 - n)"),
    ("n: tanh taken twice", "(1 - z) * (1 - n * n)", "(1 - z) * (1 - jnp.tanh(n) ** 2)"),
    # of the update gate
    ("z: the sign", "(h_before - n) * z", "(n - h_before) * z"),
    ("z: the state before forgotten", "(h_before - n) * z", "-n * z"),
    ("z: the candidate forgotten", "(h_before - n) * z", "h_before * z"),
    ("z: the slope of tanh", "- n) * z * (1 - z)", "- n) * (1 - z * z)"),
    ("z: the slope forgotten", "(h_before - n) * z * (1 - z)", "(h_before - n)"),
    ("z: this step's h", "lambda before, after: before.h", "lambda before, after: after.h"),
    # of the reset gate
    ("r: what it resets forgotten", "da_n * q * r * (1 - r)", "da_n * r * (1 - r)"),
    ("r: the candidate", "da_n * q * r * (1 - r)", "da_n * n * r * (1 - r)"),
    ("r: the state before", "da_n * q * r * (1 - r)", "da_n * h_before * r * (1 - r)"),
    ("r: the slope forgotten", "da_n * q * r * (1 - r)", "da_n * q"),
    ("r: the slope with a plus", "da_n * q * r * (1 - r)", "da_n * q * r * (1 + r)"),
    ("r: the update gate's slope", "da_n * q * r * (1 - r)", "da_n * q * z * (1 - z)"),
    ("r: from h's error", "da_n * q * r * (1 - r)", "d.h * q * r * (1 - r)"),
    # v
    ("v: the reset forgotten", "[da_r, da_z, r * da_n]", "[da_r, da_z, da_n]"),
    ("v: the update gate", "[da_r, da_z, r * da_n]", "[da_r, da_z, z * da_n]"),
    ("v: reset and update gate swapped", "[da_r, da_z, r * da_n]", "[da_z, da_r, r * da_n]"),
    (
        "v for da",
        "return dbefore, jnp.concatenate([da_r, da_z, da_n], axis=-1)",
        "return dbefore, v_Bx3H",
    ),
    ("reset and update gate swapped", "r, z, n, q = kept", "z, r, n, q = kept"),
    # (B2)
    ("no error past the gates", "z * d.h + v_Bx3H @ U_3HxH", "v_Bx3H @ U_3HxH"),
    ("all of the error past the gates", "z * d.h + v_Bx3H", "d.h + v_Bx3H"),
    ("past the gates the other share", "z * d.h + v_Bx3H", "(1 - z) * d.h + v_Bx3H"),
    ("no error through the recurrent weights", "z * d.h + v_Bx3H @ U_3HxH", "z * d.h"),
    ("the recurrent error's sign", "z * d.h + v_Bx3H", "z * d.h - v_Bx3H"),
    (
        "the recurrent weights not transposed",
        "lax.optimization_barrier(params.U.T)",
        "lax.optimization_barrier(params.U.reshape(params.U.shape[::-1]))",
    ),
    # (B3)
    ("dU of da", "outer_sum(before.h, v_TxBx3H)", "outer_sum(before.h, da_TxBx3H)"),
    ("dU of this step's h", "outer_sum(before.h, v", "outer_sum(after.h, v"),
    (
        "dU without the first step",
        "outer_sum(before.h, v_TxBx3H)",
        "outer_sum(before.h[1:], v_TxBx3H[1:])",
    ),
    ("db of v", "b=jnp.sum(da_TxBx3H, (0, 1))", "b=jnp.sum(v_TxBx3H, (0, 1))"),
    ("db without the last step", "b=jnp.sum(da_TxBx3H, ", "b=jnp.sum(da_TxBx3H[:-1], "),
    ("db_n without the reset", "b_n=jnp.sum(reset_TxBxH, ", "b_n=jnp.sum(da_n, "),
    ("db_n without the first step", "b_n=jnp.sum(reset_TxBxH, ", "b_n=jnp.sum(reset_TxBxH[1:], "),
    ("db_n and dU by the update gate", "kept.r * da_n", "kept.z * da_n"),
    # (B4)
    (
        "dW and dx of v",
        "project_backward(params.W, x, mask_BxD, da_TxBx3H)",
        "project_backward(params.W, x, mask_BxD, v_TxBx3H)",
    ),
    (
        "dW and dx without the mask",
        "project_backward(params.W, x, mask_BxD, da",
        "project_backward(params.W, x, None, da",
    ),
]

ELMAN = [
    # (B1), (B2)
    ("the slope of the sigmoid", "d.h * (1 - h_BxH * h_BxH)", "d.h * h_BxH * (1 - h_BxH)"),
    ("no error through the recurrent weights", "else da_BxH @ U_HxH", "else 0 * da_BxH"),
    ("the recurrent weights not transposed", "(params.U.T)", "(params.U)"),
    # (B1), (B3), (B4)
    ("the state before", "lambda before, after: after.h", "lambda before, after: before.h"),
    ("dU of this step's h", "outer_sum(before.h, da", "outer_sum(after.h, da"),
    ("dW and dx without the mask", "x, mask_BxD, da_TxBxH)", "x, None, da_TxBxH)"),
]

PEEPHOLE = [
    # (F2), (F4)
    ("the output gate sees the cell before", 'look("o", c)', 'look("o", before.c)'),
    ("the input gate sees h", 'look("i", before.c)', 'look("i", before.h)'),
    # (B1)
    ("o: the cell without tanh", 'enter("o", d.h * squashed)', 'enter("o", d.h * c)'),
    ("o: from the cell's error", 'enter("o", d.h * squashed)', 'enter("o", d.c * squashed)'),
    ("no error along the cell", "d.c + d.h * o * slope", "d.h * o * slope"),
    ("the cell's error doubled", "d.c + d.h * o * slope", "2 * d.c + d.h * o * slope"),
    ("no error from h to the cell", "d.c + d.h * o * slope", "d.c"),
    ("the output gate forgotten on the way to c", "d.h * o * slope", "d.h * slope"),
    ("the cell's slope forgotten", "d.h * o * slope", "d.h * o"),
    ("the cell's slope with a plus", "1 - squashed * squashed", "1 + squashed * squashed"),
    ("no error through the output gate's peephole", ' + through_peepholes("o")', ""),
    (
        "the sign of the output gate's peephole",
        ' + through_peepholes("o")',
        ' - through_peepholes("o")',
    ),
    (
        "the forget gate's peephole for the output gate's",
        ' + through_peepholes("o")',
        ' + dz["o"] * weights.p["f"][None]',
    ),
    (
        "all of h's error through the output gate's peephole",
        ' + through_peepholes("o")',
        ' + d.h * weights.p["o"][None]',
    ),
    # (B1), (B2)
    (
        "the gates' slope forgotten",
        "= dgate * kept[name] * (1 - kept[name])",
        "= dgate",
    ),
    (
        "the gates' slope of tanh",
        "dgate * kept[name] * (1 - kept[name])",
        "dgate * (1 - kept[name] * kept[name])",
    ),
    # (B2)
    ("i: the candidate forgotten", 'enter("i", dc * g)', 'enter("i", dc)'),
    ("i: from the next step alone", 'enter("i", dc * g)', 'enter("i", d.c * g)'),
    ("f: this step's cell", "parts.coupled else c_before", "parts.coupled else c"),
    ("f: tanh of the cell before", "coupled else c_before", "coupled else jnp.tanh(c_before)"),
    ("f: from h's error", 'enter("f", dc * (', 'enter("f", d.h * ('),
    ("g: the input gate forgotten", 'dz["g"] = dc * i * (', 'dz["g"] = dc * ('),
    ("g: the slope of the sigmoid", "(1 - g * g if", "(g * (1 - g) if"),
    ("g: the forget gate", 'dz["g"] = dc * i * (', 'dz["g"] = dc * f * ('),
    ("input and forget gate swapped", "i, f, g, o = opened", "f, i, g, o = opened"),
    (
        "the errors of input and forget gate swapped",
        "dz_BxG = join(parts.blocks, dz)",
        'dz_BxG = join("figo", dz)',
    ),
    ("the two cell states swapped", "(before.c, after.c)", "(after.c, before.c)"),
    # (B3)
    ("no error through the recurrent weights", "dz_BxG @ weights.U_GxH", "0 * d.h"),
    ("the recurrent error's sign", "dz_BxG @ weights.U_GxH", "-dz_BxG @ weights.U_GxH"),
    (
        "the recurrent weights not transposed",
        "lax.optimization_barrier(params.U.T)",
        "lax.optimization_barrier(params.U.reshape(params.U.shape[::-1]))",
    ),
    ("the cell not forgotten", '"c": f * dc', '"c": dc'),
    ("the input gate instead of the forget gate", '"c": f * dc', '"c": i * dc'),
    ("the next step's error alone", '"c": f * dc', '"c": f * d.c'),
    ("no error through the input gate's peephole", 'peepholes("if")', 'peepholes("f")'),
    ("no error through the forget gate's peephole", 'peepholes("if")', 'peepholes("i")'),
    (
        "the sign of the two gates' peepholes",
        '+ through_peepholes("if")',
        '- through_peepholes("if")',
    ),
    (
        "the two peepholes swapped",
        "peepholes(params), R)",
        "peepholes(params._replace(p_i=params.p_f, p_f=params.p_i)), R)",
    ),
    # (B4)
    ("dU of this step's h", "outer_sum(before.h, dz", "outer_sum(after.h, dz"),
    ("dU of the cell", "outer_sum(before.h, dz", "outer_sum(before.c, dz"),
    ("db without the last step", "jnp.sum(dz_TxBxG, ", "jnp.sum(dz_TxBxG[:-1], "),
    ("dp_i of this step's cell", '{"i": before.c', '{"i": after.c'),
    ("dp_i of h", '{"i": before.c', '{"i": before.h'),
    ("dp_f of this step's cell", '"f": before.c', '"f": after.c'),
    ("dp_f's sign", '"f": before.c', '"f": -before.c'),
    ("dp_o of the cell before", '"o": after.c', '"o": before.c'),
    ("dp_o of tanh c", '"o": after.c', '"o": jnp.tanh(after.c)'),
    (
        "dp without the first step",
        "jnp.sum(dz[gate] * seen[gate], ",
        "jnp.sum((dz[gate] * seen[gate])[1:], ",
    ),
    (
        "dp_i and dp_f swapped",
        "jnp.sum(dz[gate] * seen[gate], ",
        'jnp.sum(dz[{"i": "f", "f": "i", "o": "o"}[gate]] * seen[gate], ',
    ),
    # (B5)
    (
        "dW and dx without the mask",
        "project_backward(params.W, x, mask_BxD, dz",
        "project_backward(params.W, x, None, dz",
    ),
]

# What the variants change: (V1) to (V3) by their cells' tests, the others here.
NO_INPUT_ACTIVATION = [("g: the slope of tanh", "if parts.input_activation else 1)", ")")]

NO_OUTPUT_ACTIVATION = [
    ("the cell's slope of tanh", "squashed * squashed if parts.output_activation else 1", "c * c")
]

COUPLED = [
    ("f: what it leaves to g forgotten", "(c_before - g if", "(c_before if"),
    ("f: what it leaves to g added", "(c_before - g if", "(c_before + g if"),
]

GATE_RECURRENCE = [
    ("no error from the next step's gates", "dgate + getattr(d, name)", "dgate"),
    (
        "the gates' weights not transposed",
        "lax.optimization_barrier(params.R.T)",
        "lax.optimization_barrier(params.R)",
    ),
    ("the gates swapped", "split(parts.gates, join(parts", 'split("fio", join(parts'),
    (
        "dR of this step's gates",
        "join(parts.gates, before._asdict()), join",
        "join(parts.gates, after._asdict()), join",
    ),
]

SIGMOID_SQUARED = [
    # (H8)
    ("the slope of the sigmoid forgotten", "error_TxBxN * p_TxBxN * (1 - p_TxBxN)", "error_TxBxN"),
    (
        "the slope of the whole square",
        "error_TxBxN * p_TxBxN * (1",
        "2 * error_TxBxN * p_TxBxN * (1",
    ),
    ("the error's sign", "error_TxBxN * p_TxBxN * (1", "-error_TxBxN * p_TxBxN * (1"),
    ("the target forgotten", "error_TxBxN = p_TxBxN - targets", "error_TxBxN = p_TxBxN"),
]


MEMORY_BLOCKS = [
    # (B1)
    (
        "no error from h to the cell",
        "ds = d.s + d.h * to_cells(o, C) * (1 - q * q) / 2",
        "ds = d.s",
    ),
    ("the output gate forgotten on the way to s", "d.h * to_cells(o, C) * (1", "d.h * (1"),
    ("h: the slope of tanh", "(1 - q * q) / 2", "(1 - q * q)"),
    ("i: the next step's share forgotten", "d.i + over_cells", "over_cells"),
    ("o: the next step's share forgotten", "d.o + over_cells", "over_cells"),
    ("o: the cell without h", "over_cells(d.h * q, N)", "over_cells(d.h * s, N)"),
    # (B2)
    ("g: the slope of h", "(4 - g * g) / 4", "(1 - g * g) / 2"),
    ("the errors of the gates swapped", "[dz_i, dz_o, dz_g]", "[dz_o, dz_i, dz_g]"),
    ("the state before", "(after.s, after.i, after.o)", "(before.s, after.i, after.o)"),
    # (B3)
    (
        "no error through the cells' weights",
        "MemoryBlockState(dz_BxG @ U_GxC, ds",
        "MemoryBlockState(0 * d.h, ds",
    ),
    # the blocks
    (
        "the cells of other blocks summed",
        "d_BxC.reshape(B, N, C // N), axis=-1",
        "d_BxC.reshape(B, C // N, N), axis=-2",
    ),
    # (B4), (B5)
    (
        "dU_gates in another order",
        "[before.i, before.o], axis=-1)\n    dparams",
        "[before.o, before.i], axis=-1)\n    dparams",
    ),
    (
        "g in [-1, 1] forward",
        "4 * jax.nn.sigmoid(z_BxG[:, 2 * N :]) - 2",
        "2 * jax.nn.sigmoid(z_BxG[:, 2 * N :]) - 1",
    ),
    (
        "input and output gates swapped forward",
        "    i, o = jnp.split(jax",
        "    o, i = jnp.split(jax",
    ),
    ("no error along the cell", "ds = d.s + d.h * to", "ds = d.h * to"),
    ("i: one step's error alone", "over_cells(ds * g, N)", "over_cells(d.h * g, N)"),
    ("i: the cell for what it takes in", "over_cells(ds * g, N)", "over_cells(ds * s, N)"),
    ("i: the slope forgotten", "di * i * (1 - i)", "di"),
    ("o: the slope of tanh", "do * o * (1 - o)", "do * (1 - o * o)"),
    ("g: the input gate forgotten", "ds * to_cells(i, C) * (4", "ds * (4"),
    ("g: the output gate", "ds * to_cells(i, C) * (4", "ds * to_cells(o, C) * (4"),
    ("the gates swapped", "s, i, o = read", "s, o, i = read"),
    ("the gates before", "(after.s, after.i, after.o)", "(after.s, before.i, before.o)"),
    ("the gates' shares swapped", "    di, do = jnp.split(dz_BxG", "    do, di = jnp.split(dz_BxG"),
    ("the next step's error alone", "U_GxC, ds, di, do)", "U_GxC, d.s, di, do)"),
    (
        "the weights not transposed",
        "(params.U.T, params.U_gates.T)",
        "(params.U.reshape(params.U.shape[::-1]), params.U_gates.T)",
    ),
    ("dU of this step's h", "outer_sum(before.h, dz", "outer_sum(after.h, dz"),
    ("dU of the cells' states", "outer_sum(before.h, dz", "outer_sum(before.s, dz"),
    (
        "dU_gates of this step's",
        "[before.i, before.o], axis=-1)\n    dparams",
        "[after.i, after.o], axis=-1)\n    dparams",
    ),
    ("db without the last step", "b=jnp.sum(dz_TxBxG, ", "b=jnp.sum(dz_TxBxG[:-1], "),
    (
        "dW and dx without the mask",
        "project_backward(params.W, x, mask_BxD, dz",
        "project_backward(params.W, x, None, dz",
    ),
]


FORGETTING_BLOCKS = [
    # (B1)
    (
        "no error from h to the cell",
        "ds = d.s + d.h * to_cells(o, C) * (1 - q * q) / 2",
        "ds = d.s",
    ),
    ("no error along the cell", "ds = d.s + d.h * to", "ds = d.h * to"),
    ("h: the slope of tanh", "(1 - q * q) / 2", "(1 - q * q)"),
    # (B2)
    ("f: this step's state", "over_cells(ds * s_before, N)", "over_cells(ds * s, N)"),
    ("f: one step's error alone", "over_cells(ds * s_before, N)", "over_cells(d.h * s_before, N)"),
    ("f: the slope forgotten", "s_before, N) * f * (1 - f)", "s_before, N)"),
    ("i: what it lets in forgotten", "over_cells(ds * g, N)", "over_cells(ds, N)"),
    ("o: the cell without h", "over_cells(d.h * q, N)", "over_cells(d.h * s, N)"),
    ("g: the slope of h", "(4 - g * g) / 4", "(1 - g * g) / 2"),
    ("g: the forget gate", "dz_g = ds * to_cells(i, C)", "dz_g = ds * to_cells(f, C)"),
    ("the errors of two gates swapped", "[dz_i, dz_f, dz_o", "[dz_f, dz_i, dz_o"),
    ("the two states swapped", "(before.s, after.s)", "(after.s, before.s)"),
    # (B3)
    ("no error through the recurrent weights", "else dz_BxG @ U_GxC", "else 0 * d.h"),
    ("the cell not forgotten", "to_cells(f, C) * ds)", "ds)"),
    ("the next step's error alone", "to_cells(f, C) * ds)", "to_cells(f, C) * d.s)"),
    ("the input gate instead of the forget gate", "to_cells(f, C) * ds)", "to_cells(i, C) * ds)"),
    # (B4), (B5)
    ("dU of this step's h", "outer_sum(before.h, dz", "outer_sum(after.h, dz"),
    ("db without the last step", "jnp.sum(dz_TxBxG, ", "jnp.sum(dz_TxBxG[:-1], "),
    (
        "dW and dx without the mask",
        "project_backward(params.W, x, mask_BxD, dz",
        "project_backward(params.W, x, None, dz",
    ),
]


CAROUSEL = [
    # (B1), (B2)
    ("no error along the cell", "ds = d.s + d.h[:, :C]", "ds = d.h[:, :C]"),
    ("i: what it lets in forgotten", "ds * g * i * (1 - i)", "ds * i * (1 - i)"),
    # (B3), (B4)
    ("no error through the direct links", "dx_TxBxD + (d.x if", "dx_TxBxD + 0 * (d.x if"),
    ("no gate forward", "before.s + i * g", "before.s + g"),
    ("the state before put out", "[s, prepared.x]", "[before.s, prepared.x]"),
    ("no error from h to the cell", "ds = d.s + d.h[:, :C]", "ds = d.s"),
    ("g: the gate forgotten", "ds * i * g * (1 - g)", "ds * g * (1 - g)"),
    ("g: the slope of tanh", "ds * i * g * (1 - g)", "ds * i * (1 - g * g)"),
    ("gate and cell swapped", "i, g = kept", "g, i = kept"),
    (
        "h arrives at the step before",
        "CarouselState(jnp.zeros_like(d.h), ds)",
        "CarouselState(d.h, ds)",
    ),
    ("the direct links without the mask", "else d.x * mask_BxD[None])", "else d.x)"),
    (
        "dW without the mask",
        "project_backward(params.W, x, mask_BxD, d.z)",
        "project_backward(params.W, x, None, d.z)",
    ),
    ("db without the first step", "jnp.sum(d.z, (0, 1))", "jnp.sum(d.z[1:], (0, 1))"),
]


def make_case(model: dict, **others: object) -> Case:
    """A small case with every complication, besides those that are asked for."""
    sizes = {} if "hidden_sizes" in model else {"hidden_size": 4}
    config = ModelConfig(dropout=0.25, input_dropout=0.25, **sizes, **model)
    return Case(config, T=5, B=3, masked=True, resets=True, carry=True, **others)


# Ids read as rows of W by two layers, then an embedding, three layers and skips.
STACKS = [
    make_case({"num_layers": 2}),
    make_case(
        {"num_layers": 3, "skip": "weighted", "embedding_size": 11, "embedding_dropout": 0.25}
    ),
]
ONE_LAYER = [make_case({"embedding_size": 3})]
# The first layer reads ids and the second one h, so that each masks what it reads.
IDS = STACKS[:1]
ZONEOUT = {"zoneout_cell": 0.3, "zoneout_hidden": 0.3}
# The seed resets some lane at the step that `interrupted` takes away.
LENGTHS = [make_case(ZONEOUT, lengths=True, seed=2), make_case({})]
# Of a sequence of five steps: two, two, one.
PIECEWISE = [make_case({"readout": "tied", "embedding_size": 3}, read_out_steps=2)]
STACKED_LENGTHS = [make_case(ZONEOUT | {"num_layers": 2}, lengths=True, seed=2)]


class Group(NamedTuple):
    """Mutants of one module, and the cases that kill them."""

    broken: ModuleType
    mutants: list[tuple[str, str, str]]
    cases: list[Case]
    layouts: tuple[Layout, ...] = (ROWS,)


GROUPS = {
    "softmax": Group(heads, SOFTMAX, ONE_LAYER),
    "squared": Group(heads, SQUARED, [make_case({}, head="squared")]),
    "bernoulli": Group(heads, BERNOULLI, [make_case({}, head="bernoulli")]),
    "stack": Group(bptt, STACK, STACKS),
    "tied readout": Group(bptt, TIED, [make_case({"readout": "tied", "embedding_size": 3})]),
    "low-rank readout": Group(bptt, LOW_RANK, [make_case({"readout_rank": 3})]),
    "pieces": Group(bptt, PIECES, PIECEWISE),
    "marks": Group(bptt, MARKS, STACKED_LENGTHS),
    "passes": Group(passes, PASSES, LENGTHS, (ROWS, COLUMNS)),
    "projection": Group(projection, PROJECTION, IDS),
    "gates": Group(lstm_gates, LSTM_GATES, ONE_LAYER),
    "lstm": Group(lstm, LSTM, ONE_LAYER),
    "lstm columns": Group(lstm_columns, LSTM_COLUMNS, STACKS, (COLUMNS,)),
    **{
        cell: Group(module, mutants, [make_case({"embedding_size": 3, "cell": cell})])
        for cell, module, mutants in (
            ("gru", gru, GRU),
            ("elman", elman, ELMAN),
            ("peephole", vanilla, PEEPHOLE),
            ("full_gate_recurrence", vanilla, GATE_RECURRENCE),
            ("no_input_activation", vanilla, NO_INPUT_ACTIVATION),
            ("no_output_activation", vanilla, NO_OUTPUT_ACTIVATION),
            ("coupled_peephole", vanilla, COUPLED),
        )
    },
    "sigmoid squared": Group(
        heads,
        SIGMOID_SQUARED,
        [make_case({}, head="sigmoid_squared")],
    ),
    "memory blocks": Group(
        memory_blocks,
        MEMORY_BLOCKS,
        [make_case({"embedding_size": 3, "cell": "memory_blocks", "block_size": 2})],
    ),
    "forgetting blocks": Group(
        forgetting_blocks,
        FORGETTING_BLOCKS,
        [make_case({"embedding_size": 3, "cell": "forgetting_blocks", "block_size": 2})],
    ),
    "carousel": Group(
        carousel,
        CAROUSEL,
        [make_case({"embedding_size": 3, "cell": "carousel", "hidden_sizes": (5,)})],
    ),
}
# Every third of them, and with `-m long` all.
MUTANTS = [
    pytest.param(
        *(group, layout, old, new),
        id=f"{name}, {layout.name}: {what}",
        marks=pytest.mark.long if n % 3 else (),
    )
    for name, group in GROUPS.items()
    for layout in group.layouts
    for n, (what, old, new) in enumerate(group.mutants)
]

# Some of them, and with `-m long` all.
IN_MIXED_PRECISION = [
    pytest.param(*mutant.values, id=mutant.id, marks=() if n % 40 == 0 else pytest.mark.long)
    for n, mutant in enumerate(MUTANTS)
]

VARIANT = Case(ModelConfig(hidden_size=4, num_layers=2, cell="coupled"), T=5, B=3)

INTERRUPTED = 2  # a step


@cache  # one function for each gradient, so that its programs are found again
def interrupted(gradient: GradFn) -> GradFn:
    """The gradient where a step inside the sequence is not live, either.

    Nothing that a lane does after its length counts, so nothing wrong would be seen there.
    """

    def value_and_grad(params, carry, batch, masks, **options):
        batch = batch._replace(live=batch.live.at[INTERRUPTED].set(False))
        return gradient(params, carry, batch, masks, **options)

    return value_and_grad


def fails(
    cases: list[Case], suspects: Suspects, truncated: bool = False, mixed: bool = False
) -> bool:
    """Whether the verification finds a difference on any of the cases; `mixed`: between two
    gradients in mixed precision, by its bound."""
    options = {"truncated": truncated, "bfloat16": mixed, "float32": False, "optimized": False}
    return any(
        not row.passed
        for case in cases
        for row in verify_case(
            case,
            Suspects(*map(interrupted, suspects)) if case.lengths else suspects,
            directions=0,
            **options,
        )
        if row.kind == MIXED or not mixed
    )


def suspect(layout: Layout, gradient: GradFn) -> Suspects:
    """The gradient in the place of the one in its layout."""
    return Suspects()._replace(**{layout.name: gradient})


@pytest.fixture(scope="module")
def tally(request):
    """Prints how many mutants were killed."""
    outcomes = []
    yield outcomes
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\nmutants of the hand backward killed: {sum(outcomes)}/{len(outcomes)}")


@pytest.mark.parametrize("mixed", [False, True])
def test_the_gradients_as_they_are_pass(mixed):
    assert not fails(STACKS, Suspects(), truncated=not mixed, mixed=mixed)


@pytest.mark.parametrize("name", GROUPS)
def test_a_copy_in_which_nothing_is_broken_passes(name):
    """So what kills a mutant is its mutation, not that it is a copy."""
    group = GROUPS[name]
    same = group.mutants[0][1]
    for layout in group.layouts:
        copy = mutate(layout, group.broken, same, same)
        assert not fails(group.cases, suspect(layout, copy))


@pytest.mark.parametrize("group, layout, old, new", MUTANTS)
def test_a_broken_backward_is_caught(group, layout, old, new, tally):
    killed = fails(group.cases, suspect(layout, mutate(layout, group.broken, old, new)))
    tally.append(killed)
    assert killed


@pytest.mark.parametrize("group, layout, old, new", IN_MIXED_PRECISION)
def test_a_broken_backward_is_caught_in_mixed_precision(group, layout, old, new):
    mutant = mutate(layout, group.broken, old, new)
    assert fails(group.cases, suspect(layout, mutant), mixed=True)


@pytest.mark.parametrize("case", [LENGTHS[0], *STACKED_LENGTHS], ids=["one layer", "stack"])
def test_the_interrupted_step_is_one_of_some_lanes_that_are_reset(case):
    batch = make_problem(case).batch
    resets_B = batch.resets[INTERRUPTED] & batch.live[INTERRUPTED + 1]
    assert resets_B.any() and (batch.live[INTERRUPTED + 1] & ~resets_B).any()
    assert not batch.live.all()


def test_a_gradient_that_is_not_finite_is_caught():
    """Also where the true gradient is zero, and NaN would be lost in a maximum."""
    mutant = mutate(ROWS, lstm, "return LSTMParams(dW, dU,", "return LSTMParams(dW, dU * jnp.nan,")
    suspects = Suspects(rows=mutant)
    assert fails(STACKS, suspects)
    still = Case(ModelConfig(hidden_size=4), T=1, B=1)  # dU is zero
    rows = verify_case(still, suspects, truncated=False, float32=False, optimized=False)
    assert {row.pair for row in rows if not row.passed} == {
        "autodiff ~ bptt rows",
        "bptt rows ~ bptt columns",
        "bptt rows ~ reference",
        "bptt rows ~ differences",
    }


def test_a_truncated_rule_that_is_not_truncated_is_caught():
    old = "None if truncated else lax.optimization_barrier(params.U.T)"
    whole = partial(
        mutate(ROWS, lstm, old, old.removeprefix("None if truncated else ")), truncated=True
    )
    assert fails(STACKS, Suspects(truncated_rows=whole), truncated=True)
    old, new = "jnp.zeros_like(params.U) if truncated else params.U", "params.U"
    whole = partial(mutate(COLUMNS, lstm_columns, old, new), truncated=True)
    assert fails(STACKS, Suspects(truncated_columns=whole), truncated=True)


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
    def wrong(*problem, head):
        found, grads = GRADIENTS["autodiff"](head)(*problem)
        first, second = grads.layers
        return found, grads._replace(layers=(first._replace(U=change(first.U)), second))

    rows = verify_case(VARIANT, Suspects(autodiff=wrong))
    assert [row.leaf for row in rows if not row.passed] == ["layers[0].U"]
