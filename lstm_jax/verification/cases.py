"""What the verification is run on: shapes with every complication, as plain numbers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.cells import CELLS
from lstm_jax.data.batches import Batch
from lstm_jax.gradients.weight_drop import WeightMasks, sample_weight_masks
from lstm_jax.heads import HEADS, Head, takes_ids
from lstm_jax.masks import sample_masks
from lstm_jax.model import Carry, Interface, Masks, ModelParams, init_carry, init_model
from lstm_jax.model_config import ModelConfig

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
    lengths: bool = False  # lanes are of unequal length
    vectors: bool = False  # vectors come in, instead of ids
    head: str = "softmax"
    read_out_steps: int | None = None  # are read out and scored at a time; None: all
    vocabulary_size: int = VOCABULARY_SIZE
    seed: int = 0

    @property
    def interface(self) -> Interface:
        """As many numbers come out as symbols, or numbers, come in."""
        V = self.vocabulary_size
        return Interface(V, V, reads_ids=not self.vectors, head=self.head)

    @property
    def scored_by(self) -> Head:
        """The head, which makes no more outputs at once than the case says."""
        head = HEADS[self.head]
        if self.read_out_steps is None:
            return head
        return head._replace(most_outputs=self.read_out_steps * self.B * self.vocabulary_size)

    @property
    def plain(self) -> bool:
        """Whether the NumPy loops know the model: the notebook's, and what was added to it."""
        model = self.model
        zoneout = model.zoneout_cell or model.zoneout_hidden
        usual = model.cell == "lstm" and self.head == "softmax" and model.readout == "full"
        return usual and not (model.readout_rank or zoneout or self.lengths or self.vectors)


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
    rng = np.random.default_rng([case.seed, case.T, case.B, len(case.model.layer_sizes)])
    key = jax.random.key(0)
    params = jax.eval_shape(lambda: init_model(key, case.model, case.interface))
    masks = jax.eval_shape(lambda: sample_masks(key, params, case.model, case.B, case.T))
    carry = jax.eval_shape(lambda: init_carry(params, case.B))

    def normal(scale: float, tree: Any) -> Any:
        return jax.tree.map(lambda a: scale * rng.normal(size=a.shape), tree)

    shape = (case.T, case.B)
    counts = rng.random(shape) < 0.6
    counts[-1, 0] = True  # at least one
    return Problem(
        params=normal(max(case.model.layer_sizes) ** -0.5, params),
        carry=normal(float(case.carry), carry),
        batch=Batch(
            inputs=make_inputs(rng, case),
            targets=make_targets(rng, case),
            mask=counts if case.masked else None,
            resets=rng.random(shape) < 0.25 if case.resets else None,
            live=make_live(rng, case) if case.lengths else None,
        ),
        masks=jax.tree.map(lambda a: (rng.random(a.shape) < 0.75) / 0.75, masks),
    )


def make_inputs(rng: np.random.Generator, case: Case) -> np.ndarray:
    """Ids TxB, or vectors TxBxV."""
    shape, V = (case.T, case.B), case.vocabulary_size
    return rng.normal(size=(*shape, V)) if case.vectors else rng.integers(V, size=shape)


def make_targets(rng: np.random.Generator, case: Case) -> np.ndarray:
    """Ids TxB, numbers TxBxV, or many-hot vectors TxBxV, as the head takes them."""
    shape, V = (case.T, case.B), case.vocabulary_size
    if takes_ids(HEADS[case.head]):
        return rng.integers(V, size=shape)
    numbers = rng.normal(size=(*shape, V))
    return (numbers > 0).astype(np.float64) if case.head == "bernoulli" else numbers


def make_live(rng: np.random.Generator, case: Case) -> np.ndarray:
    """TxB, True up to a lane's length; the first lane's is T, and none is 0."""
    lengths_B = rng.integers(1, case.T + 1, size=case.B)
    lengths_B[0] = case.T
    return np.arange(case.T)[:, None] < lengths_B


def make_weight_masks(case: Case) -> WeightMasks | None:
    """The masks of a case's weight drop, float64 NumPy; None where its rate is 0."""
    rng, rate = np.random.default_rng(case.seed), case.model.weight_drop
    key = jax.random.key(0)
    params = jax.eval_shape(lambda: init_model(key, case.model, case.interface))
    masks = jax.eval_shape(lambda: sample_weight_masks(key, params, rate))
    return jax.tree.map(lambda a: (rng.random(a.shape) >= rate) / (1 - rate), masks)


