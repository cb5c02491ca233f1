"""`--stop`, against looking for it in the whole text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experiments.support.stopping import until, until_all_stop

STOPS = st.text("aé😀", min_size=1, max_size=4)
WORDS = st.text("aé😀", max_size=9)


@given(STOPS, st.lists(WORDS, max_size=6))
def test_a_text_ends_where_the_stop_begins(stop, texts):
    assert "".join(until(stop, texts)) == "".join(texts).partition(stop)[0]


def test_only_what_may_be_the_stops_beginning_is_held_back():
    texts = ["ab", "cabc", "xyz", "zabcd", "never"]
    assert list(until("bcd", texts)) == ["", "abca", "bcx", "yzza"]
    assert list(until("\n", texts)) == [*texts, ""]


@given(STOPS, st.integers(1, 5), st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3))
def test_pieces_end_with_the_one_in_which_the_last_sample_stops(stop, width, around):
    """In bytes, of which a character has up to four."""
    texts = [f"{before}{stop}{after}" for before, after in around]
    encoded = [text.encode() for text in texts]
    length = max(map(len, encoded))
    ids = np.array([[*text.ljust(length)] for text in encoded], np.uint8)

    def decode(ids):
        return ids.tobytes().decode(errors="replace")

    ends = range(width, length + width, width)
    wanted = min(n for n in ends if all(stop in decode(row[:n]) for row in ids))
    pieces = (ids[:, n - width : n] for n in ends)
    found = list(until_all_stop(stop, pieces, decode))
    assert sum(piece.shape[1] for piece in found) == min(wanted, length)
