"""What all drawn tasks have in common, with models that are made up: they put out what is said."""

import math

import numpy as np
import pytest

from lstm_jax.tasks import drawn
from tests.tasks.drawn import drawn as draw
from tests.tasks.drawn import sequence_of, task_of

SMALL = {
    "multiplication": {"length": 20},
    "temporal_order": {},
    "two_sequences": {"length": 20},
    "long_lags": {"lag": 4},
    "very_long_lags": {"least_distractors": 3, "kinds": 5},
}
# By the paper: how far off an answer is wrong.
WRONG = {
    "multiplication": 0.04,
    "temporal_order": 0.3,
    "two_sequences": 0.2,
    "long_lags": 0.25,
    "very_long_lags": 0.2,
}


@pytest.fixture
def put_out(monkeypatch):
    """Has models put out what a function makes of a batch; what comes back are all those pairs."""

    def put_out(outputs_of):
        found = []

        def outputs(params, batch, masks):
            found.append((batch, outputs_of(batch)))
            return found[-1][1]

        monkeypatch.setattr(drawn, "outputs_of", outputs)
        return found

    return put_out


def loss_of(head, outputs, targets):
    """Of one target, by hand."""
    if head == "squared":
        return sum((y - t) ** 2 for y, t in zip(outputs, targets, strict=True))
    return sum(math.log(1 + math.exp(y)) - t * y for y, t in zip(outputs, targets, strict=True))


def off_by(head, outputs, targets):
    """How far the worst output is from its target."""
    answers = outputs if head == "squared" else [1 / (1 + math.exp(-y)) for y in outputs]
    return max(abs(answer - t) for answer, t in zip(answers, targets, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_scores_are_those_of_each_sequence_alone(name, put_out):
    """Also in the last part, of which not every sequence counts."""
    task, rng = task_of(name, held_out=300, **SMALL[name]), np.random.default_rng(0)
    head = task.interface.head

    def nearly(batch):
        """Some right and some wrong."""
        sure, noise = (1, 0.03) if head == "squared" else (8, 2)
        targets = batch.targets - (head == "bernoulli") * 0.5
        return np.float32(sure * targets + noise * rng.normal(size=targets.shape))

    pairs = put_out(nearly)
    found, losses, wrongs = task.evaluate(None, None), [], []
    lanes = [(pair, lane) for pair in pairs for lane in range(pair[0].inputs.shape[1])]
    for (batch, outputs), lane in lanes[:300]:
        said = [
            (outputs[t, lane].tolist(), y.tolist()) for t, y in sequence_of(batch, lane)[1].items()
        ]
        losses += [loss_of(head, *pair) for pair in said]
        wrongs.append(max(off_by(head, *pair) for pair in said) >= WRONG[name])
    assert len(lanes) == 512 and list(found) == ["loss", "wrong"]
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert found["wrong"] == np.mean(wrongs) and 0 < np.mean(wrongs) < 1


@pytest.mark.parametrize("name", SMALL)
def test_the_reference_is_the_loss_of_the_best_constant(name, put_out):
    """No constant near it has a lower one."""
    task = task_of(name, held_out=300, **SMALL[name])
    parts = [task.held_out_part(0), task.held_out_part(1)]
    targets = [sequence_of(parts[n // 256], n % 256)[1] for n in range(300)]
    best = np.mean([y for each in targets for y in each.values()], axis=0, dtype=np.float64)
    if task.interface.head == "bernoulli":
        best = np.log(best / (1 - best))

    def loss_at(constant):
        put_out(lambda batch: np.broadcast_to(constant, batch.targets.shape))
        return task.evaluate(None, None)["loss"]

    ((said, found),) = task.references().items()
    assert said == "always saying the mean" and found == pytest.approx(loss_at(best), rel=1e-6)
    assert found < min(loss_at(best + 0.1), loss_at(best - 0.1))


def test_a_sample_shows_the_last_target_and_the_answer(put_out):
    task = task_of("very_long_lags", held_out=7, **SMALL["very_long_lags"])
    put_out(lambda batch: np.where(batch.targets > 0, math.log(3), -math.log(3)))
    part = task.held_out_part(0)
    lines = [
        "target {:.3f} {:.3f}  answer {:.3f} {:.3f}".format(*y, *(0.25 + y / 2))
        for lane in range(5)
        for y in sequence_of(part, lane)[1].values()
    ]
    assert task.sample(None, None).splitlines() == lines and len({*lines}) == 2


def test_what_is_scored_is_smaller_at_once_where_sequences_are_wide():
    assert task_of("long_lags").side_by_side == 256
    wide = task_of("very_long_lags", least_distractors=1000, kinds=1000)
    assert wide.side_by_side * draw(wide, 1).inputs.nbytes <= 2**26
