"""Markdown plays to plain speeches."""

import pytest

from lstm_jax.data.plays import plain_text


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
