"""What a model expects of every symbol of a text, and how much the symbol surprises it."""

from typing import NamedTuple

import numpy as np

ALTERNATIVES = 5


class Surprise(NamedTuple):
    """Of every symbol of a text, before it is read; the first has no prediction."""

    nats: np.ndarray  # T, -log of the probability of the symbol itself; of the first NaN
    likeliest: np.ndarray  # TxA ids, the likeliest first; of the first symbol 0
    probabilities: np.ndarray  # TxA


def surprise(logits_TxV: np.ndarray, ids_T: np.ndarray) -> Surprise:
    """From what the model puts out after each symbol: its prediction of the next."""
    y_TxV = logits_TxV.astype(np.float64)
    y_TxV = y_TxV - y_TxV.max(1, keepdims=True)
    log_p_TxV = y_TxV - np.log(np.exp(y_TxV).sum(1, keepdims=True))
    T, A = len(ids_T), min(ALTERNATIVES, log_p_TxV.shape[1])
    nats_T = np.full(T, np.nan)
    nats_T[1:] = -log_p_TxV[np.arange(T - 1), ids_T[1:]]
    # Stable, so that of two that are equally likely the first stays first.
    order_TxA = np.argsort(-log_p_TxV, axis=1, kind="stable")[:, :A]
    p_TxA = np.exp(np.take_along_axis(log_p_TxV, order_TxA, 1))
    nothing_1xA = np.zeros((1, A))
    return Surprise(
        nats_T,
        np.concatenate([nothing_1xA.astype(order_TxA.dtype), order_TxA[:-1]]),
        np.concatenate([nothing_1xA, p_TxA[:-1]]),
    )
