"""Texts of every kind: a step of training, or one line that says why not."""

import contextlib
import os
import re
import threading

import numpy as np
import pytest

from lstm_jax.data import corpora
from lstm_jax.run.metrics import read_metrics
from tests.cli import TEXT, TRAIN, call, is_one_line, line_of, process_in


@pytest.fixture
def folder(tmp_path):
    with process_in(tmp_path):
        yield tmp_path


# A character from each plane, private and unassigned ones too; the ends of lines, a NUL, a mark.
PLANES = "".join(chr(plane * 0x10000 + at) for plane in range(17) for at in (0x2A, 0xFFFD, 0xFFFF))
EVERY_PLANE = f"\ufeff{PLANES}\r\n\r\n\0\u2028\x85\x1b" * 8
NO_SURROGATES = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]


@pytest.mark.parametrize(
    "text, changes, symbols",
    [
        (EVERY_PLANE, {}, 17 * 3 + 7),
        ("a" * 400, {}, 1),
        # The alphabet alone is larger than a batch of most texts.
        ("".join(map(chr, NO_SURROGATES[:200_000])), {"data.validation_fraction": "0"}, 200_000),
    ],
    ids=["every plane", "one character", "200,000 symbols"],
)
def test_a_text_that_trains(text, changes, symbols, folder):
    (folder / "text").write_bytes(text.encode())
    flags = TRAIN | {f"config.{name}": value for name, value in changes.items()}
    if "data.validation_fraction" in changes:  # then nothing reads these
        flags = {name: value for name, value in flags.items() if "evaluate." not in name}
    code, stdout, stderr = call(*line_of(flags))
    assert code == 0 and f"{symbols} symbols" in stderr
    (line,) = read_metrics(folder / "run")
    assert np.isclose(line["train_loss"], np.log(symbols), atol=0.3)
    written = (folder / "run" / "samples.txt").read_bytes().decode()
    sample = written.partition("\n")[2].removesuffix("\n\n")
    assert len(sample) == 5 and sample[0] == text[0] and set(sample) <= set(text)
    assert sample in stdout


def test_a_mark_and_the_ends_of_lines_are_characters_like_others(folder):
    """What is decoded is the file, byte for byte, whatever an editor would make of it."""
    for name, start in (("with", "\ufeff"), ("without", "")):
        (folder / name).write_bytes((start + "to be\r\nor not\rto be\n").encode())
    with_mark, without = (corpora.read_file(name) for name in ("with", "without"))
    assert with_mark.vocabulary.chars == without.vocabulary.chars + "\ufeff"
    for text in (with_mark, without):
        decoded = text.vocabulary.decode(text.ids).encode()
        assert decoded == (folder / ("with" if text is with_mark else "without")).read_bytes()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty: there is nothing to learn from it"),
        (b"a", "leave a split empty"),
        (b"ab" * 1000 + b"\xed\xa0\x80", "is not UTF-8: byte 2000 is wrong"),
        (TEXT.decode().encode("utf-16"), "is not UTF-8: byte 0 is wrong"),
    ],
)
def test_a_text_that_does_not(content, message, folder):
    (folder / "text").write_bytes(content)
    code, _, stderr = call(*line_of(TRAIN))
    assert code == 2 and message in stderr and is_one_line(stderr)
    assert [path.name for path in folder.iterdir()] == ["text"]


LINES = "to be, or not\tto be\n" * 30


@pytest.mark.parametrize(
    "content, doubt",
    [
        (LINES.encode("utf-16-le"), "NULs"),
        (LINES.encode("utf-32-be"), "NULs"),
        # Half of its bytes are no NULs, but the number of the block.
        (("быть или не быть\n" * 30).encode("utf-16-be"), "if it is UTF-16"),
        (b"\x01\x02\x03 to be" * 60, "that no text has"),
        (LINES.replace("\n", "\r").encode(), "a carriage return alone"),
        ((LINES * 5).replace("\n", "\r").encode() + b"\n", "a carriage return alone"),
        (LINES.encode() + "\ufffd".encode() * 5, r"5 of its 605 characters .* \(U\+FFFD\)"),
    ],
    ids=[
        *("UTF-16", "UTF-32", "UTF-16 of Russian", "binary", "CR", "CR, but for the end"),
        "decoded wrongly",
    ],
)
def test_a_text_that_is_probably_another_is_warned_of(content, doubt, folder):
    (folder / "text").write_bytes(content)
    code, _, stderr = call(*line_of(TRAIN))
    warnings = [line for line in stderr.splitlines() if line.startswith("warning: ")]
    assert code == 0 and len(warnings) == 1
    assert re.match(f"warning: text is probably not the text that you mean: .*{doubt}", warnings[0])


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES.replace("\n", "\r\n"),
        LINES.replace("\n", " "),  # a single line
        LINES + "\r",
        f"\ufeff{LINES * 10}\ufffd\x1b[0m\0",
        "\f" * 200 + LINES,
        "быть или не быть\n" * 30,
        "\u2028\u0085".join(["to be"] * 100),
    ],
)
def test_a_text_that_is_a_text_is_not(content, folder, capsys):
    (folder / "text").write_bytes(content.encode())
    corpora.read_file("text")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "path, message",
    [
        ("/", "Is a directory"),
        ("/dev/zero", "it is a device"),
        ("/dev/null", "it is a device"),
        ("/proc/self/mem", "cannot read"),
        ("nowhere", "No such file"),
    ],
)
def test_what_is_no_text(path, message, folder):
    code, _, stderr = call(*line_of(TRAIN | {"config.data.path": path}))
    assert code == 2 and message in stderr and is_one_line(stderr)
    assert list(folder.iterdir()) == []


def through_a_pipe(data):
    """Makes `text` a pipe, through which somebody sends the data."""

    def send():
        # The reader may have enough before the end.
        with contextlib.suppress(BrokenPipeError), open("text", "wb") as pipe:
            pipe.write(data)

    os.mkfifo("text")
    threading.Thread(target=send, daemon=True).start()


def test_a_pipe_trains(folder):
    through_a_pipe(TEXT)
    assert call(*line_of(TRAIN)).code == 0
    assert (folder / "run" / "summary.json").exists()


def test_a_pipe_without_end_is_refused(folder, monkeypatch):
    monkeypatch.setattr(corpora, "PIPE_LIMIT_BYTES", 10_000)
    through_a_pipe(bytes(10**7))
    code, _, stderr = call(*line_of(TRAIN))
    assert code == 2 and "more than 10,000 bytes came through the pipe" in stderr
    assert is_one_line(stderr)
