"""From ids to batches: the split, the streams that training reads, the segments that are scored."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.errors import UserError

Values = np.ndarray | Array
MAX_LANES, MAX_TIME = 128, 256  # of a segment of a split that is scored


def as_array(values: Values | None) -> Array | None:
    """Values as a JAX array, which costs nothing where they are one; None stays None."""
    return None if values is None else jnp.asarray(values)


class Batch(NamedTuple):
    """B sequences side by side, time-major."""

    inputs: Values  # ids TxB, or vectors TxBxD
    targets: Values  # ids TxB, or vectors TxBxN; of a text the character after each input
    mask: Values | None = None  # TxB, True where the target counts; None: everywhere
    resets: Values | None = None  # TxB, True where a lane starts from the zero state; None: nowhere
    live: Values | None = None  # TxB, False where there is nothing but padding; None: nowhere


@dataclass(frozen=True)
class Documents:
    """Ids that fall into documents: the state starts afresh after each separator.

    What follows a separator is still predicted from the document before. So every target counts
    once, as where a window ends.
    """

    ids: np.ndarray
    separator: np.ndarray  # its ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, places: Any) -> Any:
        """The ids at some places; of a slice they fall into documents as well."""
        ids = self.ids[places]
        return Documents(ids, self.separator) if isinstance(places, slice) else ids

    def begin_at(self, positions: np.ndarray) -> np.ndarray:
        """Where the separator stands right before a position: the first of a document."""
        begin = positions >= len(self.separator)
        for back, symbol in enumerate(self.separator[::-1], start=1):
            begin &= self.ids[np.maximum(positions - back, 0)] == symbol
        return begin


Ids = np.ndarray | Documents


def bare(ids: Ids) -> np.ndarray:
    """The ids alone, whether or not they fall into documents."""
    return ids.ids if isinstance(ids, Documents) else ids


def begin_at(ids: Ids, positions: np.ndarray) -> np.ndarray:
    """Where a document begins besides the first; nowhere, where ids do not fall into any."""
    if isinstance(ids, Documents):
        return ids.begin_at(positions)
    return np.zeros(positions.shape, bool)


class Split(NamedTuple):
    train: Ids
    validation: Ids | None
    test: Ids | None = None


def split_ids(
    ids: np.ndarray,
    validation_fraction: float,
    train_chars: int = 0,
    test_fraction: float = 0.0,
    plural: str = "characters",
) -> Split:
    """The first part to train on, what follows to validate on, the last to test on (nanoGPT's split
    where it is 90 : 10 : 0).

    Args:
      train_chars: train on that many of the first part; 0: on all.
      plural: what the ids are of.
    """
    end = int(len(ids) * (1 - validation_fraction - test_fraction))
    last = int(len(ids) * (1 - test_fraction))
    train = ids[:end]
    validation = ids[end:last] if validation_fraction else None
    test = ids[last:] if test_fraction else None
    held_out = {"validate": validation, "test": test}
    lengths = {"train": len(train)} | {k: len(v) for k, v in held_out.items() if v is not None}
    if len(lengths) > 1 and min(lengths.values()) < 2:
        parts = " and ".join(f"{length} to {what} on" for what, length in lengths.items())
        raise UserError(
            f"{len(ids)} {plural} leave a split empty: {parts}, where each needs 2; take a longer "
            "text, or --config.data.validation_fraction=0"
        )
    if train_chars > len(train):
        raise UserError(
            f"data.train_chars={train_chars:,} is more than the {len(train):,} {plural} "
            "of the training split: leave it out, or take fewer"
        )
    return Split(train[: train_chars or None], validation, test)


@dataclass(frozen=True)
class Streams:
    """B contiguous streams through a text, addressable by step.

    The text is a ring of its N - 1 characters that have a successor. Lane b begins b / B of the way
    round and reads on without end: the state it carries always belongs to the characters before.
    A lane is reset where the text, or a document, begins. Unless T divides N - 1, each round cuts
    the text into sequences at other places.
    """

    ids: Ids  # N
    batch_size: int
    sequence_length: int
    plural: str = "characters"  # what the ids are of

    def __post_init__(self) -> None:
        need = self.batch_size * self.sequence_length + 1
        if len(self.ids) < need:
            raise UserError(
                f"the training text has {len(self.ids)} {self.plural} and one batch of "
                f"{self.batch_size} x {self.sequence_length} needs {need}; take a longer text or "
                "a smaller train.batch_size or train.sequence_length"
            )

    def batch_at(self, step: int, lanes: slice = slice(None)) -> Batch:
        """The batch that training step `step` (from 0) reads: inputs, targets and resets TxB.

        `lanes`: those of the batch to read, where that is not all."""
        ring, T = len(self.ids) - 1, self.sequence_length
        starts_B = np.arange(self.batch_size)[lanes] * (ring // self.batch_size) + step * T
        positions_TxB = (starts_B + np.arange(T)[:, None]) % ring
        resets_TxB = (positions_TxB == 0) | begin_at(self.ids, positions_TxB)
        return Batch(self.ids[positions_TxB], self.ids[positions_TxB + 1], resets=resets_TxB)


def stack_batches(batches: list[Batch]) -> Batch:
    """K batches as one, with a leading axis K in every field."""
    fields = zip(*batches, strict=True)
    return Batch._make(None if f[0] is None else np.stack(f) for f in fields)


def cut_segments(
    ids: Ids,
    length: int,
    *,
    warmup: int = 0,
    max_lanes: int = MAX_LANES,
    max_time: int = MAX_TIME,
) -> Iterator[Batch]:
    """Lays a split out for scoring: every character but the first is a counted target once.

    The split is cut into pieces of `length` targets, the last one shorter. A piece is read from
    the zero state, after the `warmup` characters before it, which are not counted (fewer where
    the split has fewer). Pieces lie side by side, `max_lanes` at a time, and are cut in time into
    segments of `max_time` steps; resets stand where a piece, or a document, begins, so the segments
    are to be run in order with the carry handed on. All segments have one shape.
    """
    starts = np.arange(0, len(ids) - 1, length)
    B = min(max_lanes, len(starts))
    T = min(max_time, warmup + length, len(ids) - 1)
    for first in range(0, len(starts), B):
        starts_B = starts[first : first + B]
        # Lanes without a piece, in the last group, read along without being counted.
        starts_B = np.pad(starts_B, (0, B - len(starts_B)), constant_values=len(ids))
        begins_B = np.clip(starts_B - warmup, 0, len(ids) - 2)
        ends_B = np.minimum(starts_B + length, len(ids) - 1)
        for t in range(0, int((ends_B - begins_B).max()), T):
            positions_TxB = begins_B + np.arange(t, t + T)[:, None]
            mask_TxB = (positions_TxB >= starts_B) & (positions_TxB < ends_B)
            resets_TxB = positions_TxB == begins_B
            positions_TxB = np.minimum(positions_TxB, len(ids) - 2)
            resets_TxB |= begin_at(ids, positions_TxB)
            yield Batch(ids[positions_TxB], ids[positions_TxB + 1], mask_TxB, resets_TxB)
