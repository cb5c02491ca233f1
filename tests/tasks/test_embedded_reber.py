"""The embedded Reber grammar, held against a regular expression, and a table walked in a loop."""

import re

import numpy as np
import pytest

from lstm_jax.tasks.embedded_reber import EmbeddedReberTask, draw_sets
from lstm_jax.tasks.grammar import draw_string

SYMBOLS = "BTPSXVE"
INNER = "B(?:TS*X(?:XT*VP)*(?:S|XT*VV)|PT*V(?:PXT*V)*(?:PS|V))E"
STRING = re.compile(f"B([TP]){INNER}\\1E")
# The grammar as it is drawn in the literature: by node, each symbol on an arrow and where it leads.
ARROWS = {
    "begin": {"B": "1"},
    "1": {"T": "2", "P": "3"},
    "2": {"S": "2", "X": "4"},
    "3": {"T": "3", "V": "5"},
    "4": {"X": "3", "S": "6"},
    "5": {"P": "4", "V": "6"},
    "6": {"E": "end"},
}


def may_follow(string):
    """After each symbol: which may come next, as a set. Behind a string another one begins."""
    found, node = [], "outer begin"
    for symbol in string:
        if node == "outer begin":
            node, allowed = "outer choice", {"T", "P"}
        elif node == "outer choice":
            outer, node = symbol, "begin"
            allowed = {"B"}
        elif node == "outer repeated":
            node, allowed = "outer end", {"E"}
        elif node == "outer end":
            node, allowed = "outer begin", {"B"}
        elif (node := ARROWS[node][symbol]) == "end":
            node, allowed = "outer repeated", {outer}
        else:
            allowed = set(ARROWS[node])
        found.append(allowed)
    return found


def many_hot(sets):
    return np.array([[symbol in some for symbol in SYMBOLS] for some in sets], np.float32)


def strings_of(batch):
    """What each lane reads and is to say, back in letters."""
    for lane in range(batch.inputs.shape[1]):
        steps = batch.live[:, lane]
        assert (batch.inputs[steps, lane].sum(-1) == 1).all()
        assert not batch.inputs[~steps, lane].any() and not batch.targets[~steps, lane].any()
        read = "".join(SYMBOLS[n] for n in batch.inputs[steps, lane].argmax(-1))
        said = "".join(SYMBOLS[n] for n in batch.targets[steps, lane].argmax(-1))
        assert read[1:] == said[:-1]
        yield read + said[-1]


def test_what_is_drawn_are_strings_as_often_as_the_grammar_has_them(rng):
    drawn = [draw_string(rng) for _ in range(20_000)]
    assert all(map(STRING.fullmatch, drawn))
    lengths = np.array([*map(len, drawn)])
    assert lengths.min() == 9 and abs(lengths.mean() - 12) < 5 * lengths.std() / 20_000**0.5
    # BTXSE and BPVVE are the shortest inside: three arcs of probability 1/2 each.
    for share, p in (
        (np.mean(lengths == 9), 1 / 4),
        (np.mean([string[1] == "T" for string in drawn]), 1 / 2),
        (np.mean([string.startswith("BTBPTTV") for string in drawn]), 1 / 32),
    ):
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / 20_000)
    beginnings = {}
    for string in drawn:
        for n, allowed in enumerate(may_follow(string)[:-1], start=1):
            assert string[n] in allowed
            beginnings.setdefault(string[:n], set()).add(string[n])
    for beginning in ("B", "BP", "BPBTSX", "BTBTXS", "BTBTXSE", "BPBPVV", "BTBTSSS"):
        assert beginnings[beginning] == may_follow(beginning)[-1]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_string_to_test_with_is_trained_on(number):
    trained, tested = draw_sets(number)
    assert len(trained) == len(tested) == 256 and not {*trained} & {*tested}
    assert all(map(STRING.fullmatch, trained + tested)) and max(map(len, tested)) <= 41
    assert draw_sets(number) == (trained, tested) != draw_sets(number + 1)


def test_batches_are_strings_of_the_training_set():
    """Whatever the seed, which draws from the set and not the set."""
    trained, tested = draw_sets(2)
    task, other = (EmbeddedReberTask(2, "all", 50, seed) for seed in (0, 1))
    drawn = [*strings_of(task.batch_at(4))]
    assert {*drawn} <= {*trained} and drawn != [*strings_of(other.batch_at(4))]
    assert [*strings_of(task.held_out_part(0))] == tested + trained
    ((part, count),) = task.held_out_parts()
    assert count == 512 and part.resets[0].all() and not part.resets[1:].any()
    assert (part.mask == part.live).all()


def plainly_right(predictions_7, allowed, right):
    best = max(p for p, symbol in zip(predictions_7, SYMBOLS, strict=True) if symbol not in allowed)
    of_allowed = [p for p, symbol in zip(predictions_7, SYMBOLS, strict=True) if symbol in allowed]
    return min(of_allowed) > best if right == "all" else max(of_allowed) > best


@pytest.mark.parametrize("right", ["all", "one"])
def test_a_score_is_what_a_loop_over_steps_says(right, rng):
    task = EmbeddedReberTask(1, right, 40, 0)
    batch = task.batch_at(0)
    predictions = rng.uniform(0, 1, batch.targets.shape).astype(np.float32)
    strings = [*strings_of(batch)]
    for lane, string in enumerate(strings):
        allowed = many_hot(may_follow(string[:-1]))
        predictions[: len(string) - 1, lane] *= 0.9 + 0.2 * allowed
        predictions[: len(string) - 1, lane] += rng.choice([0.7, 0.95]) * allowed
    predictions[3, 0] = 0.5  # none is the most active one
    found = task.score(predictions, batch)
    wrong, errors = [], []
    for lane, string in enumerate(strings):
        steps = range(len(string) - 1)
        allowed = may_follow(string[:-1])
        wrong.append(not all(plainly_right(predictions[t, lane], allowed[t], right) for t in steps))
        differences = [predictions[t, lane] - batch.targets[t, lane] for t in steps]
        errors.append(np.mean([np.sum(d.astype(np.float64) ** 2) for d in differences]))
    assert found.wrong.tolist() == wrong and wrong[0] and 0 < sum(wrong) < 40
    np.testing.assert_allclose(found.error, errors, rtol=1e-5)


def test_a_sample_says_how_far_a_string_is_right(monkeypatch):
    task = EmbeddedReberTask(1, "all", 3, 0)
    part, strings = task.held_out_part(0), draw_sets(1)[1]
    outputs = np.full(part.targets.shape, -1.0)
    for lane, string in enumerate(strings):
        outputs[: len(string) - 1, lane] = 2 * many_hot(may_follow(string[:-1])) - 1
    outputs[4, 1] = 0
    monkeypatch.setattr(task, "held_out_outputs", lambda *_: iter([(part, outputs)]))
    first, second, *others = task.sample(None, None).splitlines()
    assert first == f"{strings[0]}  right" and len(others) == 3
    assert second == f"{strings[1]}  wrong after {strings[1][:5]}"
