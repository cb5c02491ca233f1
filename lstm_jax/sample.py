"""Sampling: prime the model with a prompt, then let it read what it writes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lstm_jax.errors import UserError
from lstm_jax.model import Carry, Masks, ModelParams, apply, init_carry
from lstm_jax.options import Section, option

PIECE = 32  # characters of one compiled scan: how often a reader sees something new


@dataclass(frozen=True)
class SamplingConfig(Section):
    """How to choose a character from the model's distribution; not a part of a run's config."""

    prefix = ""

    temperature: float = option(0.8, "divides the logits; 0: always the likeliest", low=0, high=1e3)
    top_k: int = option(0, "choose among the k likeliest; 0: all", low=0, high=2**31 - 1)
    top_p: float = option(1.0, "choose among the likeliest that make up p; 1: all", low=0, high=1)


def filter_logits(logits_BxV: Array, top_k: int, top_p: float) -> Array:
    """Logits with all but the likeliest symbols at -inf.

    Args:
      top_k: keep the k likeliest; 0: all. Of equals those with the lower ids, here and below.
      top_p: of those, keep the smallest set whose probability reaches p (nucleus sampling,
        Holtzman et al. 2020); the likeliest is always kept. 1: all.
    """
    if top_k:
        _, kept_Bxk = lax.top_k(logits_BxV, min(top_k, logits_BxV.shape[-1]))
        keep_BxV = jnp.zeros(logits_BxV.shape, bool)
        keep_BxV = jnp.put_along_axis(keep_BxV, kept_Bxk, True, -1, inplace=False)
        logits_BxV = jnp.where(keep_BxV, logits_BxV, -jnp.inf)
    if top_p < 1:
        order_BxV = jnp.argsort(logits_BxV, axis=-1, descending=True)
        sorted_BxV = jax.nn.softmax(jnp.take_along_axis(logits_BxV, order_BxV, -1))
        before_BxV = jnp.cumsum(sorted_BxV, axis=-1) - sorted_BxV
        keep_BxV = (before_BxV < top_p).at[:, 0].set(True)
        rank_BxV = jnp.argsort(order_BxV, axis=-1)
        keep_BxV = jnp.take_along_axis(keep_BxV, rank_BxV, -1)
        logits_BxV = jnp.where(keep_BxV, logits_BxV, -jnp.inf)
    return logits_BxV


def choose(keys_B: Array, logits_BxV: Array, config: SamplingConfig) -> Array:
    """One id for each row; temperature 0 takes the likeliest."""
    if config.temperature == 0:
        return jnp.argmax(logits_BxV, axis=-1)
    # The largest at 0 first: a tiny temperature then sends the others to -inf, and nothing to inf.
    logits_BxV = logits_BxV - jnp.max(logits_BxV, axis=-1, keepdims=True)
    logits_BxV = filter_logits(logits_BxV / config.temperature, config.top_k, config.top_p)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BxV)


def on_one_device(tree: Any) -> Any:
    """Sampling is one short chain of steps: parameters that training left on many devices would
    have each of them compute the same."""
    return jax.device_put(tree, jax.local_devices()[0])


class SampleState(NamedTuple):
    """Where samples stand: `generate` goes on from it, with more to read or without."""

    carry: Carry
    logits: Array  # BxV, of what comes next
    written: int  # how many characters of each were drawn: the next one's key follows from it


@jax.jit
def _read_piece(
    params: ModelParams, carry: Carry, ids_TxB: Array, count: int, masks: Masks | None
) -> tuple[Carry, Array]:
    """Reads the first `count` of PIECE ids; what follows them is padding."""
    live_TxB = jnp.broadcast_to(jnp.arange(PIECE)[:, None] < count, ids_TxB.shape)
    logits_TxBxV, carry = apply(params, carry, ids_TxB, masks, live_TxB=live_TxB)
    return carry, logits_TxBxV[count - 1]


def read(
    params: ModelParams,
    prompt: np.ndarray,
    state: SampleState | None = None,
    masks: Masks | None = None,
) -> SampleState:
    """Where one sample stands after a prompt; or each of those that stand at a state."""
    carry, logits_BxV, written = state or (on_one_device(init_carry(params, 1)), None, 0)
    B = len(jax.tree.leaves(carry)[0])
    for start in range(0, len(prompt), PIECE):
        piece = prompt[start : start + PIECE]
        ids_T = np.zeros(PIECE, np.int32)
        ids_T[: len(piece)] = piece
        ids_TxB = np.broadcast_to(ids_T[:, None], (PIECE, B))
        carry, logits_BxV = _read_piece(params, carry, ids_TxB, len(piece), masks)
    if logits_BxV is None:
        raise UserError("the prompt is empty: give the model at least one character to read")
    return SampleState(carry, logits_BxV, written)


@partial(jax.jit, static_argnames="num_samples")
def _repeat(one: tuple[Carry, Array], num_samples: int) -> tuple[Carry, Array]:
    """One sample's carry and logits as those of many."""
    return jax.tree.map(lambda a: jnp.repeat(a, num_samples, 0), one)