def grid() -> Iterator[Case]:
    """Every L, T, B of L 1 to 3, T 1, 2, 7, 64, B 1 and 5, and T 128 once.

    Each shape has its own choice of mask, resets, dropout, carry and embedding. Every two of them
    meet, switched on and off, in some shape. Every other case of several layers has skips.
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
                yield Case(model, T, B, masked=masked, resets=resets, carry=carry, seed=number)
                number += 1
    model = ModelConfig(
        hidden_size=8, num_layers=2, dropout=0.2, input_dropout=0.2, skip="weighted"
    )
    yield Case(model, 128, 5, masked=True, resets=True, carry=True, seed=number)


# Between them every part that the grid does not have, and that the backward by hand knows: the
# model's options, and the case's.
BY_HAND: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"cell": "gru", "zoneout_hidden": 0.3, "skip": "weighted"}, {"lengths": True}),
    ({"cell": "gru", "hidden_sizes": (3, 6)}, {"vectors": True, "head": "squared"}),
    (
        {"cell": "peephole", "readout": "tied", "embedding_size": 6, "zoneout_cell": 0.3},
        {"lengths": True},
    ),
    (
        {"cell": "peephole", "readout_rank": 3},
        {"vectors": True, "head": "bernoulli", "read_out_steps": 2},
    ),
    (
        {"hidden_sizes": (5, 7, 4), "zoneout_cell": 0.3, "zoneout_hidden": 0.1},
        {"vectors": True, "head": "squared", "lengths": True, "read_out_steps": 3},
    ),
    (
        {"readout": "tied", "embedding_size": 4, "embedding_dropout": 0.3},
        {"lengths": True, "read_out_steps": 2},
    ),
    ({"readout_rank": 3, "skip": "weighted"}, {"head": "bernoulli"}),
    ({}, {"read_out_steps": 1}),
    ({"cell": "memory_blocks", "block_size": 2}, {"vectors": True, "head": "sigmoid_squared"}),
    (
        {"cell": "memory_blocks", "zoneout_hidden": 0.3, "block_size": 3, "skip": "weighted"},
        {"lengths": True},
    ),
    (
        {"cell": "forgetting_blocks", "zoneout_cell": 0.3, "block_size": 2},
        {"vectors": True, "head": "sigmoid_squared", "lengths": True},
    ),
    (
        {"cell": "carousel", "hidden_sizes": (14, 17), "zoneout_cell": 0.3},
        {"vectors": True, "head": "sigmoid_squared", "lengths": True},
    ),
    ({"cell": "carousel", "hidden_sizes": (13, 15)}, {}),
)


def unlisted(listed: Iterable[dict[str, Any]], *, derived: bool) -> list[dict[str, Any]]:
    """The cells with a backward by hand, or without, that no options in a list name."""
    named = {options.get("cell", ModelConfig.cell) for options in listed}
    return [
        {"cell": name}
        for name, cell in CELLS.items()
        if bool(cell.by_hand) == derived and name not in named
    ]


def by_hand() -> Iterator[Case]:
    """Every cell, readout and head that has a backward by hand, with every complication."""
    own = unlisted((options for options, _ in BY_HAND), derived=True)
    named = {others.get("head", Case.head) for _, others in BY_HAND}
    heads = [name for name, head in HEADS.items() if head.by_hand and name not in named]
    for number, (options, others) in enumerate(
        [
            *BY_HAND,
            *(({**cell, "zoneout_hidden": 0.3}, {"lengths": True}) for cell in own),
            *(({}, {"vectors": True, "head": name}) for name in heads),
        ]
    ):
        sizes: dict[str, Any] = {"hidden_size": 6, "num_layers": 2}
        if "hidden_sizes" in options:
            sizes = {}
        model = ModelConfig(dropout=0.2, input_dropout=0.2, **sizes, **options)
        yield Case(model, 7, 3, masked=True, resets=True, carry=True, seed=number, **others)


# Between them every part that the backward by hand does not know.
VARIANTS: tuple[dict[str, Any], ...] = (
    {"cell": "coupled", "skip": "weighted", "zoneout_cell": 0.3, "zoneout_hidden": 0.1},
    {"cell": "layer_norm", "readout": "tied", "embedding_size": 4, "embedding_dropout": 0.3},
    {"cell": "mogrifier", "readout": "tied", "embedding_size": 6},
    {"cell": "mogrifier", "mogrifier_rounds": 4, "mogrifier_rank": 2, "readout_rank": 3},
)


def variants() -> Iterator[Case]:
    """The models that autodiff alone differentiates, each with every complication."""
    for number, options in enumerate([*VARIANTS, *unlisted(VARIANTS, derived=False)]):
        model = ModelConfig(hidden_size=6, num_layers=2, dropout=0.2, input_dropout=0.2, **options)
        yield Case(model, 7, 3, masked=True, resets=True, carry=True, seed=number)
