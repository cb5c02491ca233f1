"""Every kind of tokens: what a text becomes, and what it becomes again."""

import collections
import io
import json
import re
import tracemalloc

import numpy as np
import pytest

from lstm_jax.config import Config
from lstm_jax.data import vocabulary
from lstm_jax.data.batches import Streams
from lstm_jax.data.made_ids import MadeIds
from lstm_jax.data.octets import Bytes
from lstm_jax.data.texts import TOKENS, TextOptions, read_text
from lstm_jax.data.vocabulary import Vocabulary
from lstm_jax.data.words import UNKNOWN, Words
from lstm_jax.errors import UserError
from lstm_jax.model import Interface
from lstm_jax.tasks.text import TextTask, vocabulary_of

ODD = "to be  or\tnot\u00a0to be:\n\n that's <unk> Ærø\u2028❤ \r\nto be"


def learn(kind, text, share=1.0, max_types=0):
    file = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    learnt = kind.learn(file, "text", share, max_types)
    return learnt, learnt.encode_file(file, "text")


def test_their_names_are_those_of_the_table():
    assert [kind.kind for kind in TOKENS.values()] == [*TOKENS]


@pytest.mark.parametrize("piece_bytes", [1, 3, 1 << 22])
@pytest.mark.parametrize("kind", [Vocabulary, Bytes, Words])
def test_a_file_is_the_text_in_it(kind, piece_bytes, monkeypatch):
    """However it is cut where it is read, and where its ids are decoded."""
    monkeypatch.setattr(vocabulary, "PIECE_BYTES", piece_bytes)
    learnt, ids = learn(kind, ODD)
    np.testing.assert_array_equal(ids, learnt.encode(ODD))
    assert ids.dtype == learnt.dtype
    text = learnt.decode(ids)
    assert "".join(learnt.decode_pieces(ids[n : n + 1] for n in range(len(ids)))) == text
    # Of words the blanks are lost, but for one between two.
    blanks = [r"[^\S\n]+", " *\n *"] if kind is Words else []
    wanted = ODD
    for blank, one in zip(blanks, (" ", "\n"), strict=False):
        wanted = re.sub(blank, one, wanted)
    assert text == wanted
    assert kind.from_json(json.loads(json.dumps(learnt.to_json()))) == learnt
    assert len(learnt.symbols) == len(learnt)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("max_types", [0, 1, 4])
def test_words_are_the_most_frequent_of_what_is_trained_on(share, max_types, rng):
    words = [*rng.choice(["a", "b", "c", "dd", "e", UNKNOWN, "\n"], 60), *["z"] * 40]
    learnt, ids = learn(Words, " ".join(words), share, max_types)
    seen = collections.Counter(words[: int(len(words) * share)])
    ranked = sorted((-n, word) for word, n in seen.items() if word != UNKNOWN)
    wanted = [UNKNOWN, *(word for _, word in ranked)][: max_types or None]
    assert [*learnt.symbols] == wanted and ("z" in wanted) == (share == 1 and max_types != 1)
    known = [word if word in wanted else UNKNOWN for word in words]
    assert [learnt.symbols[idx] for idx in ids] == known


def test_bytes_are_those_of_any_file():
    data = bytes(range(256)) * 2
    learnt, ids = learn(Bytes, data)
    assert ids.tolist() == [*data] and len(learnt) == 256
    assert learnt.decode(ids) == data.decode("utf-8", "replace")
    assert learnt.encode("\udcff").tolist() == [255]  # as Python has it of a command line's byte
    with pytest.raises(UserError, match="UTF-8"):
        learnt.encode("\ud800")


@pytest.mark.parametrize(
    "kind, alphabet",
    [
        *((Bytes, value) for value in (255, True, "256", None)),
        *((Words, value) for value in (3, "", "a b", "<unk> a a", "<unk>  a", "<unk> \ud800")),
        *((Words, value) for value in ("<unk> a\tb", ["<unk>"])),
        *(
            (MadeIds, {"dtype": "uint16", "vocabulary_size": 2} | changes)
            for changes in (
                {"dtype": "float32"},
                {"dtype": ["uint8"]},
                {"vocabulary_size": 0},
                {"vocabulary_size": True},
                {"vocabulary_size": 10**400},
                {"symbols": ["a"]},
                {"symbols": ["a", 1]},
                {"symbols": "ab"},
                {"more": 1},
            )
        ),
        (MadeIds, 3),
    ],
)
def test_what_is_no_alphabet(kind, alphabet):
    with pytest.raises(UserError, match=r"no alphabet|no words|is not like|is a list of"):
        kind.from_json(alphabet)
    with pytest.raises(UserError):
        vocabulary_of({"alphabet": alphabet, "tokens": kind.kind}, None)


def test_unknown_tokens():
    for kind in ("letters", ["words"]):
        with pytest.raises(UserError, match="no tokens that are known"):
            vocabulary_of({"alphabet": "ab", "tokens": kind}, None)


def test_a_word_that_never_ends():
    learn(Words, "a " * 2**20)
    with pytest.raises(UserError, match=r"1,048,576 characters without a blank"):
        learn(Words, "a" * (2**20 + 1))