@partial(jax.jit, static_argnames="config")
def _write_piece(
    params: ModelParams,
    keys_B: Array,
    carry: Carry,
    logits_BxV: Array,
    start: int,
    end: int,
    masks: Masks | None,
    config: SamplingConfig,
) -> tuple[Carry, Array, Array]:
    """The characters of every sample from position `start` on: PIECE, or fewer up to `end`."""

    def draw(state: tuple[Carry, Array], position: Array) -> tuple[tuple[Carry, Array], Array]:
        carry, logits_BxV = state
        position_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, position)
        ids_B = choose(position_keys_B, logits_BxV, config)
        logits_TxBxV, carry = apply(params, carry, ids_B[None], masks)
        return (carry, logits_TxBxV[0]), ids_B

    def stay(state: tuple[Carry, Array], _: Array) -> tuple[tuple[Carry, Array], Array]:
        return state, jnp.zeros(len(keys_B), int)

    def step(state: tuple[Carry, Array], position: Array) -> tuple[tuple[Carry, Array], Array]:
        return lax.cond(position < end, draw, stay, state, position)

    (carry, logits_BxV), ids_TxB = lax.scan(step, (carry, logits_BxV), start + jnp.arange(PIECE))
    return carry, logits_BxV, ids_TxB


def _write(
    params: ModelParams,
    key: Array,
    state: SampleState,
    length: int,
    config: SamplingConfig,
    masks: Masks | None,
) -> Iterator[tuple[np.ndarray, SampleState]]:
    """Pieces of what is written, num_samples x (PIECE or fewer), and where that leads."""
    carry, logits_BxV, written = state
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(logits_BxV)))
    end = written + length
    for start in range(written, end, PIECE):
        carry, logits_BxV, ids_TxB = _write_piece(
            params, keys_B, carry, logits_BxV, start, end, masks, config
        )
        stop = min(start + PIECE, end)
        yield np.asarray(ids_TxB).T[:, : stop - start], SampleState(carry, logits_BxV, stop)


def _begin(
    params: ModelParams,
    prompt: np.ndarray,
    num_samples: int,
    masks: Masks | None,
    state: SampleState | None,
) -> SampleState:
    """Where so many samples begin, after a prompt."""
    carry, logits_BxV, written = read(params, prompt, state, masks)
    if (B := len(logits_BxV)) not in (1, num_samples):
        raise UserError(f"the state is of {B} samples, not of num_samples={num_samples}")
    if num_samples != B:
        carry, logits_BxV = _repeat((carry, logits_BxV), num_samples)
    return SampleState(carry, logits_BxV, written)


def generate_pieces(
    params: ModelParams,
    key: Array,
    prompt: np.ndarray,
    length: int,
    config: SamplingConfig = SamplingConfig(),
    num_samples: int = 1,
    masks: Masks | None = None,
) -> Iterator[np.ndarray]:
    """Yields the continuation in pieces as they are made: ids num_samples x (PIECE or fewer).

    Sample n draws its character t with fold_in(fold_in(key, n), t): its text does not depend on
    how many samples are drawn beside it, nor on the length asked for. `masks`: what stands for
    training's where nothing is dropped (`masks.evaluation_masks`).
    """
    params = on_one_device(params)
    state = _begin(params, prompt, num_samples, masks, None)
    for ids, _ in _write(params, key, state, length, config, masks):
        yield ids


def generate(
    params: ModelParams,
    key: Array,
    prompt: np.ndarray,
    length: int,
    config: SamplingConfig = SamplingConfig(),
    num_samples: int = 1,
    masks: Masks | None = None,
    state: SampleState | None = None,
) -> tuple[np.ndarray, SampleState]:
    """Continues a prompt of ids: ids num_samples x length, and where the samples then stand.

    Given that state, it goes on from there after the prompt, which may then be empty. The same key
    gives the same text; written in two parts, it is the text that is written in one.
    """
    params = on_one_device(params)
    start = end = _begin(params, prompt, num_samples, masks, state)
    pieces = [np.zeros((num_samples, 0), np.int32)]
    for ids, end in _write(params, key, start, length, config, masks):  # noqa: B007
        pieces.append(ids)
    return np.concatenate(pieces, axis=1), end
