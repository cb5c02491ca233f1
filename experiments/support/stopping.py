"""`--stop`: samples that end before a text, whatever symbols it is written in."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

BYTES_OF_A_CHARACTER = 4  # at the most: no symbol is less than a byte


def until(stop: str, texts: Iterable[str]) -> Iterator[str]:
    """A text in pieces up to where the stop begins. What may be its beginning is held back."""
    held = ""
    for text in texts:
        held += text
        before, found, _ = held.partition(stop)
        if found:
            yield before
            return
        safe = max(len(held) - len(stop) + 1, 0)
        yield held[:safe]
        held = held[safe:]
    yield held


def until_all_stop(
    stop: str, pieces: Iterable[np.ndarray], decode: Callable[[np.ndarray], str]
) -> Iterator[np.ndarray]:
    """Pieces of samples, num_samples x some ids, up to the one in which the last of them stops."""
    window, before, stopped = BYTES_OF_A_CHARACTER * len(stop), None, np.array(False)
    for piece in pieces:
        yield piece
        recent = piece if before is None else np.concatenate([before, piece], axis=1)
        stopped = stopped | np.array([stop in decode(ids) for ids in recent])
        if stopped.all():
            return
        before = recent[:, -window:]
