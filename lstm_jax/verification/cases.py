"""What the verification is run on: shapes with every complication, as plain numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import Batch
from lstm_jax.gradients.weight_drop import WeightMasks, sample_weight_masks
from lstm_jax.model import Carry, Masks, ModelParams, init_carry, init_model, sample_masks

VOCABULARY_SIZE = 11

# The sixteen choices of four switches, ordered so that neighbours differ in many of them.
BITS = (0, 15, 5, 10, 3, 12, 6, 9, 1, 14, 4, 11, 2, 13, 7, 8)


@dataclass(frozen=True)
class Case:
    """One comparison's shape and which of the complications it has."""

    model: ModelConfig
    T: int
    B: int
    masked: bool = False  # some targets do not count
    resets: bool = False  # lanes start afresh inside the sequence
    carry: bool = False  # the initial state is not zero
    vocabulary_size: int = VOCABULARY_SIZE
    seed: int = 0


class Problem(NamedTuple):
    """A case's numbers, float64 NumPy."""

    params: ModelParams
    carry: Carry
    batch: Batch
    masks: Masks | None


def make_problem(case: Case) -> Problem:
    """Random numbers for a case, and whatever the case asks for.

    Only the shapes are the model's own: what JAX would draw has to be compiled first, which takes
    longer than the comparison.
    """
    rng = np.random.default_rng([case.seed, case.T, case.B, case.model.num_layers])
    key = jax.random.key(0)
    params = jax.eval_shape(lambda: init_model(key, case.model, case.vocabulary_size))
    masks = jax.eval_shape(lambda: sample_masks(key, params, case.model, case.B, case.T))
    carry = jax.eval_shape(lambda: init_carry(params, case.B))

    def normal(scale: float, tree: Any) -> Any:
        return jax.tree.map(lambda a: scale * rng.normal(size=a.shape), tree)

    shape = (case.T, case.B)
    counts = rng.random(shape) < 0.6
    counts[-1, 0] = True  # at least one
    return Problem(
        params=normal(case.model.hidden_size**-0.5, params),
        carry=normal(float(case.carry), carry),
        batch=Batch(
            inputs=rng.integers(case.vocabulary_size, size=shape),
            targets=rng.integers(case.vocabulary_size, size=shape),
            mask=counts if case.masked else None,
            resets=rng.random(shape) < 0.25 if case.resets else None,
        ),
        masks=jax.tree.map(lambda a: (rng.random(a.shape) < 0.75) / 0.75, masks),
    )


def make_weight_masks(case: Case) -> WeightMasks | None:
    """The masks of a case's weight drop, float64 NumPy; None where its rate is 0."""
    rng, rate = np.random.default_rng(case.seed), case.model.weight_drop
    key = jax.random.key(0)
    params = jax.eval_shape(lambda: init_model(key, case.model, case.vocabulary_size))
    masks = jax.eval_shape(lambda: sample_weight_masks(key, params, rate))
    return jax.tree.map(lambda a: (rng.random(a.shape) >= rate) / (1 - rate), masks)


def grid() -> Iterator[Case]:
    """Every L, T, B of L 1 to 3, T 1, 2, 7, 64, B 1 and 5, and T 128 once.

    Each shape has a case of its own choice of mask, resets, dropout, carry and embedding, so that
    every two of them meet, switched on and off, in some shape; every other of several layers has
    skips.
    """
    number = 0
    for L in (1, 2, 3):
        for T in (1, 2, 7, 64):
            for B in (1, 5):
                masked, resets, dropout, carry = (
                    bool(BITS[number % 16] >> n & 1) for n in range(4)
                )
                embedded = number % 3 == 2
                model = ModelConfig(
                    hidden_size=6,
                    num_layers=L,
                    dropout=0.3 * dropout,
                    input_dropout=0.3 * dropout,
                    embedding_size=4 * embedded,
                    embedding_dropout=0.3 * (dropout and embedded),
                    skip="weighted" if L > 1 and number % 2 else "none",
                )
                yield Case(model, T, B, masked, resets, carry, seed=number)
                number += 1
    model = ModelConfig(
        hidden_size=8, num_layers=2, dropout=0.2, input_dropout=0.2, skip="weighted"
    )
    yield Case(model, 128, 5, True, True, True, seed=number)


# Between them every part that the backward by hand does not know.
VARIANTS: tuple[dict[str, Any], ...] = (
    {"cell": "coupled", "skip": "weighted", "zoneout_cell": 0.3, "zoneout_hidden": 0.1},
    {"cell": "layer_norm", "readout": "tied", "embedding_size": 4, "embedding_dropout": 0.3},
    {"cell": "mogrifier", "readout": "tied", "embedding_size": 6},
    {"cell": "mogrifier", "mogrifier_rounds": 4, "mogrifier_rank": 2, "readout_rank": 3},
)


def variants() -> Iterator[Case]:
    """The models that autodiff alone differentiates, each with every complication."""
    for number, options in enumerate(VARIANTS):
        model = ModelConfig(hidden_size=6, num_layers=2, dropout=0.2, input_dropout=0.2, **options)
        yield Case(model, 7, 3, True, True, True, seed=number)
