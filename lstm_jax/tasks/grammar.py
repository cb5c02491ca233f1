"""Reber's grammar inside another: strings, and what may come next in each.

The embedded Reber grammar of Smith and Zipser 1989 and of Cleeremans, Servan-Schreiber and
McClelland 1989. A string of Reber's own grammar stands between two symbols that are the same, T or
P, and the whole between B and E:

    B T  BTSSXXTVVE  T E

So what comes last but one depends on what came second. Where two arcs leave a place, each is taken
with probability 1/2. A string has 9 symbols at least and 12 in the mean.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

SYMBOLS = "BTPSXVE"
Arcs = tuple[tuple[str, int], ...]  # from a place: a symbol, and the place that it leads to
REBER: tuple[Arcs, ...] = (
    (("B", 1),),
    (("T", 2), ("P", 3)),
    (("S", 2), ("X", 4)),
    (("T", 3), ("V", 5)),
    (("X", 3), ("S", 6)),
    (("P", 4), ("V", 6)),
    (("E", 7),),
)


def embed(inner: tuple[Arcs, ...]) -> tuple[Arcs, ...]:
    """A grammar with another one in it, once behind T and once behind P; its last symbol leads to
    its first place."""
    size = len(inner) + 1  # with the place behind its last symbol
    copies: list[Arcs] = []
    for outer in "TP":
        first = 2 + len(copies)
        copies += [tuple((symbol, first + to) for symbol, to in arcs) for arcs in inner]
        copies.append(((outer, 2 + 2 * size),))
    return ((("B", 1),), (("T", 2), ("P", 2 + size)), *copies, (("E", 0),))


EMBEDDED = embed(REBER)
PLACES = len(EMBEDDED)
# The two ways on from each place, which are the same where it has one: symbol and next place, Px2.
SYMBOL_Px2 = np.array([[SYMBOLS.index(arcs[n][0]) for n in (0, -1)] for arcs in EMBEDDED])
NEXT_Px2 = np.array([[arcs[n][1] for n in (0, -1)] for arcs in EMBEDDED])
POSSIBLE_Px7 = np.array([[symbol in dict(arcs) for symbol in SYMBOLS] for arcs in EMBEDDED])
LED_Px7 = np.array([[dict(arcs).get(symbol, 0) for symbol in SYMBOLS] for arcs in EMBEDDED])


class Walk(NamedTuple):
    """Symbols side by side, and where in the grammar each leads; both TxB."""

    ids: np.ndarray
    places: np.ndarray


def walk(choices_TxB: np.ndarray, places_B: np.ndarray) -> Walk:
    """The symbols on the way from some places, by choices between 0 and 1."""
    walked = Walk(np.empty_like(choices_TxB), np.empty_like(choices_TxB))
    for t, choices_B in enumerate(choices_TxB):
        walked.ids[t] = SYMBOL_Px2[places_B, choices_B]
        walked.places[t] = places_B = NEXT_Px2[places_B, choices_B]
    return walked


def draw_string(rng: np.random.Generator) -> str:
    string, place = "", 0
    while True:
        symbol, place = EMBEDDED[place][rng.integers(len(EMBEDDED[place]))]
        string += symbol
        if place == 0:
            return string


def possible_after(inputs_TxBx7: Array) -> Array:
    """Which symbols may come next after each one of strings that are read from their beginning,
    TxBx7; pure, for use under `jit`."""
    led_Px7, possible_Px7 = jnp.asarray(LED_Px7, jnp.int32), jnp.asarray(POSSIBLE_Px7)
    ids_TxB = jnp.argmax(inputs_TxBx7, axis=-1)

    def advance(places_B: Array, ids_B: Array) -> tuple[Array, Array]:
        places_B = led_Px7[places_B, ids_B]
        return places_B, possible_Px7[places_B]

    start_B = jnp.zeros(ids_TxB.shape[1], jnp.int32)
    return lax.scan(advance, start_B, ids_TxB)[1]