@pytest.mark.parametrize(
    "text, wrong, line, column",
    [
        ("abЖ", "Ж", 1, 3),
        ("Ж", "Ж", 1, 1),
        ("ab\n\nb\naaЖb\nЖ", "Ж", 4, 3),
        ("ab\n" * 9 + "Q", "Q", 10, 1),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 5, 1 << 22])
def test_a_character_outside_is_named_with_its_place(
    text, wrong, line, column, piece_bytes, monkeypatch
):
    monkeypatch.setattr(vocabulary, "PIECE_BYTES", piece_bytes)
    said = f"text has the character '{wrong}', in line {line}, column {column}, which"
    with pytest.raises(UserError, match=said):
        Vocabulary("\nab").encode_file(io.BytesIO(text.encode()), "text")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with ids that somebody made, 300 kinds of them."""
    monkeypatch.chdir(tmp_path)
    ids = np.arange(1000, dtype="<u2") % 300
    ids.tofile("train.bin")
    (tmp_path / "train.json").write_text('{"dtype": "uint16", "vocabulary_size": 300}')
    return tmp_path, ids


def test_ids_that_somebody_made(made):
    _, ids = made
    ids[:100].tofile("val.bin")
    text = read_text(TextOptions(path="train.bin", validation_path="val.bin"))
    np.testing.assert_array_equal(text.ids, ids)
    np.testing.assert_array_equal(text.published["validation"].ids, ids[:100])
    assert len(text.vocabulary) == 300 and [*text.vocabulary.symbols] == [*range(300)]
    assert text.vocabulary.decode(ids[:3]) == "0 1 2"
    assert text.vocabulary.encode(" 7 299\n").tolist() == [7, 299]
    for prompt in ("300", "-1", "a", "٣", "9" * 5000):
        with pytest.raises(UserError, match="no id"):
            text.vocabulary.encode(prompt)
    assert (
        vocabulary_of(json.loads(json.dumps(text.identity)), Interface(300, 300)) == text.vocabulary
    )


def test_ids_with_their_texts(made):
    folder, ids = made
    symbols = [f"<{n}>" for n in range(300)]
    described = {"dtype": "uint16", "vocabulary_size": 300, "symbols": symbols}
    (folder / "train.json").write_text(json.dumps(described))
    learnt = read_text(TextOptions(path="train.bin")).vocabulary
    assert learnt.decode(ids[:3]) == "<0><1><2>" and [*learnt.symbols] == symbols
    assert learnt.to_json() == described


@pytest.mark.parametrize(
    "described, said",
    [
        (None, r"train.json is to say what is in train.bin.*No such file.*write \{\"dtype\""),
        ("{", "cannot be read"),
        ('{"dtype": "uint16"}', "is not like"),
        ('{"dtype": "uint16", "vocabulary_size": 299}', r"the id 299 at place 299, from 0"),
        ('{"dtype": "int32", "vocabulary_size": 300}', r"the id 65536 at place 0, from 0"),
    ],
)
def test_ids_that_are_described_wrongly(described, said, made):
    folder, _ = made
    (folder / "train.json").unlink()
    if described:
        (folder / "train.json").write_text(described)
    with pytest.raises(UserError, match=said):
        read_text(TextOptions(path="train.bin"))


def test_the_place_of_an_id_that_is_none_and_a_file_that_was_cut(made, monkeypatch):
    folder, ids = made
    monkeypatch.setattr("lstm_jax.data.made_ids.PIECE_BYTES", 64)
    np.where(np.arange(1000) == 777, 300, ids).astype("<u2").tofile("train.bin")
    with pytest.raises(UserError, match=r"train.bin has the id 300 at place 777"):
        read_text(TextOptions(path="train.bin"))
    (folder / "train.bin").write_bytes(bytes(2001))
    with pytest.raises(UserError, match=r"no whole number of uint16"):
        read_text(TextOptions(path="train.bin"))
    (folder / "train.bin").write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        read_text(TextOptions(path="train.bin"))


def test_ids_of_another_type_than_a_models(made):
    folder, ids = made
    ids.astype("<u4").tofile("val.bin")
    (folder / "val.json").write_text('{"dtype": "uint32", "vocabulary_size": 300}')
    with pytest.raises(UserError, match=r"val.json says that val.bin has other ids"):
        read_text(TextOptions(path="train.bin", validation_path="val.bin"))


def test_ids_need_no_more_memory_than_a_piece(made):
    """A corpus that is larger than memory: here it may take a quarter of it."""
    with open("train.bin", "r+b") as file:
        file.truncate(2**26)
    tracemalloc.start()
    try:
        text = read_text(TextOptions(path="train.bin"))
        batch = Streams(text.ids, 4, 8).batch_at(2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(text.ids) == 2**25 and batch.inputs[:, 0].tolist() == [*range(16, 24)]
    assert peak < 2**24


def test_a_kind_of_ones_own_is_a_class_and_a_line(tmp_path, monkeypatch):
    class Letters(Vocabulary):
        kind, unit, plural = "letters", "letter", "letters"

    monkeypatch.setitem(TOKENS, "letters", Letters)
    (tmp_path / "text").write_text("abc" * 4000)
    config = Config().replace({"data.path": str(tmp_path / "text"), "data.tokens": "letters"})
    task = TextTask.of(config)
    assert task.unit == "nats/letter" and "10,800 letters to train on" in task.describe()
    assert type(vocabulary_of(task.identity, task.interface)) is Letters
