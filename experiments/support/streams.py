"""Trials of an algorithm on streams of the continual embedded Reber grammar, side by side.

Gers, Schmidhuber and Cummins 2000, section 4: a trial trains on one stream at a time, with an
update at every symbol, up to the first wrong step or 100,000 symbols. Then it is tested on ten
others, with no update. It is solved when none of their steps is wrong; else it begins another
stream from the zero state. `tasks.continual_reber` says what is wrong, and what is perfect.

All trials advance by one symbol at once, each in a stream of its own: it restarts alone. A test is
a stream, too, at a rate of zero: the ten follow one another, and the first wrong step ends them,
because it has decided. So testing after every stream, as in the paper, costs about as much again as
training does, and nothing is skipped.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from experiments.support import saved
from experiments.support.truncated_rtrl import (
    Memory,
    Partials,
    Weights,
    advance,
    carry,
    gradient,
    init_memory,
    init_partials,
    init_weights,
    read_out,
)
from lstm_jax.tasks.continual_reber import TEST_STREAMS, wrong_steps
from lstm_jax.tasks.grammar import SYMBOLS, NEXT_Px2, POSSIBLE_Px7, SYMBOL_Px2

STREAM = 100_000  # symbols of a stream at most
AT_ONCE = 10_000  # symbols of a dispatch
TESTED_AT_ONCE = 1_000
RATE = 0.5  # at the beginning of each stream
LAST_TEST = 2**31 - 1  # in place of a dispatch, for the streams of `test`
K = len(SYMBOLS)


class Algorithm(NamedTuple):
    """What the rows of the paper's Table 2 differ in."""

    held: float | None = None  # what forget gates are; None: they learn
    decay: float = 1.0  # of the rate, at each symbol of a training stream
    resets: bool = False  # the zero state at each string's beginning


class Lanes(NamedTuple):
    """Where each trial is; the trials are the last axis."""

    weights: Weights
    memory: Memory
    partials: Partials
    place: Array  # L, in the grammar
    steps: Array  # L, right ones of this stream so far
    rate: Array  # L
    test: Array  # L, 0 in a training stream; else which stream of a test it is
    streams: Array  # L, training streams that are over
    symbols: Array  # L, of those and of this one, in the last dispatch
    longest: Array  # L, right steps of the longest of them
    solved: Array  # L, bool


class Tested(NamedTuple):
    """Where streams to test with are, L of them."""

    memory: Memory
    place: Array  # L, in the grammar
    right: Array  # L, right steps before the first wrong one
    alive: Array  # L, whether there was no wrong one


def init_lanes(keys_L: Array) -> Lanes:
    """At the beginning of each trial's first stream."""
    L = keys_L.shape[0]
    place, steps, test, streams, symbols, longest = (jnp.zeros(L, jnp.int32) for _ in range(6))
    return Lanes(
        *(init_weights(keys_L, K, K), init_memory(L), init_partials(K, L)),
        *(place, steps, jnp.full(L, RATE), test, streams, symbols, longest),
        solved=jnp.zeros(L, bool),
    )


def of_lanes(a_L: Array, like: Array) -> Array:
    """A value for each lane, with axes of one for the others that `like` has."""
    return lax.expand_dims(a_L, range(like.ndim - 1))


def clear(tree: Any, where_L: Array) -> Any:
    """Some lanes set to zero."""
    return jax.tree.map(lambda leaf: jnp.where(of_lanes(where_L, leaf), 0, leaf), tree)


def is_wrong(y_KxL: Array, target_KxL: Array) -> Array:
    """Where an output is too far off, L."""
    return wrong_steps(y_KxL.T[None], target_KxL.T[None])[0]


def read_symbol(place_L: Array, choice_L: Array) -> tuple[Array, Array, Array]:
    """The next place, the symbol on the way there, DxL, and those that may follow, KxL."""
    symbol_L = jnp.asarray(SYMBOL_Px2, jnp.int32)[place_L, choice_L]
    next_L = jnp.asarray(NEXT_Px2, jnp.int32)[place_L, choice_L]
    x_DxL = (symbol_L[None] == jnp.arange(K, dtype=jnp.int32)[:, None]).astype(float)
    return next_L, x_DxL, jnp.asarray(POSSIBLE_Px7.T, float)[:, next_L]


