"""A text as ids: any alphabet, any length, and what is said of a file that is no text."""

import io
import subprocess
import sys

import numpy as np
import pytest

from lstm_jax.data import vocabulary
from lstm_jax.data.vocabulary import Vocabulary, encode_file
from lstm_jax.errors import UserError


def encode(data: bytes):
    return encode_file(io.BytesIO(data), "text")


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "a",
        "\r\n\0\ufeff tabs\t",
        "Ærøskøbing — ❤ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 日本語",
        "x" * 1000,
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 3, 1 << 22])
def test_decoding_gives_the_text_back(text, piece_bytes, monkeypatch):
    monkeypatch.setattr(vocabulary, "PIECE_BYTES", piece_bytes)
    encoded = encode(text.encode())
    assert encoded.vocabulary.decode(encoded.ids) == text
    assert encoded.vocabulary.chars == "".join(sorted(set(text)))
    np.testing.assert_array_equal(encoded.vocabulary.encode(text), encoded.ids)


@pytest.mark.parametrize(
    "symbols, dtype",
    [
        (1, np.uint8),
        (256, np.uint8),
        (257, np.uint16),
        (65537, np.uint32),
    ],
)
def test_ids_take_the_smallest_type_that_holds_them(symbols, dtype):
    points = [point for point in range(0x20000) if not 0xD800 <= point < 0xE000][:symbols]
    encoded = encode("".join(map(chr, points)).encode())
    assert len(encoded.vocabulary) == symbols
    assert encoded.ids.dtype == encoded.vocabulary.dtype == dtype
    np.testing.assert_array_equal(encoded.ids, np.arange(symbols))


def test_a_symbols_id_is_its_place():
    assert Vocabulary("abc").char_to_idx == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("symbols", [119, 120, 121, 150])
def test_an_alphabet_is_shown_to_the_hundred_and_twentieth_symbol(symbols):
    chars = "".join(map(chr, range(200, 200 + symbols)))
    with pytest.raises(UserError) as refused:
        Vocabulary(chars).encode("x")
    more = f" and {symbols - 120} more" if symbols > 120 else ""
    assert str(refused.value).endswith(f" alphabet: {chars[:120]!r}{more}")


def test_the_alphabet_is_the_same_in_another_process():
    """The notebook's list(set(text)) changed with Python's hash seed."""
    program = (
        "import io; from lstm_jax.data.vocabulary import encode_file;"
        "print(encode_file(io.BytesIO(b'to be or not to be'), '').vocabulary.chars)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {" benort\n"}


@pytest.mark.parametrize(
    "data, offset",
    [
        (b"\xff", 0),
        (b"abc\xffdef", 3),
        ("é".encode() + b"\x80", 2),
        ("aé".encode()[:-1], 1),
        (b"abcdefg" + b"\xed\xa0\x80", 7),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 2, 1 << 22])
def test_bytes_that_are_not_utf8_are_named_by_offset(data, offset, piece_bytes, monkeypatch):
    monkeypatch.setattr(vocabulary, "PIECE_BYTES", piece_bytes)
    with pytest.raises(UserError, match=rf"byte {offset} is wrong"):
        encode(data)


def test_an_empty_text_is_refused():
    with pytest.raises(UserError, match="empty"):
        encode(b"")


def test_a_character_outside_the_alphabet_is_named():
    with pytest.raises(UserError, match="'z' is not in the model's alphabet"):
        Vocabulary("abc").encode("abz")
