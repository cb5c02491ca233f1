"""Features of a text, and the units that go with them."""

import numpy as np
import pytest

from lstm_jax.cells.lstm_gates import LSTMState
from lstm_jax.inspection import ranking
from lstm_jax.inspection.choice import by_interest, chosen
from lstm_jax.inspection.features import FEATURES, features
from lstm_jax.inspection.ranking import Found, ranked
from lstm_jax.inspection.traces import Trace


def marked(name, text):
    """The characters for which a feature is true, and dots for the others."""
    pairs = zip(text, FEATURES[name](text), strict=True)
    return "".join(char if true or char == "\n" else "." for char, true in pairs)


@pytest.mark.parametrize(
    "name, text, wanted",
    [
        ("inside quotes", 'so "yes" he', '..."yes....'),
        ("inside quotes", "a “b” c", "..“b..."),
        ("inside quotes", 'a "b\n\nc', '.."b\n\n.'),
        ("inside quotes", "o' x\n'Give me,' quoth I", "....\n'Give me,........."),
        ("inside quotes", "'Tis I, John's", ".............."),
        ("inside brackets", "f(a[b]c)d", ".(a[b]c.."),
        ("inside a speaker's name", "FIRST Lord:\nO: no\n\nA:\nB:", "FIRST Lord.\n.....\n\nA.\n.."),
        ("inside a word in capitals", "A KING is I", "..KING....."),
        ("first word of a line", "To be\nOr not", "To...\nOr...."),
        ("a vowel", "HellO", ".e..O"),
        ("punctuation", "a, b\x07!", ".,...!"),
        ("the word ends next", "to be", ".o..."),
        ("a capital comes next", "a Bc", ". .."),
        ("a digit", "a1²", ".1²"),
    ],
)
def test_where_a_feature_is_true(name, text, wanted):
    assert marked(name, text) == wanted


def test_numbers_are_counted():
    assert FEATURES["position in the line"]("ab\ncd").tolist() == [1, 2, 0, 1, 2]
    assert FEATURES["position in the word"]("ab, c").tolist() == [1, 2, 0, 0, 1]
    assert FEATURES["indentation of the line"](" ab\n\n\tc").tolist() == [1, 1, 1, 1, 0, 1, 1]
    assert marked("an empty line", "a\n\nb") == ".\n\n."
    assert FEATURES["an empty line"]("a\n\n\nb").tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("text", ["", "\n", "a", "\U0001f600\ud7ff\x00\x85\u2028\r\n\t", "'" * 50])
def test_any_text_has_its_features(text):
    for name, values in features([*text]).items() if text else ():
        assert values.shape == (len(text),), name
    words = features(["to ", "be", "\n"])
    assert words["a blank"].tolist() == [True, False, False]


def layer_of(c_TxN, h_TxN):
    return Trace(LSTMState(h=h_TxN, c=c_TxN), {})


def auc(values, truth):
    """By its definition: of all pairs, how many are the right way round; a tie is half of one."""
    pairs = [
        (a > b) + (a == b) / 2
        for a, is_true in zip(values, truth, strict=True)
        for b, other in zip(values, truth, strict=True)
        if is_true and not other
    ]
    return sum(pairs) / len(pairs)


def test_scores_are_those_of_brute_force(rng):
    T = 160
    truth = rng.random(T) < 0.5
    number = rng.integers(5, size=T).astype(float)
    c = np.round(rng.normal(size=(T, 3)), 1)  # with ties
    c[:, 1] -= 2 * truth
    c[:, 2] += 2 * number
    layers = (layer_of(rng.normal(size=(T, 2)), np.zeros((T, 2))), layer_of(c, 0 * c))
    found = ranked(layers, {"truth": truth, "number": number, "rare": np.arange(T) < 3}, best=2)
    assert found["rare"] == []
    best = found["truth"][0]
    assert (best.layer, best.unit, best.field, best.sign) == (1, 1, "c", -1)
    first = np.arange(T) // 20 % 2 == 0
    assert np.isclose(best.chosen, auc(-c[first, 1], truth[first]))
    assert np.isclose(best.scored, auc(-c[~first, 1], truth[~first]))

    def balanced(threshold, part):
        below = c[part, 1] <= threshold
        return (np.mean(below[truth[part]]) + np.mean(~below[~truth[part]])) / 2

    assert balanced(best.threshold, first) == max(balanced(each, first) for each in c[first, 1])
    assert np.isclose(best.accuracy, balanced(best.threshold, ~first))

    best = found["number"][0]
    assert (best.layer, best.unit, best.sign, best.threshold) == (1, 2, 1, None)

    def ranks(values):
        return [np.sum(values < a) + (np.sum(values == a) + 1) / 2 for a in values]

    for score, part in ((best.chosen, first), (best.scored, ~first)):
        assert np.isclose(score, np.corrcoef(ranks(c[part, 2]), ranks(number[part]))[0, 1])


def test_the_score_is_of_steps_that_had_no_part_in_the_choice(rng):
    """Of many units that are noise the best is good where it was chosen, and nothing elsewhere."""
    T = 16 * ranking.FEWEST
    noise = layer_of(rng.normal(size=(T, 400)), np.zeros((T, 400)))
    best = ranked((noise,), {"coin": rng.random(T) < 0.5})["coin"]
    assert np.mean([each.chosen for each in best]) > 0.6
    assert abs(np.mean([each.scored for each in best]) - 0.5) < 0.05


def test_a_page_shows_the_units_that_stand_out(rng):
    layers = (layer_of(rng.normal(size=(9, 4)) * [1, 9, 2, 0], np.zeros((9, 4))),)
    unit = Found(0, 3, "c", 1, 1, 1, None, None)
    found = {"one": [unit], "two": [], "three": [unit._replace(unit=0), unit._replace(unit=2)]}
    order = by_interest(layers, found)
    assert order == [(0, 3), (0, 0), (0, 2), (0, 1)]
    both = ("c", "h")
    assert chosen(layers, order, 8) == dict.fromkeys(order, both)
    assert chosen(layers, order, 5) == {(0, 3): both, (0, 0): both, (0, 2): ("c",)}
    assert chosen(layers, order, 0) == {}
