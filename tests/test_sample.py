"""Sampling against a plain loop, and its distribution against the model's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import sample as sampling
from lstm_jax.config import ModelConfig
from lstm_jax.errors import UserError
from lstm_jax.model import apply, init_carry, init_model
from lstm_jax.sample import PIECE, SamplingConfig, choose, filter_logits, generate, generate_pieces

V = 7
PROMPT = np.array([1, 2, 3], np.uint8)


@pytest.fixture
def params(rng):
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=6, num_layers=2), V)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)


def test_greedy_is_the_likeliest_character_each_time(params):
    length = PIECE + 5
    found, _ = generate(params, jax.random.key(0), PROMPT, length, SamplingConfig(temperature=0))
    text = np.concatenate([PROMPT, found[0]])
    for t in (0, 1, PIECE - 1, PIECE, length - 1):  # read everything before t again
        logits, _ = apply(params, init_carry(params, 1), jnp.asarray(text[: 3 + t])[:, None])
        assert int(jnp.argmax(logits[-1, 0])) == found[0, t]


def test_the_same_seed_gives_the_same_text_however_much_is_asked_for(params):
    key = jax.random.key(5)
    one, _ = generate(params, key, PROMPT, 40)
    many, _ = generate(params, key, PROMPT, 70, num_samples=3)
    np.testing.assert_array_equal(one[0], many[0, :40])
    assert len({tuple(row) for row in many}) == 3
    assert not np.array_equal(one, generate(params, jax.random.key(6), PROMPT, 40)[0])


def test_every_character_has_a_key_of_its_own(params):
    """Of a model that always predicts the same, so that a text tells its keys and nothing else."""
    always = jax.tree.map(jnp.zeros_like, params)
    always = always._replace(readout=always.readout._replace(b=params.readout.b))
    config, key = SamplingConfig(temperature=2.0), jax.random.key(3)
    found, _ = generate(always, key, PROMPT, 2 * PIECE + 3, config, num_samples=2)
    for sample, text in enumerate(found):
        of_sample = jax.random.fold_in(key, sample)
        wanted = [
            int(jax.random.categorical(jax.random.fold_in(of_sample, t), params.readout.b / 2.0))
            for t in range(len(text))
        ]
        assert text.tolist() == wanted
        assert wanted[:PIECE] != wanted[PIECE : 2 * PIECE]


def test_pieces_come_one_by_one(params):
    pieces = generate_pieces(params, jax.random.key(0), PROMPT, 2 * PIECE + 1)
    assert [piece.shape for piece in pieces] == [(1, PIECE), (1, PIECE), (1, 1)]


def test_an_empty_prompt_is_refused_and_a_state_of_other_samples(params):
    with pytest.raises(UserError, match="prompt is empty"):
        generate(params, jax.random.key(0), PROMPT[:0], 5)
    _, state = generate(params, jax.random.key(0), PROMPT, 0, num_samples=2)
    with pytest.raises(UserError, match="of 2 samples, not of num_samples=3"):
        generate(params, jax.random.key(0), PROMPT, 5, num_samples=3, state=state)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_what_is_written_in_parts_is_what_is_written_at_once(num_samples, params):
    """To the bit, its state as well; and a state may be gone on from twice."""
    key, length = jax.random.key(5), 2 * PIECE + 7
    whole, end = generate(params, key, PROMPT, length, num_samples=num_samples)
    parts, state, prompt = [], None, PROMPT
    for n in (0, 3, PIECE, 0, length - PIECE - 3):
        again, _ = generate(params, key, prompt, n, num_samples=num_samples, state=state)
        ids, state = generate(params, key, prompt, n, num_samples=num_samples, state=state)
        np.testing.assert_array_equal(again, ids)
        parts, prompt = [*parts, ids], PROMPT[:0]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    jax.tree.map(np.testing.assert_array_equal, state, end)


def test_a_conversation_is_one_text(params, rng):
    """Prompts of all kinds of lengths in turn with what is written, read again in one go."""
    read_all, text, state = jax.jit(apply), np.zeros((2, 0), int), None
    for length in (1, PIECE - 1, PIECE, 2 * PIECE + 5):
        prompt = rng.integers(V, size=length)
        ids, state = generate(params, jax.random.key(0), prompt, 5, num_samples=2, state=state)
        text = np.concatenate([text, np.tile(prompt, (2, 1)), ids], axis=1)
    logits, carry = read_all(params, init_carry(params, 2), jnp.asarray(text.T))
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(state.logits, logits[-1])
    jax.tree.map(close, state.carry, carry)
    assert state.written == 20 and not np.array_equal(*text)


def test_prompts_and_texts_of_any_length_share_two_programs(params):
    sampling._read_piece.clear_cache()
    sampling._write_piece.clear_cache()
    state = None
    for length in range(1, 2 * PIECE + 2, 7):
        prompt = np.zeros(length, np.uint8 if length % 2 else np.uint16)
        _, state = generate(params, jax.random.key(length), prompt, length, state=state)
        generate(params, jax.random.key(length), prompt, length)
    assert sampling._read_piece._cache_size() == sampling._write_piece._cache_size() == 1


@pytest.mark.parametrize("temperature", [0.0, 1e-38, 1e-3])
def test_a_tiny_temperature_takes_the_likeliest(temperature):
    logits = jnp.asarray([[5.0, -1.0, 9.0]])
    config = SamplingConfig(temperature=temperature)
    assert int(choose(jax.random.split(jax.random.key(0), 1), logits, config)[0]) == 2


PROBABILITIES = np.array([0.4, 0.3, 0.15, 0.1, 0.05])


@pytest.mark.parametrize(
    "top_k, top_p, kept",
    [
        (0, 1.0, 5),
        (2, 1.0, 2),
        (99, 1.0, 5),
        (0, 0.69, 2),
        (0, 0.71, 3),
        (0, 0.0, 1),
        (3, 0.5, 2),
    ],
)
def test_filters_keep_the_likeliest(top_k, top_p, kept, rng):
    order = rng.permutation(5)
    logits = jnp.asarray(np.log(PROBABILITIES)[order], jnp.float32)[None]
    found = np.isfinite(filter_logits(logits, top_k, top_p)[0])
    np.testing.assert_array_equal(found, order < kept)


@pytest.mark.parametrize("top_k, top_p", [(3, 1.0), (0, 0.55), (3, 0.9)])
def test_of_equals_the_filters_keep_the_first(top_k, top_p):
    """Of six symbols with the probabilities 1/5, 2/5, 1/10 and thrice 1/10 exactly three stay."""
    logits = jnp.log(jnp.asarray([[2.0, 4.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 4.0, 2.0]]))
    found = np.isfinite(filter_logits(logits, top_k, top_p))
    if top_k:
        assert found.tolist() == [[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, 1]]
    else:
        assert found.tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize("temperature, top_p, kept", [(0.5, 0.5, 1), (2.0, 0.75, 4)])
def test_top_p_is_of_the_tempered_distribution(temperature, top_p, kept):
    """Of the other one it would be 2, and 3."""
    keys = jax.random.split(jax.random.key(0), 500)
    logits = jnp.tile(jnp.log(jnp.asarray(PROBABILITIES, jnp.float32)), (500, 1))
    drawn = choose(keys, logits, SamplingConfig(temperature=temperature, top_p=top_p))
    assert {*drawn.tolist()} == {*range(kept)}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_distribution(temperature):
    n = 20000
    keys = jax.random.split(jax.random.key(0), n)
    logits = jnp.tile(jnp.log(jnp.asarray(PROBABILITIES, jnp.float32)), (n, 1))
    drawn = choose(keys, logits, SamplingConfig(temperature=temperature))
    wanted = PROBABILITIES ** (1 / temperature)
    wanted /= wanted.sum()
    shares = np.bincount(drawn, minlength=5) / n
    np.testing.assert_allclose(shares, wanted, atol=0.012)
