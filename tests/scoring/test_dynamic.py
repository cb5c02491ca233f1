"""Dynamic evaluation against its definition, with gradients by finite differences of the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.lstm import LSTMState
from lstm_jax.config import EvaluateConfig, ModelConfig
from lstm_jax.data.batches import Documents
from lstm_jax.errors import UserError
from lstm_jax.masks import evaluation_masks
from lstm_jax.model import ModelParams, init_carry, init_model
from lstm_jax.scoring.dynamic import (
    DynamicConfig,
    evaluate_dynamic,
    make_rule,
    mean_squares,
    segment_losses,
)
from lstm_jax.scoring.protocols import mean_loss, stream_segments
from tests import oracle

V, N, LENGTH = 4, 24, 3
NONE_STAYS = LSTMState(0.0, 0.0)


@pytest.fixture
def problem(x64, rng):
    """Parameters, a training text and a split; 23 targets are no whole number of segments."""
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=2), V)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
    training, ids = (rng.integers(V, size=n).astype(np.uint8) for n in (N + 7, N))
    return params, training, ids


class Plain:
    """The model as a flat vector: losses by the oracle, gradients by central differences.

    `stay`: how much of h, and of c, a step leaves as it was.
    """

    def __init__(self, params: ModelParams, stay: LSTMState = NONE_STAYS) -> None:
        self.stay = stay
        leaves, self.tree = jax.tree.flatten(params)
        self.shapes = [leaf.shape for leaf in leaves]
        self.start = np.concatenate([np.ravel(leaf) for leaf in leaves])
        self.carry = init_carry(params, 1)

    def loss(self, flat, carry, piece):
        cuts = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        leaves = [p.reshape(s) for p, s in zip(np.split(flat, cuts), self.shapes, strict=True)]
        params = jax.tree.unflatten(self.tree, leaves)
        logits = []
        for symbol in piece[:-1]:
            _, (new,) = oracle.language_model(params, carry, [[symbol]])
            old_and_new = zip(self.stay, carry[0], new, strict=True)
            carry = self.carried([[k * old + (1 - k) * new for k, old, new in old_and_new]])
            logits.append(carry[0].h @ params.readout.W + params.readout.b)
        return oracle.cross_entropy(logits, piece[1:, None])[0], carry

    def gradient(self, flat, carry, piece, step=1e-5):
        ways = step * np.eye(len(flat))
        up, down = ([self.loss(flat + s * w, carry, piece)[0] for w in ways] for s in (1, -1))
        return (np.array(up) - np.array(down)) / (2 * step)

    def pieces(self, ids):
        return [ids[s : s + LENGTH + 1] for s in range(0, len(ids) - 1, LENGTH)]

    def carried(self, final):
        return tuple(type(s)(*pair) for s, pair in zip(self.carry, final, strict=True))

    def squares(self, training):
        total, carry = 0.0, self.carry
        pieces = self.pieces(training)
        for piece in pieces:
            total += self.gradient(self.start, carry, piece) ** 2
            carry = self.loss(self.start, carry, piece)[1]
        return total / len(pieces)

    def losses(self, ids, step, pull):
        flat, carry, losses = self.start, self.carry, []
        for piece in self.pieces(ids):
            loss, final = self.loss(flat, carry, piece)
            losses.append(loss)
            gradient = self.gradient(flat, carry, piece)
            flat = flat - step * gradient + pull * (self.start - flat)
            carry = final
        return losses


@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_it_is_its_definition(rule, problem):
    params, training, ids = problem
    epsilon = 0.1 if rule == "rms" else None
    config = DynamicConfig(rule, LENGTH, rate=0.3, decay=0.7, epsilon=epsilon)
    plain = Plain(params)
    step, pull = 0.3, 0.7
    if rule == "rms":
        roots = np.sqrt(plain.squares(training))
        step, pull = 0.3 / (roots + 0.1), np.minimum(0.7 * roots / roots.mean(), 1)
        assert (pull == 1).any() and (pull < 1).any()
    expected = plain.losses(ids, step, pull)
    found, counts = segment_losses(params, ids, make_rule(params, training, config), LENGTH)
    assert counts.tolist() == [3] * 7 + [2]
    np.testing.assert_allclose(found, expected, atol=1e-8)
    mean = np.dot(expected, counts) / (N - 1)
    assert evaluate_dynamic(params, training, ids, config) == pytest.approx(mean, abs=1e-8)
    assert (
        abs(evaluate_dynamic(params, training, ids, DynamicConfig(rule, LENGTH, 0.1)) - mean) > 1e-3
    )


def test_the_statistics_too_are_of_a_model_with_its_zoneout(problem):
    params, training, ids = problem
    config = DynamicConfig("rms", LENGTH, rate=0.3, decay=0.7, epsilon=0.1)
    plain = Plain(params, LSTMState(h=0.3, c=0.6))
    roots = np.sqrt(plain.squares(training))
    step, pull = 0.3 / (roots + 0.1), np.minimum(0.7 * roots / roots.mean(), 1)
    expected = np.dot(plain.losses(ids, step, pull), [3] * 7 + [2]) / (N - 1)
    masks = evaluation_masks(ModelConfig(zoneout_hidden=0.3, zoneout_cell=0.6))
    found = evaluate_dynamic(params, training, ids, config, masks=masks)
    assert found == pytest.approx(expected, abs=1e-8)
    rule = make_rule(params, training, config)
    losses, counts = segment_losses(params, ids, rule, LENGTH, masks=masks)
    assert abs(losses @ counts / counts.sum() - found) > 1e-4


def test_each_document_is_read_from_the_zero_state(problem):
    """Documents of two segments each, the second of which ends with a separator."""
    params, *texts = problem
    training, ids = (np.where(np.arange(13) % 6 == 5, 3, text[:13] % 3) for text in texts)
    plain, config = Plain(params), DynamicConfig("rms", LENGTH, 0.3, 0.7, epsilon=0.1)
    roots = np.sqrt((plain.squares(training[:7]) + plain.squares(training[6:])) / 2)
    step, pull = 0.3 / (roots + 0.1), np.minimum(0.7 * roots / roots.mean(), 1)
    flat, carry, expected = plain.start, plain.carry, []
    for number, piece in enumerate(plain.pieces(ids)):
        carry = carry if number % 2 else plain.carry
        gradient = plain.gradient(flat, carry, piece)
        loss, carry = plain.loss(flat, carry, piece)
        expected.append(loss)
        flat = flat - step * gradient + pull * (plain.start - flat)
    rule = make_rule(params, Documents(training, np.array([3])), config)
    found, _ = segment_losses(params, Documents(ids, np.array([3])), rule, LENGTH)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_the_statistics_are_of_the_last_segments(problem, monkeypatch):
    params, training, _ = problem
    monkeypatch.setattr("lstm_jax.scoring.dynamic.SQUARES_SEGMENTS", 4)
    wanted = Plain(params).squares(training[-(4 * LENGTH + 1) :])
    for text in (training, training[1:]):
        found = jax.tree.leaves(mean_squares(params, text, LENGTH))
        np.testing.assert_allclose(np.concatenate([*map(np.ravel, found)]), wanted, atol=1e-8)


def test_the_statistics_are_of_two_thousand_segments(problem, rng):
    """What comes before them changes nothing; the first character that they read does."""
    params, text = problem[0], rng.integers(V, size=2001 + 50).astype(np.uint8)

    def squares(text):
        found = jax.tree.leaves(mean_squares(params, text, 1))
        return np.concatenate([*map(np.ravel, found)])

    before, first = text.copy(), text.copy()
    before[:50] = 1 - before[:50] % 2
    first[50] = (first[50] + 1) % V
    np.testing.assert_array_equal(squares(before), squares(text))
    assert (squares(first) != squares(text)).any()


def test_without_learning_it_is_the_strict_stream(problem):
    params, training, ids = problem
    still = DynamicConfig("sgd", LENGTH, rate=0.0, decay=0.0)
    strict = mean_loss(params, stream_segments(ids, EvaluateConfig(lanes=1)))
    assert evaluate_dynamic(params, training, ids, still) == pytest.approx(strict, abs=1e-12)


def test_what_comes_later_changes_no_earlier_loss(problem):
    params, training, ids = problem
    rule = make_rule(params, training, DynamicConfig("sgd", LENGTH, rate=0.5))
    shuffled = np.concatenate([ids[:13], ids[13:][::-1]])
    (before, _), (after, _) = (segment_losses(params, x, rule, LENGTH) for x in (ids, shuffled))
    assert (before[:4] == after[:4]).all() and (before[4:] != after[4:]).any()


@pytest.mark.parametrize("place", [1, 5, 16])
def test_a_character_is_scored_before_it_is_learnt(place, problem):
    """Put each symbol in turn at one place: the chances that they are given add up to 1."""
    params, training, ids = problem
    rule = make_rule(params, training, DynamicConfig("sgd", 1, rate=2.0))
    chances = []
    for symbol in range(V):
        other = ids.copy()
        other[place] = symbol
        chances.append(np.exp(-segment_losses(params, other, rule, 1)[0][place - 1]))
    assert sum(chances) == pytest.approx(1, abs=1e-12)


def test_many_segments_are_the_same_in_any_number_of_dispatches(problem, monkeypatch):
    params, training, ids = problem
    rule = make_rule(params, training, DynamicConfig("sgd", 1, rate=0.5))
    whole = segment_losses(params, ids, rule, 1)[0]
    reports = []
    monkeypatch.setattr("lstm_jax.scoring.dynamic.DISPATCH_SEGMENTS", 7)
    parts = segment_losses(params, ids, rule, 1, reports.append)[0]
    np.testing.assert_allclose(parts, whole, rtol=1e-13)
    assert reports == [0.25, 0.5, 0.75, 1.0]


def test_a_training_text_below_one_segment_is_refused(problem):
    params, training, ids = problem
    with pytest.raises(UserError, match="dynamic_segment_length below 31"):
        evaluate_dynamic(params, training, ids, DynamicConfig("rms", 31))


@pytest.mark.usefixtures("x64")
def test_one_symbol_alone_teaches_nothing():
    """No gradient is anything but 0, and so is the mean that the pull is a share of."""
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=2), 1)
    ids = np.zeros(N, np.uint8)
    assert evaluate_dynamic(params, ids, ids, DynamicConfig("rms", LENGTH)) == 0


def test_a_loss_beyond_all_bounds_is_refused(problem):
    """A symbol that has no chance: learning makes a NaN of its bias, -inf pulled towards -inf."""
    params, training, ids = problem
    ids = np.minimum(ids, 2)
    bias = params.readout.b.at[3].set(-np.inf)
    params = params._replace(readout=params.readout._replace(b=bias))
    with pytest.raises(UserError, match=r"is nan in segment 2 of 8: take a lower dynamic_rate"):
        evaluate_dynamic(params, training, ids, DynamicConfig("sgd", LENGTH, rate=0.1))
