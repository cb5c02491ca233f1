"""The audit of the notebook: what each defect of its backward pass does to the gradient."""

from typing import NamedTuple

import numpy as np

import lstm_jax.verification.reference as reference
from lstm_jax.errors import UserError
from lstm_jax.verification.reference import DEFECTS, Parameters, Sequence, State

HIDDEN_SIZE, LENGTH = 100, 25


class Effect(NamedTuple):
    """A defective gradient against the true one."""

    defect: str  # a key of DEFECTS, or `all`
    leaf: str  # such as `W_f`
    cosine: float  # 1: the same direction; 0 where the defect leaves no gradient at all
    norm_ratio: float


def notebook_parameters(vocabulary_size: int, seed: int = 0) -> Parameters:
    """The notebook's start: normal weights of deviation 0.1, those of the sigmoid gates +0.5."""
    random = np.random.RandomState(seed)
    shape = (HIDDEN_SIZE, HIDDEN_SIZE + vocabulary_size)
    W_f, W_i, W_C, W_o = (0.1 * random.randn(*shape) + shift for shift in (0.5, 0.5, 0.0, 0.5))
    zero = np.zeros((HIDDEN_SIZE, 1))
    layer = reference.Layer(W_f, zero.copy(), W_i, zero.copy(), W_C, zero.copy(), W_o, zero.copy())
    W_v = 0.1 * random.randn(vocabulary_size, HIDDEN_SIZE)
    return Parameters((layer,), W_v, np.zeros((vocabulary_size, 1)))


def notebook_sequence(ids: np.ndarray) -> Sequence:
    """The text's first 25 characters, each to be predicted from those before."""
    if len(ids) <= LENGTH:
        raise UserError(
            f"the audit reads {LENGTH + 1} characters; the text has {len(ids)}: take a longer one"
        )
    inputs, targets = ids[:LENGTH, None].astype(int), ids[1 : LENGTH + 1, None].astype(int)
    everywhere = np.ones(inputs.shape, bool)
    return Sequence(inputs, targets, everywhere, ~everywhere)


def read(params: Parameters, sequence: Sequence) -> reference.Forward:
    """A pass from the zero state."""
    zero = np.zeros((HIDDEN_SIZE, 1))
    return reference.forward(params, [State(zero, zero)], sequence)


def leaves(params: Parameters) -> dict[str, np.ndarray]:
    """The parameters of a one-layer system, by the notebook's names."""
    return {**params.layers[0]._asdict(), "W_v": params.W_v, "b_v": params.b_v}


def effects(params: Parameters, sequence: Sequence) -> list[Effect]:
    """For each defect alone, then all together: direction and size of every leaf's gradient."""
    done = read(params, sequence)
    true = leaves(reference.backward(params, done))
    compared = []
    for name in (*DEFECTS, "all"):
        defects = set(DEFECTS) if name == "all" else {name}
        for leaf, wrong in leaves(reference.backward(params, done, defects=defects)).items():
            right, norms = true[leaf], np.linalg.norm(true[leaf]) * np.linalg.norm(wrong)
            cosine = float(np.vdot(right, wrong) / norms) if norms else 0.0
            size = np.linalg.norm(right)  # 0: an alphabet of one symbol
            ratio = float(np.linalg.norm(wrong) / size) if size else 0.0
            compared.append(Effect(name, leaf, cosine, ratio))
    return compared


def descend(
    params: Parameters, sequence: Sequence, defects: set[str], rate: float, passes: int
) -> list[float]:
    """The loss, summed over the 25 characters, before each pass of plain gradient descent.

    `rate` multiplies the gradient of the summed loss, as the notebook's did.
    """
    losses = []
    for _ in range(passes):
        done = read(params, sequence)
        losses.append(done.loss * LENGTH)
        wrong = reference.backward(params, done, defects=defects)
        moved = {k: v - rate * LENGTH * leaves(wrong)[k] for k, v in leaves(params).items()}
        W_v, b_v = moved.pop("W_v"), moved.pop("b_v")
        params = Parameters((reference.Layer(**moved),), W_v, b_v)
    return losses


def mended_in_turn() -> dict[str, set[str]]:
    """The notebook's rule as printed, then with one defect more mended each time, to none left."""
    left, stages = dict(DEFECTS), {"as printed": set(DEFECTS)}
    for name in DEFECTS:
        del left[name]
        stages[f"{name} mended too" if left else "all mended"] = set(left)
    return stages
