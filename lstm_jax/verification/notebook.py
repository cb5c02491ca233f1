"""The way to the NumPy reference and back: a model in the notebook's variables."""

import jax
import numpy as np

import lstm_jax.verification.reference as reference
from lstm_jax.gradients.weight_drop import WeightMasks, drop_weights
from lstm_jax.model import ModelParams
from lstm_jax.verification.cases import Problem

# Where the notebook's per-gate variables stand in the gate order i f g o.
GATES = ("i", "f", "C", "o")


def to_reference(params: ModelParams) -> reference.Parameters:
    """The same parameters in the notebook's variables and shapes."""

    def split(layer: tuple[np.ndarray, ...]) -> reference.Layer:
        W, U, b = layer
        weights = np.split(np.concatenate([U, W]).T, 4)  # [h; x], one block per gate
        biases = np.split(b[:, None], 4)
        named = {f"W_{gate}": w for gate, w in zip(GATES, weights, strict=True)}
        named |= {f"b_{gate}": b for gate, b in zip(GATES, biases, strict=True)}
        return reference.Layer(**named)

    W, b = (np.asarray(a) for a in params.readout[:2])
    return reference.Parameters(
        tuple(map(split, params.layers)),
        W.T,
        b[:, None],
        None if params.embedding is None else np.asarray(params.embedding).T,
        tuple(np.asarray(s)[:, None] for s in params.skips or ()),
    )


def from_reference(gradient: reference.Parameters, like: ModelParams) -> ModelParams:
    """The notebook's variables as `ModelParams`."""

    def join(layer: reference.Layer) -> list[np.ndarray]:
        weights = np.concatenate([getattr(layer, f"W_{gate}") for gate in GATES]).T
        bias = np.concatenate([getattr(layer, f"b_{gate}") for gate in GATES])[:, 0]
        H = weights.shape[1] // 4
        return [weights[H:], weights[:H], bias]

    leaves = [] if gradient.W_e is None else [gradient.W_e.T]
    for layer in gradient.layers:
        leaves += join(layer)
    leaves += [gradient.W_v.T, gradient.b_v[:, 0], *(s[:, 0] for s in gradient.skips)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def reference_gradient(
    problem: Problem, defects: frozenset[str] = frozenset(), weights: WeightMasks | None = None
) -> ModelParams:
    """The gradient by the NumPy reference; `weights` are the masks of the weight drop."""
    params, carry, batch, masks = problem
    params = params if weights is None else drop_weights(params, weights)
    everywhere = np.ones(batch.inputs.shape, bool)
    sequence = reference.Sequence(
        np.asarray(batch.inputs),
        np.asarray(batch.targets),
        everywhere if batch.mask is None else np.asarray(batch.mask),
        ~everywhere if batch.resets is None else np.asarray(batch.resets),
    )
    drops = None
    if masks is not None:
        ones = np.ones((1, 1))
        drawn = (*masks.layers, masks.readout, masks.embedding)
        *layers, readout, embedding = (ones if m is None else np.asarray(m).T for m in drawn)
        drops = reference.Drops(tuple(layers), readout, embedding)
    states = [reference.State(s.h.T, s.c.T) for s in carry]
    done = reference.forward(to_reference(params), states, sequence, drops)
    by_loops = reference.backward(to_reference(params), done, defects=defects)
    gradient = from_reference(by_loops, params)
    return gradient if weights is None else drop_weights(gradient, weights)
