"""Splits, streams and segments: which character is read where, and how often it counts."""

import numpy as np
import pytest

from lstm_jax.data.batches import Streams, cut_segments, split_ids, stack_batches
from lstm_jax.errors import UserError


def test_the_split_is_nanogpts(tiny_shakespeare):
    split = split_ids(tiny_shakespeare.ids, 0.1)
    assert (len(split.train), len(split.validation)) == (1_003_854, 111_540)
    np.testing.assert_array_equal(np.concatenate(split[:2]), tiny_shakespeare.ids)


def test_more_train_chars_than_there_are():
    assert len(split_ids(np.arange(100), 0.1, train_chars=90).train) == 90
    with pytest.raises(UserError, match="train_chars=91 is more than the 90 characters"):
        split_ids(np.arange(100), 0.1, train_chars=91)


def test_train_chars_and_no_validation():
    split = split_ids(np.arange(100), 0.0, train_chars=26)
    assert split.validation is None
    np.testing.assert_array_equal(split.train, np.arange(26))


@pytest.mark.parametrize("length", [1, 2, 10])
def test_a_split_left_empty_is_refused(length):
    with pytest.raises(UserError, match="leave a split empty"):
        split_ids(np.zeros(length), 0.1)


@pytest.mark.parametrize("length, B, T", [(101, 3, 7), (26, 1, 25), (1000, 8, 5), (50, 7, 7)])
def test_each_lane_reads_the_text_round_and_round(length, B, T):
    """Every lane is one endless sequence 0, 1, …, length - 2, 0, … and is reset at each 0."""
    streams, rounds = Streams(np.arange(length), B, T), 4
    batches = [streams.batch_at(step) for step in range(rounds * (length - 1) // T)]
    assert {a.shape for b in batches for a in (b.inputs, b.targets, b.resets)} == {(T, B)}
    inputs, targets, resets = (
        np.concatenate([getattr(b, field) for b in batches])
        for field in ("inputs", "targets", "resets")
    )
    np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(
        np.diff(inputs, axis=0), np.where(targets == length - 1, 2 - length, 1)[:-1]
    )
    np.testing.assert_array_equal(resets, inputs == 0)


@pytest.mark.parametrize("length, cuts", [(101, 100), (106, 15), (26, 25)])
def test_rounds_cut_the_text_at_other_places(length, cuts):
    """The places where sequences of 7 begin, over many rounds: all, unless 7 divides the ring."""
    streams = Streams(np.arange(length), 1, 7)
    begins = {int(streams.batch_at(step).inputs[0, 0]) for step in range(7 * length)}
    assert len(begins) == cuts


def test_the_first_batch_starts_the_lanes_at_equal_distances():
    batch = Streams(np.arange(101), 4, 5).batch_at(0)
    np.testing.assert_array_equal(batch.inputs[0], [0, 25, 50, 75])
    np.testing.assert_array_equal(batch.resets[0], [True, False, False, False])


def test_a_text_shorter_than_a_batch_is_refused():
    Streams(np.arange(22), 3, 7)
    with pytest.raises(UserError, match="needs 22"):
        Streams(np.arange(21), 3, 7)


def test_stacked_batches_keep_their_order():
    streams = Streams(np.arange(101), 4, 5)
    stacked = stack_batches([streams.batch_at(step) for step in range(3)])
    np.testing.assert_array_equal(stacked.inputs[2], streams.batch_at(2).inputs)
    assert stacked.mask is None and stacked.resets.shape == (3, 5, 4)


@pytest.mark.parametrize("N", [2, 3, 17, 100, 101])
@pytest.mark.parametrize(
    "length, warmup, lanes, time",
    [
        (1, 0, 128, 256),
        (7, 0, 4, 3),
        (7, 5, 4, 256),
        (10, 25, 3, 4),
        (200, 0, 128, 16),
    ],
)
def test_segments_count_every_character_but_the_first_once(N, length, warmup, lanes, time):
    ids = np.arange(N)
    segments = list(cut_segments(ids, length, warmup=warmup, max_lanes=lanes, max_time=time))
    assert len({s.inputs.shape for s in segments}) == 1
    counted = np.concatenate([s.targets[s.mask] for s in segments])
    np.testing.assert_array_equal(np.sort(counted), np.arange(1, N))

    position = None  # where each lane stands: what it has read since its reset
    for s in segments:
        for inputs, targets, mask, resets in zip(*s[:4], strict=True):
            seen = np.where(resets, 0, 0 if position is None else position + 1)
            real = targets[mask] - 1
            np.testing.assert_array_equal(inputs[mask], real)
            # A counted character was read after everything since its piece began, and the warm-up.
            np.testing.assert_array_equal(seen[mask], np.minimum(real % length + warmup, real))
            position = seen
