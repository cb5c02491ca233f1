"""The checksums of a folder's files, kept in it as `sha256sum` writes them.

    cd checkpoints/200 && sha256sum -c SHA256SUMS

says by hand what `damage` says here.
"""

import hashlib
from pathlib import Path

SUMS = "SHA256SUMS"
SUMS_LIMIT_BYTES = 2**24


def sha256_of(path: Path) -> str:
    """A file's hash, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums_of(folder: Path) -> str:
    """A line for each file in the folder and those below, but for the checksums themselves."""
    lines = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != SUMS:
            lines.append(f"{sha256_of(path)}  {name}\n")
    return "".join(lines)


def write_sums(folder: Path) -> None:
    (folder / SUMS).write_text(sums_of(folder))


def damage(folder: Path) -> str | None:
    """Which file is missing, new, or not what it was; None: all is as it was written."""
    try:
        if (folder / SUMS).stat().st_size > SUMS_LIMIT_BYTES:
            return f"{SUMS} is too large to be one"
        there, here = (folder / SUMS).read_bytes(), sums_of(folder).encode()
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    if there == here:
        return None
    changed = set(there.splitlines()) ^ set(here.splitlines())
    names = sorted({line.partition(b"  ")[2].decode(errors="replace") for line in changed})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}: not as {SUMS} has it"
