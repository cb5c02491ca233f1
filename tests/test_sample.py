"""Sampling against a plain loop, and its distribution against the model's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    found = generate(params, jax.random.key(0), PROMPT, length, SamplingConfig(temperature=0))
    text = np.concatenate([PROMPT, found[0]])
    for t in (0, 1, PIECE - 1, PIECE, length - 1):  # read everything before t again
        logits, _ = apply(params, init_carry(params, 1), jnp.asarray(text[: 3 + t])[:, None])
        assert int(jnp.argmax(logits[-1, 0])) == found[0, t]


def test_the_same_seed_gives_the_same_text_however_much_is_asked_for(params):
    key = jax.random.key(5)
    one = generate(params, key, PROMPT, 40)
    many = generate(params, key, PROMPT, 70, num_samples=3)
    np.testing.assert_array_equal(one[0], many[0, :40])
    assert len({tuple(row) for row in many}) == 3
    assert not np.array_equal(one, generate(params, jax.random.key(6), PROMPT, 40))


def test_every_character_has_a_key_of_its_own(params):
    """Of a model that always predicts the same, so that a text tells its keys and nothing else."""
    always = jax.tree.map(jnp.zeros_like, params)
    always = always._replace(readout=always.readout._replace(b=params.readout.b))
    config, key = SamplingConfig(temperature=2.0), jax.random.key(3)
    found = generate(always, key, PROMPT, 2 * PIECE + 3, config, num_samples=2)
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


def test_an_empty_prompt_is_refused(params):
    with pytest.raises(UserError, match="prompt is empty"):
        generate(params, jax.random.key(0), PROMPT[:0], 5)


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
