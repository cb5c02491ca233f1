"""Optimizers and schedules by name, all of them optax's."""

from collections.abc import Callable

import optax

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
