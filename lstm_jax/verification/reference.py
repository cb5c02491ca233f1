"""The notebook's LSTM in float64 NumPy: explicit loops over time, its variables, its shapes.

A third source for every gradient: it shares no code with the JAX model, imports none of it, and is
written per gate and per step, as the notebook was. Where the notebook had one sequence, arrays have
a column for each of B sequences; where it had one layer, there is a tuple of them.

    z = [h_prev; x]                             (H+D)xB
    f = sigmoid(W_f z + b_f)                    W_f: Hx(H+D), b_f: Hx1
    i = sigmoid(W_i z + b_i)
    C_bar = tanh(W_C z + b_C)
    C = f * C_prev + i * C_bar
    o = sigmoid(W_o z + b_o)
    h = o * tanh(C)
    y = softmax(W_v h + b_v)                    W_v: VxH, b_v: Vx1

With skips, a layer above the first hands up h + s * x instead of h; x, as it came, from below.

The loss is the mean of -log y[target] over the counted targets. `backward` is its gradient;
`backward` with DEFECTS is what the notebook computed instead.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy import ndarray

# What is wrong with the notebook's backward pass; each a switch of `backward`.
DEFECTS: dict[str, str] = {
    "sign": "the error is onehot - y, minus the gradient: the update climbs",
    "no_recurrence": "no error through the recurrent weights: h_t learns nothing from step t+1",
    "forget_tanh": "the forget gate's factor is tanh(C_prev) instead of C_prev",
    "candidate_tanh": "the candidate's slope is 1 - tanh(C_bar)^2 instead of 1 - C_bar^2",
    "skip_first": "step 0 adds to no gradient",
    "no_biases": "the biases get no gradient",
}


class Layer(NamedTuple):
    """One layer's parameters, or their gradients."""

    W_f: ndarray
    b_f: ndarray
    W_i: ndarray
    b_i: ndarray
    W_C: ndarray
    b_C: ndarray
    W_o: ndarray
    b_o: ndarray


class Parameters(NamedTuple):
    """All parameters, or their gradients."""

    layers: tuple[Layer, ...]
    W_v: ndarray
    b_v: ndarray
    W_e: ndarray | None = None  # ExV, an embedding: x is its column; None: x is one-hot
    skips: tuple[ndarray, ...] = ()  # s, Hx1, of each layer but the first


class State(NamedTuple):
    """A layer's state, HxB each."""

    h: ndarray
    C: ndarray


class Sequence(NamedTuple):
    """What is read and predicted, all TxB; `counts` and `resets` are boolean."""

    inputs: ndarray
    targets: ndarray
    counts: ndarray  # False: the target is masked
    resets: ndarray  # True: the state is zeroed before the step


class Drops(NamedTuple):
    """Dropout: factors on what each layer reads (DxB), on what the readout reads (HxB), and on the
    one-hot ids that the embedding reads (VxB)."""

    layers: tuple[ndarray, ...]
    readout: ndarray
    embedding: ndarray


@dataclass
class Step:
    """What one layer computed at one step."""

    z: ndarray
    f: ndarray
    i: ndarray
    C_bar: ndarray
    o: ndarray
    C_prev: ndarray
    C: ndarray
    h: ndarray
    x: ndarray  # what came from below, before anything of it was dropped


@dataclass
class Forward:
    """A forward pass: its loss, its final states, and all that `backward` needs."""

    loss: float
    states: list[State]
    steps: list[list[Step]]  # [t][layer]
    tops: list[ndarray]  # [t], what the top layer hands up, HxB
    y: list[ndarray]  # [t], VxB
    sequence: Sequence
    drops: Drops | None


def sigmoid(x: ndarray) -> ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: ndarray) -> ndarray:
    e = np.exp(x - x.max(axis=0))
    return e / e.sum(axis=0)


def one_hot(ids: ndarray, size: int) -> ndarray:
    """A column for each id."""
    return (np.arange(size)[:, None] == ids).astype(float)


def layer_step(p: Layer, x: ndarray, drop: ndarray | float, state: State) -> Step:
    """One step of one layer."""
    z = np.concatenate([state.h, drop * x])
    f = sigmoid(p.W_f @ z + p.b_f)
    i = sigmoid(p.W_i @ z + p.b_i)
    C_bar = np.tanh(p.W_C @ z + p.b_C)
    C = f * state.C + i * C_bar
    o = sigmoid(p.W_o @ z + p.b_o)
    return Step(z, f, i, C_bar, o, state.C, C, o * np.tanh(C), x)


