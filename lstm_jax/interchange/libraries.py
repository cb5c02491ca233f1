"""The libraries of others: imported where they are needed, and never before."""

from collections.abc import Iterator
from contextlib import contextmanager

from lstm_jax.errors import UserError


@contextmanager
def needing(package: str) -> Iterator[None]:
    """For an import: a UserError says what to install where the package is not there."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"this needs {package}, which is not installed: pip install {package}, or what every "
            "format needs with pip install -e '.[interchange]'"
        ) from error
