"""A stack of layers run here, to compare with what another library makes of the same tensors."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells import CELLS
from lstm_jax.cells.gru import GRUState
from lstm_jax.cells.lstm import LSTMState
from lstm_jax.layer import unroll


class Sizes(NamedTuple):
    T: int
    B: int
    D: int
    H: int
    L: int


class Problem(NamedTuple):
    """Tensors by a library's names, and what the layers read; float64 NumPy."""

    cell: str
    sizes: Sizes
    tensors: dict[str, np.ndarray]
    x: np.ndarray  # TxBxD
    states: list[Any]  # LSTMState or GRUState of each layer
    weights: np.ndarray  # TxBxH, which make a loss of the outputs


class Found(NamedTuple):
    """What comes out, and the gradients of the loss."""

    outputs: Any
    finals: Any  # a state of each layer
    dlayers: Any = None  # LSTMParams or GRUParams; None: the library does not differentiate
    dx: Any = None


def numbers(seed, shape):
    """Numbers between -1 and 1 that look random, and are the same in every version of NumPy."""
    n = np.arange(1, 1 + np.prod(shape, dtype=int))
    return np.sin((seed + 3) * n * n).reshape(shape)


def drawn(seed):
    """Sizes by chance."""
    T, B, D, H, L = np.random.default_rng(seed).integers([2, 1, 1, 1, 1], [7, 5, 6, 7, 4])
    return Sizes(*map(int, (T, B, D, H, L)))


def make_problem(cell, sizes, shapes):
    T, B, D, H, L = sizes
    tensors = {name: numbers(n, shape) for n, (name, shape) in enumerate(shapes.items())}
    kind = LSTMState if cell == "lstm" else GRUState
    states = [
        kind(*(numbers(50 + 2 * n + k, (B, H)) for k in range(len(kind._fields)))) for n in range(L)
    ]
    return Problem(cell, sizes, tensors, numbers(40, (T, B, D)), states, numbers(41, (T, B, H)))


def unrolled(layers, states, x):
    finals = []
    for layer, state in zip(layers, states, strict=True):
        final, x = unroll(layer, state, x)
        finals.append(final)
    return x, finals


def ours(net, problem):
    """What this package makes of the layers that were read."""

    def loss(layers, x):
        outputs, finals = unrolled(layers, problem.states, x)
        total = jnp.sum(jnp.asarray(problem.weights) * jnp.sin(outputs))
        total += sum(jnp.sum(jnp.cos(3 * leaf)) for leaf in jax.tree.leaves(finals))
        return total, (outputs, finals)

    layers, x = jax.tree.map(jnp.asarray, (net.layers, problem.x))
    gradients, values = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(layers, x)
    return Found(*values, *gradients)


def largest_error(found, wanted):
    """As a share of each leaf's largest value."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(float(np.abs(np.asarray(a) - b).max() / (np.abs(b).max() or 1.0)) for a, b in pairs)


def summary(found):
    """One number for the outputs, one for all final states."""
    values = [found.outputs, *jax.tree.leaves(found.finals)]
    products = [float(np.vdot(numbers(n, np.shape(a)), a)) for n, a in enumerate(values)]
    return [products[0], sum(products[1:])]


def params_of(cell, rng, D, H):
    """A layer with numbers by chance."""
    like = jax.eval_shape(lambda: CELLS[cell].init(jax.random.key(0), D, H))
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), like)
