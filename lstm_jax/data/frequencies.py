"""How often each symbol occurs, and what a prediction from that alone would lose."""

import numpy as np

PIECE = 1 << 22  # ids that are counted at a time: a corpus may be larger than memory


def count_symbols(ids: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """How often each of V ids occurs, V."""
    counts_V = np.zeros(vocabulary_size, np.int64)
    for start in range(0, len(ids), PIECE):
        counts_V += np.bincount(ids[start : start + PIECE], minlength=vocabulary_size)
    return counts_V


def unigram_loss(training: np.ndarray, scored: np.ndarray, vocabulary_size: int) -> float:
    """Nats per scored symbol where each is predicted by its frequency in training alone.

    Each symbol counts once more than it occurs there, because it may occur in `scored` alone.
    """
    counts_V = count_symbols(training, vocabulary_size) + 1
    scored_V = count_symbols(scored, vocabulary_size)
    return float(-scored_V @ np.log(counts_V / counts_V.sum()) / scored_V.sum())
