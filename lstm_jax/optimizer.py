"""Optimizers by name, all of them optax's, their schedules, and updates that are skipped.

What is a number is data to a compiled program (`Numbers`), so that one program serves every rate.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from lstm_jax.data.batches import Values
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
    b1: float = option(0.9, "decay of the mean", low=0, high=0.999999)
    b2: float = option(0.999, "decay of the square", low=0, high=0.999999)
    weight_decay: float = option(1e-4, "weight decay", low=0, high=1e3)
    momentum: float | None = option(None, "momentum; left out: none", low=0, high=1)
    decay: float = option(0.9, "decay of the square", low=0, high=1)

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


def follows_end(config: OptimizerConfig) -> bool:
    """Whether the rates before a run's end depend on where that is."""
    return config.schedule == "cosine"


class Numbers(NamedTuple):
    """The numbers of an optimizer and its schedule, scalars; None: its program has no such part.

    b1, b2 and rmsprop's decay stay constants, because optax takes 1 - b2. In float32 that is off by
    1e-5 of itself where b2 is 0.999 and a number of float32.
    """

    peak: Values  # of the learning rate
    climb: Values  # what the warm-up climbs to it
    warmup: Values  # steps
    after: Values  # steps that follow
    floor: Values  # where the cosine ends, as a share of the peak
    above: Values  # 1 - floor, rounded once
    weight_decay: Values
    momentum: Values | None
    clip_norm: Values | None

    @classmethod
    def of(cls, config: OptimizerConfig, steps: int) -> "Numbers":
        peak, warmup = config.learning_rate, config.warmup_steps
        return cls(
            peak=number(peak),
            # The first step already moves: the ramp goes from peak / warmup to peak.
            climb=number(peak - peak / max(warmup, 1)),
            warmup=np.asarray(warmup, np.int32),
            after=number(max(steps - warmup, 1)),
            floor=number(config.final_ratio),
            above=number(1 - config.final_ratio),
            weight_decay=number(config.weight_decay),
            momentum=None if config.momentum is None else number(config.momentum),
            clip_norm=number(config.clip_norm) if config.clip_norm else None,
        )


def number(value: float) -> np.ndarray:
    """A scalar in the dtype of new parameters, which follows `jax_enable_x64`."""
    return np.asarray(value, jax.dtypes.canonicalize_dtype(float))


def make_schedule(config: OptimizerConfig, numbers: Numbers) -> optax.Schedule:
    """Step -> learning rate: linear warm-up, then constant or a cosine down to the end.

    Of `plateau` it is the rate that `stalling` multiplies by what plateaus have left of it.

    optax's own schedules want their numbers of steps when the program is made. These are the same
    to the last bit: where a compiler knows a divisor, it multiplies by the inverse.
    """
    n, dtype = numbers, numbers.peak.dtype

    def schedule(count: Array) -> Array:
        done = jnp.minimum((count - n.warmup).astype(dtype), n.after)
        rate = n.peak
        if config.schedule == "cosine":
            cosine = jnp.cos(done * (jnp.asarray(jnp.pi, dtype) * (1 / n.after)))
            rate = n.peak * (n.above * (0.5 * (1 + cosine)) + n.floor)
        intervals = jnp.maximum(n.warmup - 1, 1)
        share = jnp.clip(count, 0, intervals).astype(dtype) * (1 / intervals.astype(dtype))
        return jnp.where(count < n.warmup, n.peak - n.climb * (1 - share), rate)

    return schedule


def make_optimizer(config: OptimizerConfig, numbers: Numbers) -> optax.GradientTransformation:
    """Clipping by global norm, then the named update rule at the scheduled learning rate."""
    rule, as_data = OPTIMIZERS[config.name], numbers._asdict()
    options = {name: as_data.get(name, getattr(config, name)) for name in rule.options}
    update = rule.make(make_schedule(config, numbers), **options)
    if numbers.clip_norm is None:
        return update
    return optax.chain(optax.clip_by_global_norm(numbers.clip_norm), update)


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
