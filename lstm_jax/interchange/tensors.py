"""Named tensors out of a file, taken one by one: what is missing, extra or misshapen is named."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lstm_jax.errors import UserError, shorten

MOST_NAMED = 3  # in a line


def in_words(shape: tuple[int | None, ...]) -> str:
    """A shape, such as 16x4; None is any width."""
    return "x".join("?" if n is None else str(n) for n in shape) or "a single number"


class Tensors:
    """The tensors of a file.

    Args:
      values: by name; a NumPy array, or what NumPy makes one of.
      called: what a tensor is called in the file, by the name that it is taken by, where that is
        another.
    """

    def __init__(self, values: Mapping[str, Any], called: Mapping[str, str] | None = None) -> None:
        own = called or {}
        back = {theirs: ours for ours, theirs in own.items()}  # of the file, by what is taken
        self._values = {back.get(name, name): np.asarray(a) for name, a in values.items()}
        self._called, self._left = own, {*self._values}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._values))

    def called(self, name: str) -> str:
        return self._called.get(name, name)

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """A tensor's shape; UserError where it is not there, or of another rank."""
        return self._of(name, (None,) * rank).shape

    def take(self, name: str, *shape: int | None) -> np.ndarray:
        """A tensor of some shape, in which None is any width; UserError where it has another."""
        array = self._of(name, shape)
        self._left.discard(name)
        return array

    def _of(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        if (array := self._values.get(name)) is None:
            raise UserError(
                f"{self.called(name)} is missing: a tensor of {in_words(shape)} is wanted"
            )
        fits = len(shape) == array.ndim and all(
            wanted in (None, n) for wanted, n in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise UserError(
                f"{self.called(name)} is {in_words(array.shape)} and is to be {in_words(shape)}"
            )
        if array.dtype.kind not in "fV" or array.dtype.names:  # V: bfloat16 and its like
            raise UserError(f"{self.called(name)} is of {array.dtype}, not of floating point")
        return array

    def refuse_rest(self) -> None:
        """Raises UserError, with names and shapes, where some were not taken."""
        left = sorted(self._left)
        named = [
            f"{shorten(self.called(name))[1:-1]} ({in_words(self._values[name].shape)})"
            for name in left[:MOST_NAMED]
        ]
        if left:
            more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
            one = "is" if len(left) == 1 else "are"
            raise UserError(
                f"{', '.join(named)}{more} {one} in the file and in no model of this kind"
            )
