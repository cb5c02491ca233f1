"""A sequence in pieces of time: what is too large as a whole is made piece by piece."""

from typing import TypeVar

import jax

Tree = TypeVar("Tree")


def steps_at_once(T: int, B: int, N: int, most: int) -> int:
    """How many of T steps, of BxN values each, make up a piece of `most` values; one at the least,
    and T where all are one piece."""
    return min(T, max(1, most // max(1, B * N)))


def cut(tree: Tree, length: int) -> tuple[Tree, Tree]:
    """Pieces of `length` steps, Nx(length)x... in every leaf, and the last one, no longer.

    Every leaf has T first, and T is at least 1.
    """
    T = jax.tree.leaves(tree)[0].shape[0]
    last = (T - 1) // length * length
    pieces = jax.tree.map(lambda a: a[:last].reshape(-1, length, *a.shape[1:]), tree)
    return pieces, jax.tree.map(lambda a: a[last:], tree)
