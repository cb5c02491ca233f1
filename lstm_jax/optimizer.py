"""Optimizers and schedules by name, all of them optax's, and updates that are skipped."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lstm_jax.options import Section, option


class Rule(NamedTuple):
    """An update rule of optax, and the options that it reads besides the learning rate."""

    make: Callable[..., optax.GradientTransformation]
    options: tuple[str, ...]


OPTIMIZERS: dict[str, Rule] = {
    "adam": Rule(optax.adam, ("b1", "b2")),
    "adamw": Rule(optax.adamw, ("b1", "b2", "weight_decay")),
    "sgd": Rule(optax.sgd, ("momentum",)),
    "rmsprop": Rule(optax.rmsprop, ("decay", "momentum")),
}


@dataclass(frozen=True)
class OptimizerConfig(Section):
    prefix = "optimizer."
    name: str = option("adamw", "the update rule, from optax", choices=OPTIMIZERS)
    learning_rate: float = option(2e-3, "the peak of the schedule", low=0, high=1e6)
    schedule: str = option(
        "cosine",
        "the learning rate after warm-up; plateau: lower wherever validations get no better",
        choices=("constant", "cosine", "plateau"),
    )
    warmup_steps: int = option(
        0, "steps of linear warm-up; the first takes peak / warmup_steps", low=0, high=2**31 - 1
    )
    final_ratio: float = option(
        0.0,
        "cosine: where it ends, as a share of the peak; plateau: never below that",
        low=0,
        high=1,
    )
    plateau_factor: float = option(
        0.1, "plateau: what the rate is multiplied by", low=1e-6, high=0.999999
    )
    plateau_patience: int = option(
        10, "plateau: after so many validations without a lower loss", low=1, high=2**31 - 1
    )
    plateau_threshold: float = option(
        1e-4, "plateau: lower by that share of the lowest, at the least", low=1e-9, high=1
    )
    plateau_cooldown: int = option(
        0, "plateau: validations that are not counted after that", low=0, high=2**31 - 1
    )
    clip_norm: float = option(1.0, "clip the gradient's global norm; 0: never", low=0, high=1e9)
    b1: float = option(0.9, "adam, adamw: decay of the mean", low=0, high=0.999999)
    b2: float = option(0.999, "adam, adamw: decay of the square", low=0, high=0.999999)
    weight_decay: float = option(1e-4, "adamw: weight decay", low=0, high=1e3)
    momentum: float | None = option(None, "sgd, rmsprop: momentum (none)", low=0, high=1)
    decay: float = option(0.9, "rmsprop: decay of the square", low=0, high=1)

    def unread(self) -> dict[str, str]:
        read = OPTIMIZERS[self.name].options
        others = {name for rule in OPTIMIZERS.values() for name in rule.options} - {*read}
        unread = {
            name: f"means nothing to {self.name}, which reads {', '.join(read)}: leave it out, or "
            "take another optimizer.name"
            for name in sorted(others)
        }
        if self.schedule == "constant":
            unread["final_ratio"] = (
                "means nothing to the constant schedule: leave it out, or take "
                "optimizer.schedule=cosine"
            )
        if self.schedule != "plateau":
            for f in dataclasses.fields(self):
                if f.name.startswith("plateau_"):
                    unread[f.name] = (
                        f"means nothing to the {self.schedule} schedule: leave it out, or take "
                        "optimizer.schedule=plateau"
                    )
        return unread


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Step -> learning rate: linear warm-up, then constant or a cosine down to the end.

    Of `plateau` it is the rate that `stalling` multiplies by what plateaus have left of it.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule != "cosine":
        after = optax.schedules.constant_schedule(peak)
    else:
        after = optax.schedules.cosine_decay_schedule(
            peak, max(steps - warmup, 1), alpha=config.final_ratio
        )
    if not warmup:
        return after
    # The first step already moves: the ramp goes from peak / warmup to peak.
    ramp = optax.schedules.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.schedules.join_schedules([ramp, after], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then the named update rule at the scheduled learning rate."""
    rule = OPTIMIZERS[config.name]
    options = {name: getattr(config, name) for name in rule.options}
    update = rule.make(make_schedule(config, steps), **options)
    if not config.clip_norm:
        return update
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


def make_plateau(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """optax's rule for the schedule `plateau`; its `update` takes each validation's loss."""
    return optax.contrib.reduce_on_plateau(
        factor=config.plateau_factor,
        patience=config.plateau_patience,
        rtol=config.plateau_threshold,
        cooldown=config.plateau_cooldown,
        min_scale=config.final_ratio,
    )


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
    update itself, which an overflow in the optimizer can spoil. And it never gives in: whoever
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
