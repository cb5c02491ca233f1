"""Heads: what the outputs of a model are scored by, each with its derivative by hand.

    softmax     outputs are logits y of V classes, a target is the id of one
                (H1)  loss = logsumexp(y) - y[target]
                (H2)  dy   = softmax(y) - onehot(target)
    squared     outputs are numbers y, a target is a vector t of as many
                (H3)  loss = sum_n (y_n - t_n)^2
                (H4)  dy   = 2 (y - t)
    bernoulli   outputs are logits y, a target is a many-hot vector t: each entry is 1 or 0
                (H5)  loss = sum_n log(1 + exp(y_n)) - t_n y_n
                (H6)  dy   = sigmoid(y) - t
    sigmoid_squared
                outputs are logits y, a target is a vector t of as many numbers
                (H7)  loss = 1/2 sum_n (p_n - t_n)^2, where p = sigmoid(y)
                (H8)  dy   = (p - t) p (1 - p)

The last is that of Hochreiter and Schmidhuber 1997, whose Equation 19 has no 2: their learning
rates belong to half the squared error.

Losses are float32 at least. Which targets count, and the mean over them, is `loss`'s.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lstm_jax.precision import at_least_float32


def as_they_are(outputs: Array) -> Array:
    """Outputs that are on the scale of the targets."""
    return outputs


class Head(NamedTuple):
    """How outputs are scored.

    losses: (outputs TxBxN, targets) -> TxB, the loss of each target.
    by_hand: (outputs TxBxN, targets) -> the same losses, and dy TxBxN, the derivative of each loss
      by the outputs that it is of. None: nobody has derived it.
    most_outputs: how many are made at once. What a sequence has more of is made, scored and
      differentiated in pieces of time (`pieces`), and so never in memory as a whole.
    predict: outputs TxBxN -> what they say, on the scale of the targets: TxBxN.

    Those of HEADS raise ValueError for targets of another shape, some of which would broadcast.
    """

    losses: Callable[[Array, Array], Array]
    by_hand: Callable[[Array, Array], tuple[Array, Array]] | None = None
    most_outputs: int = 2**23  # 32 MiB in float32: BUILD_NOTES.md has the times of others
    predict: Callable[[Array], Array] = as_they_are


def takes_ids(head: Head) -> bool:
    """Whether targets are ids TxB; a head says so by the shapes that it refuses."""
    outputs_TxBxN, targets_TxB = jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int)
    try:
        jax.eval_shape(head.losses, outputs_TxBxN, targets_TxB)
    except (ValueError, TypeError):  # TypeError: JAX's own, where a head leaves it to that
        return False
    return True


def widen(outputs: Array) -> Array:
    """The outputs in float32 at least."""
    return outputs.astype(at_least_float32(outputs.dtype))


def check_shape(targets: Array, wanted: tuple[int, ...]) -> None:
    """Raises ValueError for targets of another shape than the head takes."""
    if targets.shape != wanted:
        raise ValueError(f"targets {targets.shape} do not fit outputs that ask for {wanted}")


def widen_both(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Outputs and targets of one shape, both in float32 at least."""
    check_shape(targets, outputs.shape)
    outputs = widen(outputs)
    return outputs, targets.astype(outputs.dtype)


def softmax_losses(logits_TxBxV: Array, targets_TxB: Array) -> Array:
    """Cross-entropy of every target id, TxB, in nats."""
    check_shape(targets_TxB, logits_TxBxV.shape[:-1])
    return optax.losses.softmax_cross_entropy_with_integer_labels(widen(logits_TxBxV), targets_TxB)


def softmax_by_hand(logits_TxBxV: Array, targets_TxB: Array) -> tuple[Array, Array]:
    """(H1) and (H2)."""
    check_shape(targets_TxB, logits_TxBxV.shape[:-1])
    logits_TxBxV = widen(logits_TxBxV)
    top_TxBx1 = jnp.max(logits_TxBxV, axis=-1, keepdims=True)
    exp_TxBxV = jnp.exp(logits_TxBxV - top_TxBx1)
    sum_TxBx1 = jnp.sum(exp_TxBxV, axis=-1, keepdims=True)
    hit_TxBxV = jax.nn.one_hot(targets_TxB, logits_TxBxV.shape[-1], dtype=logits_TxBxV.dtype)
    target_TxB = jnp.sum(hit_TxBxV * (logits_TxBxV - top_TxBx1), axis=-1)
    return jnp.log(sum_TxBx1[..., 0]) - target_TxB, exp_TxBxV / sum_TxBx1 - hit_TxBxV


def squared_losses(outputs_TxBxN: Array, targets_TxBxN: Array) -> Array:
    """The squared distance of every target, TxB."""
    return jnp.sum(optax.losses.squared_error(*widen_both(outputs_TxBxN, targets_TxBxN)), -1)


def squared_by_hand(outputs_TxBxN: Array, targets_TxBxN: Array) -> tuple[Array, Array]:
    """(H3) and (H4)."""
    outputs, targets = widen_both(outputs_TxBxN, targets_TxBxN)
    error_TxBxN = outputs - targets
    return jnp.sum(error_TxBxN * error_TxBxN, axis=-1), 2 * error_TxBxN


def bernoulli_losses(logits_TxBxN: Array, targets_TxBxN: Array) -> Array:
    """Cross-entropy of every many-hot target, TxB, in nats, summed over its entries."""
    logits, targets = widen_both(logits_TxBxN, targets_TxBxN)
    return jnp.sum(optax.losses.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


def bernoulli_by_hand(logits_TxBxN: Array, targets_TxBxN: Array) -> tuple[Array, Array]:
    """(H5) and (H6)."""
    logits, targets = widen_both(logits_TxBxN, targets_TxBxN)
    # log(1 + exp(y)), with an exponent that is never positive
    softplus = jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(softplus - targets * logits, axis=-1), jax.nn.sigmoid(logits) - targets


def sigmoid_squared_losses(logits_TxBxN: Array, targets_TxBxN: Array) -> Array:
    """Half the squared distance of every target from what the logits say, TxB."""
    logits, targets = widen_both(logits_TxBxN, targets_TxBxN)
    return jnp.sum(optax.losses.l2_loss(jax.nn.sigmoid(logits), targets), axis=-1)


def sigmoid_squared_by_hand(logits_TxBxN: Array, targets_TxBxN: Array) -> tuple[Array, Array]:
    """(H7) and (H8)."""
    logits, targets = widen_both(logits_TxBxN, targets_TxBxN)
    p_TxBxN = jax.nn.sigmoid(logits)
    error_TxBxN = p_TxBxN - targets
    losses_TxB = jnp.sum(error_TxBxN * error_TxBxN, axis=-1) / 2
    return losses_TxB, error_TxBxN * p_TxBxN * (1 - p_TxBxN)


softmax = Head(softmax_losses, softmax_by_hand, predict=jax.nn.softmax)
squared = Head(squared_losses, squared_by_hand)
bernoulli = Head(bernoulli_losses, bernoulli_by_hand, predict=jax.nn.sigmoid)
sigmoid_squared = Head(sigmoid_squared_losses, sigmoid_squared_by_hand, predict=jax.nn.sigmoid)

HEADS: dict[str, Head] = {
    "softmax": softmax,
    "squared": squared,
    "bernoulli": bernoulli,
    "sigmoid_squared": sigmoid_squared,
}
