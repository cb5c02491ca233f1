"""Parameters of one model as the beginning of another's, which may read other symbols.

A symbol's own parameters (its row of what reads ids, its column of the readout) go with it to its
place in the other alphabet. New symbols keep what they were drawn as; symbols that are gone are
left out.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from lstm_jax.errors import UserError
from lstm_jax.model import Interface, ModelParams, init_model, named_leaves
from lstm_jax.model_config import ModelConfig


class Places(NamedTuple):
    """Where the symbols that two alphabets have in common stand, in each of them."""

    there: np.ndarray
    here: np.ndarray


def places_of(there: Sequence[Hashable], here: Sequence[Hashable]) -> Places:
    """The places of what two lists of symbols have in common."""
    known = {symbol: place for place, symbol in enumerate(there)}
    pairs = [(known[symbol], place) for place, symbol in enumerate(here) if symbol in known]
    return Places(*np.array(pairs, int).reshape(-1, 2).T)


def symbol_axes(config: ModelConfig, interface: Interface) -> dict[str, int | None]:
    """The axis of each leaf along which every symbol has its place; None: it has none.

    That is the one that grows with the alphabet, whatever the cell.
    """

    def shapes(more: int) -> dict[str, tuple[int, ...]]:
        sizes = {name: getattr(interface, name) + more for name in ("input_size", "output_size")}
        wider = interface._replace(**sizes)
        params = jax.eval_shape(lambda: init_model(jax.random.key(0), config, wider))
        return {name: leaf.shape for name, leaf in named_leaves(params).items()}

    narrow, wide = shapes(0), shapes(1)
    return {
        name: next((n for n, size in enumerate(shape) if size != wide[name][n]), None)
        for name, shape in narrow.items()
    }


def transfer(
    trained: ModelParams, drawn: ModelParams, axes: dict[str, int | None], places: Places | None
) -> ModelParams:
    """The trained parameters in the shapes of those that were drawn.

    Args:
      axes: of each leaf, `symbol_axes`.
      places: of the symbols that both know; None: neither has any.

    Raises UserError where a leaf is not in both, or of another shape.
    """
    there, here = named_leaves(trained), named_leaves(drawn)
    if lone := there.keys() ^ here.keys():
        name = min(lone)
        has, lacks = ("there", "here") if name in there else ("here", "there")
        raise UserError(f"{name} is {has} and not {lacks}")
    leaves = [moved(name, there[name], here[name], axes[name], places) for name in here]
    return jax.tree.unflatten(jax.tree.structure(drawn), leaves)


def moved(
    name: str, trained: Array, drawn: Array, axis: int | None, places: Places | None
) -> Array:
    """A trained leaf in the shape of the drawn one."""
    by_symbol = None if places is None or axis is None else (places, (slice(None),) * axis)
    shapes = [list(leaf.shape) for leaf in (trained, drawn)]
    if by_symbol:  # along that axis they may differ
        for shape in shapes:
            del shape[len(by_symbol[1])]
    if shapes[0] != shapes[1]:
        there, here = ("x".join(map(str, leaf.shape)) for leaf in (trained, drawn))
        raise UserError(f"{name} is {there} there and {here} here")
    if by_symbol is None:
        return trained
    places, before = by_symbol
    return drawn.at[(*before, places.here)].set(trained[(*before, places.there)])
