"""Compiling before the first step: what that takes is no part of a run's speed."""

import time
from collections.abc import Callable

from jax.stages import Lowered

from lstm_jax.config import TrainConfig
from lstm_jax.data.batches import Batch, stack_batches


def next_boundary(step: int, config: TrainConfig) -> int:
    """The step at which a run is validated and saved next."""
    return min(step - step % config.validate_every + config.validate_every, config.steps)


def dispatch_sizes(step: int, config: TrainConfig) -> list[int]:
    """How many steps the dispatches from a step on have. Each number is a program of its own."""
    boundary = next_boundary(step, config)
    left = config.steps - boundary
    stretches = [boundary - step, min(config.validate_every, left), left % config.validate_every]
    sizes = {n % config.steps_per_dispatch for n in stretches}
    if max(stretches) >= config.steps_per_dispatch:
        sizes.add(config.steps_per_dispatch)
    return sorted(sizes - {0}, reverse=True)


def compile_dispatches(lower: Callable[[Batch], Lowered], batch: Batch, sizes: list[int]) -> float:
    """Compiles a dispatch of each size, so that calls only run; returns the seconds that it took.

    JAX keeps what `lower` and `compile` make, and the calls find it there.

    Args:
      lower: the dispatch's `lower`, of the batches alone.
      batch: of one step.
    """
    start = time.perf_counter()
    for K in sizes:
        lower(stack_batches([batch] * K)).compile()
    return time.perf_counter() - start
