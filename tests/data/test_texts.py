"""Splits and documents: what is trained on, what is held out, where the state starts afresh."""

import hashlib

import numpy as np
import pytest

from lstm_jax.data.batches import Documents, Streams, split_ids
from lstm_jax.data.texts import TextOptions, read_text, split_text
from lstm_jax.errors import UserError
from tests.small import TEXT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files to train, to validate and to test on."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"train": "one\n\ntwo\n\n", "valid": "too\n", "test": "noon"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def decoded(text, options):
    return [part and text.vocabulary.decode(part) for part in map(plain, split_text(text, options))]


def plain(ids):
    return None if ids is None else ids.tolist()


def test_three_files(folder):
    options = TextOptions(path="train", validation_path="valid", test_path="test")
    text = read_text(options)
    assert decoded(text, options) == ["one\n\ntwo\n\n", "too\n", "noon"]
    assert text.vocabulary.chars == "\nenotw"
    for key, name in (("sha256", "train"), ("validation_sha256", "valid"), ("test_sha256", "test")):
        wanted = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert text.identity[key] == wanted


def test_a_file_beside_a_fraction(folder):
    options = TextOptions(path="train", test_path="test", validation_fraction=0.3)
    assert decoded(read_text(options), options) == ["one\n\ntw", "o\n\n"[:3], "noon"]
    options = TextOptions(path="train", validation_path="valid", test_fraction=0.2)
    assert decoded(read_text(options), options) == ["one\n\ntwo", "too\n", "\n\n"]


def test_three_fractions():
    split = split_ids(np.arange(1000), 0.1, 0, 0.25)
    np.testing.assert_array_equal(np.concatenate(split), np.arange(1000))
    assert [len(part) for part in split] == [650, 100, 250]
    train, validation, test = split_ids(np.arange(1000), 0.0, 0, 0.25)
    assert (len(train), validation, len(test)) == (750, None, 250)
    with pytest.raises(UserError, match=r"leave a split empty: 9 to train on and 1 to test on"):
        split_ids(np.arange(10), 0.0, 0, 0.1)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"validation_path": "other"}, r"other has the character 'Ж', in line 1, column 2"),
        ({"test_path": "other"}, r"other has the character 'Ж', in line 1, column 2"),
        ({"validation_path": "nowhere"}, r"cannot read data.validation_path='nowhere'"),
        ({"test_path": "short"}, r"data.test_path='short' has fewer than 2 characters"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"path": "", "tokens": "ids"}, "takes the file that data.path names"),
        ({"document_separator": "three"}, "'h' is not in the model's alphabet"),
        ({"document_separator": "t\\wo"}, r"a backslash stands before n, r, t or another"),
        ({"document_separator": "two\\"}, r"a backslash stands before n, r, t or another"),
        ({"document_separator": "one\\ne"}, "is nowhere in train"),
        ({"document_separator": "three", "tokens": "words"}, "is none of the words"),
        ({"document_separator": "  ", "tokens": "words"}, "is none of the words"),
    ],
)
def test_what_is_refused(changes, said, folder):
    (folder / "other").write_text("oЖ")
    (folder / "short").write_text("o")
    with pytest.raises(UserError, match=said):
        options = TextOptions(**{"path": "train", "validation_fraction": 0.3, **changes})
        split_text(read_text(options), options)


@pytest.mark.parametrize(
    "tokens, separator, starts",
    [
        (None, "\\n\\n", [5, 10]),
        (None, "\n\n", [5, 10]),
        ("bytes", "\\n", [4, 5, 9, 10]),
        ("words", "\\n\\n", [3, 6]),
        ("words", "two", [4]),
        (None, "o", [1, 8]),
    ],
)
def test_documents_begin_behind_each_separator(tokens, separator, starts, folder):
    options = TextOptions(
        path="train", tokens=tokens, document_separator=separator, validation_fraction=0.0
    )
    train = split_text(read_text(options), options).train
    assert isinstance(train, Documents) and isinstance(train[2:], Documents)
    positions = np.arange(len(train) + 1).reshape(-1, 1)
    assert np.flatnonzero(train.begin_at(positions)).tolist() == starts


def test_an_unknown_word_is_a_separator_where_it_is_meant(folder):
    (folder / "train").write_text("a b <unk> c d <unk> " * 5)
    options = TextOptions(path="train", tokens="words", document_separator="<unk>")
    assert split_text(read_text(options), options).train.begin_at(np.arange(7)).tolist() == [
        *[False] * 3,
        True,
        *[False] * 2,
        True,
    ]


def test_streams_are_reset_where_a_document_begins(rng):
    """Each step of each lane against the text written out as a string."""
    ids = rng.integers(3, size=50)
    text, streams = "".join(map(str, ids)), Streams(Documents(ids, np.array([2, 1])), 3, 4)
    assert text.count("21") > 2
    plain = Streams(ids, 3, 4)
    for step in range(30):
        batch, before = streams.batch_at(step), plain.batch_at(step)
        np.testing.assert_array_equal(batch.inputs, before.inputs)
        for t, lane in np.ndindex(4, 3):
            place = (lane * (49 // 3) + step * 4 + t) % 49
            assert batch.resets[t, lane] == (place == 0 or text[:place].endswith("21"))


def test_the_identity_of_characters_is_the_alphabet_and_the_hash():
    assert TEXT.identity == {"alphabet": "\nabc", "sha256": "hash"}
