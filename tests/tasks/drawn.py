"""What the tests of drawn tasks share."""

import numpy as np

from lstm_jax.config import Config
from lstm_jax.tasks import TASKS


def task_of(name, **options):
    """The task that flags with these options of the data would give, in batches of 3."""
    values = {f"data.{option}": value for option, value in options.items()}
    config = Config().replace({"data.task": name, "train.batch_size": 3} | values)
    return TASKS[name].of(config)


def drawn(task, count):
    return task.draw(np.random.default_rng(0), count)


def sequence_of(batch, lane):
    """One sequence alone: its inputs LxD, and its targets by the step, from 0, that each is at.

    What is padded holds nothing, and only the first step begins from the zero state.
    """
    length = int(batch.live[:, lane].sum())
    assert batch.live[:length, lane].all()
    assert not batch.inputs[length:, lane].any() and not batch.mask[length:, lane].any()
    assert list(np.flatnonzero(batch.resets[:, lane])) == [0]
    assert batch.inputs.dtype == batch.targets.dtype == np.float32
    steps = np.flatnonzero(batch.mask[:, lane])
    assert not np.delete(batch.targets[:, lane], steps, axis=0).any()
    return batch.inputs[:length, lane], {int(t): batch.targets[t, lane] for t in steps}


def symbols(vectors):
    """Which symbols one-hot vectors stand for, one below the other."""
    vectors = np.asarray(vectors)
    assert ((vectors == 0) | (vectors == 1)).all() and (vectors.sum(axis=1) == 1).all()
    return vectors.argmax(axis=1).tolist()


def assert_as_often(found, wanted, N):
    """That of N draws each kind came up as often as its probability has it, within five
    deviations, and no other."""
    assert set(found) <= set(wanted)
    for kind, p in wanted.items():
        assert abs(found[kind] / N - p) <= 5 * np.sqrt(p * (1 - p) / N), kind


def evenly(kinds):
    kinds = list(kinds)
    return dict.fromkeys(kinds, 1 / len(kinds))


def scored(task, batch, errors):
    """The score of answers that are off by so much, TxBxN, where a target counts."""
    wild = np.where(batch.mask[..., None], 0, 7).astype(np.float32)  # counts nowhere
    score = task.score(batch.targets + np.float32(errors) * batch.mask[..., None] + wild, batch)
    return np.asarray(score.error), list(np.asarray(score.wrong))
