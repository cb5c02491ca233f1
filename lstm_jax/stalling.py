"""What a run does about validations that get no better: end, or go on at a lower rate.

Both go by what is minimised. What they remember of it is a part of the training's state, and so of
each checkpoint: a resumed run goes on to the same bits, whatever has become of `metrics.jsonl`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lstm_jax.optimizer import OptimizerConfig, make_plateau


class Stall(NamedTuple):
    """What was seen of the validations. A loss is lower where it is so in float32: less than a
    last digit is no better, though the best checkpoint is chosen by every digit."""

    best: Array  # the lowest loss so far
    since: Array  # validations after that
    plateau: optax.contrib.ReduceLROnPlateauState | None  # None: of another schedule


def init_stall(config: OptimizerConfig, patience: int) -> Stall | None:
    """Before the first validation; None where nothing depends on any."""
    plateau = None
    if config.schedule == "plateau":
        plateau = make_plateau(config).init(jnp.zeros(()))
    elif not patience:
        return None
    return Stall(jnp.full((), jnp.inf, float), jnp.asarray(0, jnp.int32), plateau)


@partial(jax.jit, static_argnames="config")
def after_validation(stall: Stall, loss: float, waits: bool, config: OptimizerConfig) -> Stall:
    """What is remembered once a validation has measured a loss.

    waits: an average is yet to begin. A stall begins it, and is not counted towards the end.
    """
    better = loss < stall.best
    since = jnp.where(better | waits, 0, stall.since + 1)
    plateau = stall.plateau
    if plateau is not None:
        _, plateau = make_plateau(config).update((), plateau, value=jnp.asarray(loss))
    return Stall(jnp.where(better, loss, stall.best), since, plateau)


def slowed(tree: Any, stall: Stall | None) -> Any:
    """Updates, or a learning rate, at the share of it that plateaus have left."""
    if stall is None or stall.plateau is None:
        return tree
    scale = stall.plateau.scale
    return jax.tree.map(lambda leaf: leaf * scale, tree)


def share_left(stall: Stall) -> float:
    """The share of the learning rate that plateaus have left; 1 with another schedule."""
    return 1.0 if stall.plateau is None else float(stall.plateau.scale)


def why_over(stall: Stall | None, patience: int) -> str | None:
    """Why a run ends before its last step; None: it does not."""
    if stall is None or not patience or int(stall.since) < patience:
        return None
    return (
        f"the last {int(stall.since)} validations found no lower loss than {float(stall.best):.4f} "
        f"(train.patience={patience})"
    )
