"""What every contender of the benchmark is given: a shape, its weights, its batches."""

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.support import peers
from experiments.support.timing import Contender
from lstm_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig
from lstm_jax.data.batches import Batch, Streams
from lstm_jax.hyperparameters import Hyperparameters
from lstm_jax.model import ModelParams
from lstm_jax.train import init_train_state, make_dispatch

VOCABULARY_SIZE = 65
DISPATCH_STEPS = 20  # in one dispatch, as training makes them; and how many batches there are


class Shape(NamedTuple):
    batch_size: int
    sequence_length: int
    hidden_size: int
    num_layers: int

    def __str__(self) -> str:
        return "B {}, T {}, H {}, L {}".format(*self)


def base_config() -> Config:
    """The start of a shape of one's own: the training step that all make."""
    return Config(
        model=ModelConfig(hidden_size=200, num_layers=2),
        optimizer=OptimizerConfig(
            name="adam",
            learning_rate=peers.LEARNING_RATE,
            schedule="constant",
            clip_norm=peers.CLIP_NORM,
        ),
        train=TrainConfig(batch_size=32, sequence_length=100),
    )


def flops_per_step(shape: Shape, vocabulary_size: int) -> int:
    """Additions and multiplications in the matrix products of a training step.

    A product of MxK with KxN takes 2 M K N. For each of the T B characters the forward pass has

        2 H 4H       the recurrent product of each of the L layers,
        2 H 4H       the input product of each layer but the first, whose one-hot input is a row,
        2 H V        the readout,

    and the backward pass of a product is two of the same size (for its input, for its matrix). The
    pointwise work is left out, and what a contender computes beyond this is its own affair.
    """
    B, T, H, L = shape
    forward = 2 * H * 4 * H * (2 * L - 1) + 2 * H * vocabulary_size
    return 3 * forward * T * B


def make_batches(shape: Shape) -> list[Batch]:
    """DISPATCH_STEPS batches of random ids, laid out as training lays out its text."""
    B, T, *_ = shape
    ids = np.random.default_rng(0).integers(VOCABULARY_SIZE, size=B * T * DISPATCH_STEPS + 1)
    streams = Streams(ids.astype(np.uint8), B, T)
    return [streams.batch_at(step) for step in range(DISPATCH_STEPS)]


def config_of(shape: Shape, gradient: str | None = None, precision: str = "float32") -> Config:
    """This project's config for the shape, with its default gradient or another."""
    B, T, H, L = shape
    changes = {
        "model.hidden_size": H,
        "model.num_layers": L,
        "train.batch_size": B,
        "train.sequence_length": T,
        "train.gradient": gradient or TrainConfig().gradient,
        "train.precision": precision,
    }
    return base_config().replace(changes)


def initial_weights(shape: Shape) -> ModelParams:
    """The weights that all contenders start from, as NumPy arrays."""
    state = init_train_state(config_of(shape), VOCABULARY_SIZE)
    return jax.tree.map(np.array, state.params)


def make_ours(config: Config) -> peers.Step:
    """This project's training step as training runs it: from batches with a leading axis K to the
    losses of K steps, which `peers.wait` waits for."""
    dispatch, hyper = make_dispatch(config), Hyperparameters.of(config)
    state = init_train_state(config, VOCABULARY_SIZE)

    def step(batches: Batch) -> jax.Array:
        nonlocal state
        state, infos = dispatch(hyper, state, batches)
        return infos.loss

    return step


def on(step: peers.Step, batches: list[Batch], steps: int = 1, queued: int = 1) -> Contender:
    """A step that takes the batches one after the other, round and round.

    Args:
      steps: training steps that one call of `step` makes.
      queued: calls before it is waited for; more than one keeps a device at work all the time.
    """
    endless = itertools.cycle(batches)

    def call() -> Any:
        for _ in range(queued):
            loss = step(next(endless))
        return peers.wait(loss)

    return Contender(call, steps * queued)