def as_count(where_L: Array) -> Array:
    return where_L.astype(jnp.int32)


def is_over(lanes: Lanes, most: Array) -> Array:
    """Which trials are solved, or have had so many training streams and the test after them."""
    return lanes.solved | ((lanes.streams >= most) & (lanes.test == 0))


def step(algorithm: Algorithm, most: Array, lanes: Lanes, choice_L: Array) -> Lanes:
    """One symbol of every trial that is not over."""
    learns_L = (lanes.test == 0) & ~is_over(lanes, most)
    begins_L = lanes.place == 0 if algorithm.resets else lanes.steps == 0
    memory, partials = (clear(tree, begins_L) for tree in (lanes.memory, lanes.partials))
    place_L, x_DxL, target_KxL = read_symbol(lanes.place, choice_L)
    after, units = advance(lanes.weights, memory, x_DxL, algorithm.held)
    partials = carry(memory, partials, units, algorithm.held)
    y_KxL = read_out(lanes.weights, after.h, x_DxL)
    slope = gradient(lanes.weights, partials, units, after.h, x_DxL, y_KxL, target_KxL)
    rate_L = jnp.where(learns_L, lanes.rate, 0)
    weights = jax.tree.map(lambda w, dw: w - of_lanes(rate_L, w) * dw, lanes.weights, slope)
    wrong_L = is_wrong(y_KxL, target_KxL)
    moved = lanes._replace(weights=weights, memory=after, partials=partials, place=place_L)
    return end_streams(algorithm, moved, wrong_L, learns_L)


def end_streams(algorithm: Algorithm, lanes: Lanes, wrong_L: Array, learns_L: Array) -> Lanes:
    """After a step: what it counts for, and another stream where this one is over."""
    steps_L = lanes.steps + as_count(~wrong_L)
    over_L = wrong_L | (steps_L >= STREAM)
    passed_L = over_L & ~wrong_L & (lanes.test > 0)
    test_L = jnp.where(passed_L, lanes.test + 1, jnp.where(learns_L & over_L, 1, 0))
    test_L = jnp.where(over_L, test_L, lanes.test)
    solved_L = lanes.solved | (test_L > TEST_STREAMS)
    return lanes._replace(
        place=jnp.where(over_L, 0, lanes.place),
        steps=jnp.where(over_L, 0, steps_L),
        rate=jnp.where(over_L, RATE, lanes.rate * algorithm.decay),
        test=jnp.where(solved_L, 0, test_L),
        streams=lanes.streams + as_count(learns_L & over_L),
        symbols=lanes.symbols + as_count(learns_L),
        longest=jnp.where(learns_L, jnp.maximum(lanes.longest, steps_L), lanes.longest),
        solved=solved_L,
    )


def draw_choices(key: Array, trials_L: Array, dispatch: Array, symbols: int) -> Array:
    """Of each trial, whichever others there are: TxL of 0 and 1."""

    def of(trial: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, trial), dispatch)
        return jax.random.bits(own, (symbols,), jnp.uint8) & 1

    return jax.vmap(of, out_axes=1)(trials_L).astype(jnp.int32)


@partial(jax.jit, static_argnames=("algorithm", "symbols"), donate_argnames="lanes")
def dispatch_steps(
    algorithm: Algorithm,
    symbols: int,
    lanes: Lanes,
    most: Array,
    key: Array,
    trials_L: Array,
    dispatch: Array,
) -> Lanes:
    """So many symbols of each of these trials; the others stay where they are."""
    lanes = lanes._replace(symbols=jnp.zeros_like(lanes.symbols))
    some = jax.tree.map(lambda leaf: leaf[..., trials_L], lanes)
    choices_TxL = draw_choices(key, trials_L, dispatch, symbols)
    move = partial(step, algorithm, most)
    some, _ = lax.scan(lambda some, choice_L: (move(some, choice_L), None), some, choices_TxL)
    return jax.tree.map(lambda leaf, new: leaf.at[..., trials_L].set(new), lanes, some)


