"""Optimizers and schedules by name, all of them optax's, and updates that are skipped."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lstm_jax.config import OPTIMIZER_OPTIONS, OptimizerConfig

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "sgd": optax.sgd,
    "rmsprop": optax.rmsprop,
}


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Step -> learning rate: linear warm-up, then constant or a cosine down to the end."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "constant":
        after = optax.schedules.constant_schedule(peak)
    else:
        after = optax.schedules.cosine_decay_schedule(
            peak, max(steps - warmup, 1), alpha=config.final_ratio or 0.0
        )
    if not warmup:
        return after
    # The first step already moves: the ramp goes from peak / warmup to peak.
    ramp = optax.schedules.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.schedules.join_schedules([ramp, after], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then the named update rule at the scheduled learning rate."""
    options = {name: getattr(config, name) for name in OPTIMIZER_OPTIONS[config.name]}
    given = {name: value for name, value in options.items() if value is not None}
    update = OPTIMIZERS[config.name](make_schedule(config, steps), **given)
    if not config.clip_norm:
        return update
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


class SkipState(NamedTuple):
    """The state of `skip_nonfinite`."""

    skipped: Array  # updates skipped so far
    in_a_row: Array  # of those, the ones since the last that was made
    inner: optax.OptState


def skip_nonfinite(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Leaves parameters and inner state alone, and counts, where an update would not be finite.

    Like `optax.apply_if_finite`, but it also looks at the loss (an argument of `update`) and at the
    update itself, which an overflow in the optimizer can spoil, and it never gives in: whoever
    calls it reads `in_a_row`.
    """

    def init(params: optax.Params) -> SkipState:
        return SkipState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), inner.init(params))

    def update(
        grads: optax.Updates,
        state: SkipState,
        params: optax.Params | None = None,
        *,
        loss: Array,
        **_: Any,
    ) -> tuple[optax.Updates, SkipState]:
        updates, inner_state = inner.update(grads, state.inner, params)
        seen = jnp.stack([loss, optax.tree.norm(grads), optax.tree.norm(updates)])
        good = jnp.isfinite(seen).all()
        updates = jax.tree.map(lambda u: jnp.where(good, u, jnp.zeros_like(u)), updates)
        inner_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), inner_state, state.inner
        )
        bad = (~good).astype(jnp.int32)
        return updates, SkipState(
            state.skipped + bad, jnp.where(good, 0, state.in_a_row + 1), inner_state
        )

    return optax.GradientTransformationExtraArgs(init, update)
