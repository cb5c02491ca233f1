"""Sampling: prime the model with a prompt, then let it read what it writes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

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


@partial(jax.jit, static_argnames="num_samples")
def _prime(
    params: ModelParams, prompt_Tx1: Array, masks: Masks | None, num_samples: int
) -> tuple[Array, Carry]:
    """Reads the prompt once, for all samples: the logits after it BxV, and the carry."""
    logits_Tx1xV, carry = apply(params, init_carry(params, 1), prompt_Tx1, masks)
    return jax.tree.map(lambda a: jnp.repeat(a, num_samples, 0), (logits_Tx1xV[-1], carry))


@partial(jax.jit, static_argnames="config", donate_argnums=(2, 3))
def _write_piece(
    params: ModelParams,
    keys_B: Array,
    carry: Carry,
    logits_BxV: Array,
    start: int,
    masks: Masks | None,
    config: SamplingConfig,
) -> tuple[Carry, Array, Array]:
    """The next PIECE characters of every sample, from position `start` on."""

    def step(state: tuple[Carry, Array], position: Array) -> tuple[tuple[Carry, Array], Array]:
        carry, logits_BxV = state
        position_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, position)
        ids_B = choose(position_keys_B, logits_BxV, config)
        logits_TxBxV, carry = apply(params, carry, ids_B[None], masks)
        return (carry, logits_TxBxV[0]), ids_B

    (carry, logits_BxV), ids_TxB = lax.scan(step, (carry, logits_BxV), start + jnp.arange(PIECE))
    return carry, logits_BxV, ids_TxB


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
    if not len(prompt):
        raise UserError("the prompt is empty: give the model at least one character to read")
    # Sampling is one short chain of steps: parameters that training left on many devices would
    # have each of them compute the same.
    params = jax.device_put(params, jax.local_devices()[0])
    logits_BxV, carry = _prime(params, jnp.asarray(prompt)[:, None], masks, num_samples)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_samples))
    for start in range(0, length, PIECE):
        carry, logits_BxV, ids_TxB = _write_piece(
            params, keys_B, carry, logits_BxV, start, masks, config
        )
        yield np.asarray(ids_TxB).T[:, : length - start]


def generate(
    params: ModelParams,
    key: Array,
    prompt: np.ndarray,
    length: int,
    config: SamplingConfig = SamplingConfig(),
    num_samples: int = 1,
    masks: Masks | None = None,
) -> np.ndarray:
    """Continues a prompt of ids: num_samples x length. The same key gives the same text."""
    pieces = generate_pieces(params, key, prompt, length, config, num_samples, masks)
    return np.concatenate(list(pieces), axis=1)