def forward(
    params: Parameters, states: list[State], sequence: Sequence, drops: Drops | None = None
) -> Forward:
    """Reads a sequence from the given states; the loss is the mean over its counted targets."""
    V, states = len(params.W_v), list(states)
    steps: list[list[Step]] = []
    tops, ys, total = [], [], 0.0
    for t in range(len(sequence.inputs)):
        keep = np.where(sequence.resets[t], 0.0, 1.0)
        x = one_hot(sequence.inputs[t], V)
        if params.W_e is not None:
            x = params.W_e @ (x if drops is None else drops.embedding * x)
        steps.append([])
        for number, p in enumerate(params.layers):
            state = State(states[number].h * keep, states[number].C * keep)
            step = layer_step(p, x, 1.0 if drops is None else drops.layers[number], state)
            states[number] = State(step.h, step.C)
            steps[t].append(step)
            x = step.h + params.skips[number - 1] * x if number and params.skips else step.h
        tops.append(x)
        if drops is not None:
            x = drops.readout * x
        y = softmax(params.W_v @ x + params.b_v)
        ys.append(y)
        picked = y[sequence.targets[t], np.arange(y.shape[1])]
        total -= np.log(picked[sequence.counts[t]]).sum()
    n = max(int(sequence.counts.sum()), 1)
    return Forward(total / n, states, steps, tops, ys, sequence, drops)


def layer_backward(
    p: Layer, step: Step, dh: ndarray, dC_next: ndarray, defects: frozenset[str]
) -> tuple[Layer, ndarray, ndarray]:
    """One step of one layer backwards: its gradients, dz, and the error of the cell before."""
    f, i, C_bar, o = step.f, step.i, step.C_bar, step.o
    dC = dh * o * (1 - np.tanh(step.C) ** 2) + dC_next
    C_factor = np.tanh(step.C_prev) if "forget_tanh" in defects else step.C_prev
    C_bar_factor = np.tanh(C_bar) if "candidate_tanh" in defects else C_bar

    da_f = dC * C_factor * f * (1 - f)
    da_i = dC * C_bar * i * (1 - i)
    da_C = dC * i * (1 - C_bar_factor**2)
    da_o = dh * np.tanh(step.C) * o * (1 - o)

    gradients: list[ndarray] = []
    for da in (da_f, da_i, da_C, da_o):
        gradients += [da @ step.z.T, da.sum(axis=1, keepdims=True)]
    dz = p.W_f.T @ da_f + p.W_i.T @ da_i + p.W_C.T @ da_C + p.W_o.T @ da_o
    return Layer(*gradients), dz, dC * f


def backward(
    params: Parameters, done: Forward, *, defects: frozenset[str] | set[str] = frozenset()
) -> Parameters:
    """The gradient of the loss, or what comes out with some of DEFECTS.

    The complete gradient without any; the truncated gradient of Hochreiter and Schmidhuber 1997
    with `no_recurrence` alone; the notebook's rule with all of them.
    """
    defects = frozenset(defects)
    if unknown := defects - DEFECTS.keys():
        raise ValueError(f"no such defect: {sorted(unknown)}")
    sequence, drops = done.sequence, done.drops
    V, n = len(params.W_v), max(int(sequence.counts.sum()), 1)
    total = Parameters(
        tuple(Layer(*map(np.zeros_like, p)) for p in params.layers),
        np.zeros_like(params.W_v),
        np.zeros_like(params.b_v),
        None if params.W_e is None else np.zeros_like(params.W_e),
        tuple(map(np.zeros_like, params.skips)),
    )
    from_next = [(np.zeros_like(s.h), np.zeros_like(s.C)) for s in done.states]  # dh, dC
    for t in reversed(range(len(sequence.inputs))):
        adds = not (t == 0 and "skip_first" in defects)
        keep = np.where(sequence.resets[t], 0.0, 1.0)
        e = done.y[t] - one_hot(sequence.targets[t], V)
        e = e * sequence.counts[t] / n * (-1 if "sign" in defects else 1)
        top = done.tops[t]
        add(total.W_v, e @ (top if drops is None else drops.readout * top).T, adds)
        add(total.b_v, e.sum(axis=1, keepdims=True), adds and "no_biases" not in defects)

        d = params.W_v.T @ e  # what arrives at what the top layer handed up
        if drops is not None:
            d = drops.readout * d
        for number in reversed(range(len(params.layers))):
            p, step = params.layers[number], done.steps[t][number]
            dh_next, dC_next = from_next[number]
            gradients, dz, dC = layer_backward(p, step, d + dh_next, dC_next, defects)
            for name in Layer._fields:
                wanted = adds and not (name.startswith("b") and "no_biases" in defects)
                add(getattr(total.layers[number], name), getattr(gradients, name), wanted)
            H = len(step.h)
            dh = np.zeros_like(dC) if "no_recurrence" in defects else dz[:H]
            from_next[number] = (dh * keep, dC * keep)
            dx = dz[H:] if drops is None else drops.layers[number] * dz[H:]
            if number and params.skips:
                ds = (d * step.x).sum(axis=1, keepdims=True)
                add(total.skips[number - 1], ds, adds)
                dx = dx + params.skips[number - 1] * d
            d = dx
        if total.W_e is not None:
            x = one_hot(sequence.inputs[t], V)
            add(total.W_e, d @ (x if drops is None else drops.embedding * x).T, adds)
    return total


def add(total: ndarray, part: ndarray, wanted: bool) -> None:
    """Adds in place, or leaves out."""
    if wanted:
        total += part
