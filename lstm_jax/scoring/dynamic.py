"""Dynamic evaluation: the model goes on learning from the text that it has been scored on.

The split is read strictly one character after another, the state carried, in segments of some
twenty characters. Each segment is scored first, by the parameters as they are; only then do they
learn from it, and are drawn back towards the trained ones, p*:

    p <- p - step dp + pull (p* - p)              dp: the gradient of the segment's mean loss

    sgd   step = rate                             pull = decay
    rms   step = rate / (sqrt(s) + epsilon)       pull = min(decay sqrt(s) / mean(sqrt(s)), 1)

where s is the mean square of dp over segments of the training text (Krause, Kahembwe, Murray and
Renals 2018, section 4; the mean of sqrt(s) is over all parameters). It is a condition of its own:
its losses are not to be mixed with those of a model that stays as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lstm_jax.cells import cell_of
from lstm_jax.data.batches import Batch, Documents, Ids, begin_at
from lstm_jax.errors import UserError
from lstm_jax.gradients import GRADIENTS
from lstm_jax.gradients.known import missing_by_hand
from lstm_jax.heads import softmax
from lstm_jax.loss import Aux
from lstm_jax.model import Carry, Masks, ModelParams, init_carry
from lstm_jax.options import Section, option

SQUARES_SEGMENTS = 2000  # of the training text, its last ones: what s is the mean over
DISPATCH_SEGMENTS = 100  # in one call to the device


@dataclass(frozen=True)
class DynamicConfig(Section):
    """How a model learns while it is scored (`dynamic`); not a part of a run's config."""

    prefix = "dynamic_"

    rule: str = option("rms", "dynamic evaluation: the rule", choices=("rms", "sgd"))
    segment_length: int = option(
        20, "dynamic evaluation: characters scored, then learnt from", low=1, high=2**24
    )
    rate: float = option(1e-3, "dynamic evaluation: the learning rate", low=0, high=1e6)
    decay: float = option(
        1e-3, "dynamic evaluation: how strongly the trained weights pull", low=0, high=1
    )
    epsilon: float | None = option(
        None,
        "dynamic evaluation, rms: added to the root of the mean square (1e-4)",
        low=1e-12,
        high=1e6,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule == "sgd" and self.epsilon is not None:
            raise UserError("dynamic_epsilon means nothing to the rule sgd: leave it out")
        if self.rule == "rms" and self.epsilon is None:
            object.__setattr__(self, "epsilon", 1e-4)


class Rule(NamedTuple):
    """How a parameter moves after a segment; leaves as the parameters', or scalars."""

    step: ModelParams
    pull: ModelParams


def stack_segments(ids: Ids, length: int) -> list[Batch]:
    """The whole split in one lane, as stacks of segments of `length` targets; the last stack is
    filled up with targets that do not count. Resets stand where a document begins."""
    last = len(ids) - 2
    length = min(length, last + 1)
    segments = -(-(last + 1) // length)
    size = min(DISPATCH_SEGMENTS, segments)
    stacks = -(-segments // size)
    positions_KxSxTx1 = np.arange(stacks * size * length).reshape(stacks, size, length, 1)
    resets = begin_at if isinstance(ids, Documents) else lambda *_: None
    return [
        Batch(ids[here], ids[here + 1], counts, resets(ids, here))
        for here, counts in zip(
            np.minimum(positions_KxSxTx1, last), positions_KxSxTx1 <= last, strict=True
        )
    ]


def value_and_grad(
    params: ModelParams, carry: Carry, batch: Batch, masks: Masks | None
) -> tuple[tuple[Array, Aux], ModelParams]:
    """The gradient by hand, where there is one of such a model."""
    missing = missing_by_hand(map(cell_of, params.layers))
    return GRADIENTS["autodiff" if missing else "bptt"](softmax)(params, carry, batch, masks)


@jax.jit
def _add_squares(
    params: ModelParams, carry: Carry, total: ModelParams, batches: Batch, masks: Masks | None
) -> tuple[Carry, ModelParams]:
    """Adds the squares of the segments' gradients."""

    def add(
        state: tuple[Carry, ModelParams], batch: Batch
    ) -> tuple[tuple[Carry, ModelParams], None]:
        (_, aux), grads = value_and_grad(params, state[0], batch, masks)
        return (aux.carry, jax.tree.map(lambda s, d: s + d * d, state[1], grads)), None

    return lax.scan(add, (carry, total), batches)[0]


def mean_squares(
    params: ModelParams, training_ids: Ids, length: int, masks: Masks | None = None
) -> ModelParams:
    """s: the mean square of a segment's gradient, over the last segments of the training text."""
    count = min(SQUARES_SEGMENTS, (len(training_ids) - 1) // length)
    if not count:
        raise UserError(
            f"the training text has {len(training_ids)} characters, fewer than one segment of "
            f"dynamic evaluation needs: take a dynamic_segment_length below {len(training_ids)}"
        )
    ids = training_ids[-(count * length + 1) :]
    carry, total = init_carry(params, 1), jax.tree.map(jnp.zeros_like, params)
    for batches in stack_segments(ids, length):
        carry, total = _add_squares(params, carry, total, batches, masks)
    return jax.tree.map(lambda s: s / count, total)


def make_rule(
    params: ModelParams,
    training_ids: Ids,
    config: DynamicConfig,
    masks: Masks | None = None,
) -> Rule:
    """The rule that the config names; `rms` takes its statistics from the training text."""
    rate, decay = config.rate, config.decay

    def everywhere(value: float) -> ModelParams:
        return jax.tree.map(lambda p: jnp.asarray(value, p.dtype), params)

    if config.rule == "sgd":
        return Rule(everywhere(rate), everywhere(decay))
    squares = mean_squares(params, training_ids, config.segment_length, masks)
    roots = jax.tree.map(jnp.sqrt, squares)
    mean = np.mean(np.concatenate([np.ravel(root) for root in jax.tree.leaves(roots)]))
    scale = decay / mean if mean else 0.0  # no gradient at all: an alphabet of one symbol
    return Rule(
        step=jax.tree.map(lambda root: rate / (root + config.epsilon), roots),
        pull=jax.tree.map(lambda root: jnp.minimum(scale * root, 1), roots),
    )


@jax.jit
def _score_and_learn(
    params: ModelParams,
    carry: Carry,
    trained: ModelParams,
    rule: Rule,
    batches: Batch,
    masks: Masks | None,
) -> tuple[ModelParams, Carry, Array, Array]:
    """Segments in order: the parameters after them, the carry, each segment's loss and count."""

    def step(
        state: tuple[ModelParams, Carry], batch: Batch
    ) -> tuple[tuple[ModelParams, Carry], tuple[Array, Array]]:
        params, carry = state
        (loss, aux), grads = value_and_grad(params, carry, batch, masks)
        params = jax.tree.map(
            lambda p, start, d, step, pull: p - step * d + pull * (start - p),
            *(params, trained, grads, rule.step, rule.pull),
        )
        return (params, aux.carry), (loss, aux.count)

    (params, carry), (losses, counts) = lax.scan(step, (params, carry), batches)
    return params, carry, losses, counts


def segment_losses(
    params: ModelParams,
    ids: Ids,
    rule: Rule,
    length: int,
    report: Callable[[float], None] = lambda _: None,
    masks: Masks | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The mean loss of each segment, scored before it is learnt from, and its count of targets.

    Args:
      ids: the split; every character but the first is scored once.
      report: is told, now and then, which share of the split is done.
      masks: what stands for the drawn ones where nothing is random (`masks.evaluation_masks`).
    """
    trained, carry = params, init_carry(params, 1)
    stacks, scores = stack_segments(ids, length), []
    for done, batches in enumerate(stacks, start=1):
        params, carry, *score = _score_and_learn(params, carry, trained, rule, batches, masks)
        scores.append(jax.device_get(score))
        report(done / len(stacks))
    losses, counts = np.concatenate(scores, axis=1, dtype=np.float64)
    return losses[counts > 0], counts[counts > 0]


def evaluate_dynamic(
    params: ModelParams,
    training_ids: Ids,
    ids: Ids,
    config: DynamicConfig,
    report: Callable[[float], None] = lambda _: None,
    masks: Masks | None = None,
) -> float:
    """Mean nats per character of a split under dynamic evaluation; `masks` as `segment_losses`
    takes them.

    Raises UserError where what was learnt on the way drove the loss beyond all bounds.
    """
    rule = make_rule(params, training_ids, config, masks)
    losses, counts = segment_losses(params, ids, rule, config.segment_length, report, masks)
    if not np.isfinite(losses).all():
        first = int(np.argmin(np.isfinite(losses)))
        raise UserError(
            f"dynamic evaluation's loss is {losses[first]} in segment {first + 1:,} of "
            f"{len(losses):,}: take a lower dynamic_rate"
        )
    return float(losses @ counts / counts.sum())