@partial(jax.jit, static_argnames=("algorithm", "symbols"))
def test_steps(
    algorithm: Algorithm,
    symbols: int,
    weights: Weights,
    state: Tested,
    key: Array,
    streams_L: Array,
    dispatch: Array,
) -> Tested:
    """So many symbols of streams to test with."""
    choices_TxL = draw_choices(key, streams_L, dispatch, symbols)

    def move(state: Tested, choice_L: Array) -> tuple[Tested, None]:
        memory, place_L, right_L, alive_L = state
        if algorithm.resets:
            memory = clear(memory, place_L == 0)
        place_L, x_DxL, target_KxL = read_symbol(place_L, choice_L)
        memory, _ = advance(weights, memory, x_DxL, algorithm.held)
        y_KxL = read_out(weights, memory.h, x_DxL)
        alive_L &= ~is_wrong(y_KxL, target_KxL)
        return Tested(memory, place_L, right_L + as_count(alive_L), alive_L), None

    return lax.scan(move, state, choices_TxL)[0]


def test(algorithm: Algorithm, weights: Weights, key: Array) -> np.ndarray:
    """Right steps of each network's test streams before the first wrong one, in the mean: L.

    The streams are the same ones for every network. Half of them are dropped when half are over.
    """
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf, TEST_STREAMS, axis=-1), weights)
    going = np.arange(many.V.shape[-1])
    right, zeros_L = np.zeros(len(going)), jnp.zeros(len(going), jnp.int32)
    state = Tested(init_memory(len(going)), zeros_L, zeros_L, jnp.ones(len(going), bool))
    key, symbols = jax.random.fold_in(key, LAST_TEST), TESTED_AT_ONCE
    for dispatch in range(STREAM // symbols):
        streams_L = jnp.asarray(going % TEST_STREAMS)
        state = test_steps(
            *(algorithm, symbols, many, state, key, streams_L, jnp.asarray(dispatch))
        )
        right[going] = state.right
        alive = np.flatnonzero(state.alive)
        if not len(alive):
            break
        if 2 * len(alive) <= len(going):
            going = going[alive]
            many, state = jax.tree.map(lambda leaf, at=alive: leaf[..., at], (many, state))
    return right.reshape(-1, TEST_STREAMS).mean(axis=1)


def padded(trials: np.ndarray) -> np.ndarray:
    """With the first one repeated, so that there are few different numbers of them to compile."""
    missing = -len(trials) % (8 if len(trials) <= 8 else 16)
    return np.concatenate([trials, np.repeat(trials[:1], missing)])


class Streams:
    """The trials of one algorithm: the same one of the same seed is the same, however many there
    are."""

    def __init__(self, algorithm: Algorithm, trials: int, seed: int) -> None:
        self.algorithm, self.key = algorithm, jax.random.key(seed)
        keys = jax.vmap(partial(jax.random.fold_in, self.key))(jnp.arange(trials))
        self.lanes: Lanes = jax.jit(init_lanes)(keys)
        self.symbols = np.zeros(trials, np.int64)  # training symbols of each trial
        self.dispatches, self.seconds = 0, 0.0

    def going(self, most: int) -> np.ndarray:
        """The trials that are not over."""
        return np.flatnonzero(~np.asarray(is_over(self.lanes, jnp.asarray(most))))

    def run(self, most: int) -> Iterator[None]:
        """Trains until every trial is solved or has had `most` streams."""
        while len(going := self.going(most)):
            start, trials_L = time.perf_counter(), jnp.asarray(padded(going))
            self.lanes = dispatch_steps(
                *(self.algorithm, AT_ONCE, self.lanes, jnp.asarray(most)),
                *(self.key, trials_L, jnp.asarray(self.dispatches)),
            )
            self.symbols += np.asarray(self.lanes.symbols)
            self.dispatches += 1
            self.seconds += time.perf_counter() - start
            yield

    def test(self, trials: np.ndarray) -> np.ndarray:
        """Right steps before the first wrong one, in the mean over test streams, of these."""
        weights = jax.tree.map(lambda leaf: leaf[..., trials], self.lanes.weights)
        return test(self.algorithm, weights, self.key)

    def save(self, path: Path) -> None:
        """Writes where the trials are."""
        counts = {"dispatches": self.dispatches, "seconds": self.seconds}
        saved.save(path, self.lanes, symbols=self.symbols, **counts)

    def load(self, path: Path) -> None:
        """Goes on where `save` has been; UserError where that is damaged, or of other trials."""
        self.lanes, beside = saved.load(path, self.lanes)
        self.symbols = beside["symbols"]
        self.dispatches, self.seconds = int(beside["dispatches"]), float(beside["seconds"])
