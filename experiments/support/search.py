"""Random search: configurations that are drawn, and models of many sizes trained by one program.

A model of H units is one of more, in which the weights of the others are 0 and stay 0. That is
exact: such a unit reads 0, so that its candidate, its cell state and what it puts out are 0, and no
error reaches it. So models whose sizes, rates and noise differ train side by side, by one `vmap`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from lstm_jax.cells import CELLS
from lstm_jax.data.batches import Batch, stack_batches
from lstm_jax.gradients import GRADIENTS
from lstm_jax.heads import HEADS
from lstm_jax.loss import count_targets, sequence_loss
from lstm_jax.model import (
    Interface,
    ModelParams,
    Readout,
    apply,
    hidden_sizes,
    init_carry,
    init_model,
)
from lstm_jax.model_config import ModelConfig, cell_options
from lstm_jax.tasks.drawn import Score
from lstm_jax.verification.compare import UNOPTIMIZED

SIZES, RATES = (20, 200), (1e-6, 1e-2)
LEFT_OF_MOMENTUM = (0.01, 1.0)  # 1 - momentum
NOISE = (0.0, 1.0)  # deviation
# The sizes fall into as many ranges, each as wide on a logarithmic scale, and each has a program of
# its own: one that trained models of 20 units among 200 would take a hundred times too long.
RANGES = 3
STEPS_AT_ONCE = 25  # in one call to the device, at the most


class Configuration(NamedTuple):
    """What is drawn for one model; of many, arrays of as many."""

    size: Any  # units
    learning_rate: Any
    momentum: Any
    noise: Any  # deviation of what is added to the inputs
    seed: Any  # of the initial weights


class Problem(NamedTuple):
    """What is learnt, by sequences from the zero state.

    draw: (rng, count) -> so many sequences to train on; ids stand for one-hot vectors.
    held_out: sequences that are scored.
    reference: the loss of the best constant, in `unit`.
    score: (predictions TxBxN, batch) -> which sequences are wrong; None: the loss says it all.
    """

    name: str
    unit: str
    interface: Interface
    draw: Callable[[np.random.Generator, int], Batch]
    held_out: Batch
    reference: float
    score: Callable[[Array, Batch], Score] | None = None


class Rule(NamedTuple):
    """How every model of a search is trained."""

    optimizer: str
    clip_norm: float
    steps: int
    batch_size: int
    forget_bias: float
    seed: int


def range_of(number: int) -> tuple[int, int]:
    """The sizes that a number of RANGES stands for, from the least to the most."""
    low, high = SIZES
    first, last = (low * (high / low) ** ((number + n) / RANGES) for n in (0, 1))
    return math.ceil(first), math.floor(last + 1e-9)


def draw_configuration(number: int, *seed: int) -> Configuration:
    """The configuration of a number: as the paper draws, but that the sizes go through RANGES."""
    rng = np.random.default_rng([*seed, number])

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(math.log(low), math.log(high))))

    least, most = range_of(number % RANGES)
    return Configuration(
        size=min(most, math.floor(log_uniform(least, most + 1))),
        learning_rate=log_uniform(*RATES),
        momentum=1 - log_uniform(*LEFT_OF_MOMENTUM),
        noise=float(rng.uniform(*NOISE)),
        seed=int(rng.integers(2**32)),
    )


def masks_of(params: ModelParams, size: Array) -> ModelParams:
    """1 for each weight of the first `size` units, and 0 for those of the others."""
    (layer,), (H,), W = params.layers, hidden_sizes(params), params.readout.W
    assert W is not None  # the readout is not tied to an embedding
    live_H = (jnp.arange(H) < size).astype(jnp.float32)

    def mask(leaf: Array, axes: Sequence[int]) -> Array:
        """The other axes are of the inputs, or of the outputs; some hold a block for each gate."""
        ones = jnp.ones_like(leaf)
        for axis in axes:
            blocks = jnp.tile(live_H, leaf.shape[axis] // H)
            ones = ones * lax.expand_dims(blocks, [n for n in range(leaf.ndim) if n != axis])
        return ones

    leaves = {k: mask(v, range(k == "W", v.ndim)) for k, v in layer._asdict().items()}
    readout = Readout(mask(W, [0]), jnp.ones_like(params.readout.b))
    return ModelParams(None, (layer._replace(**leaves),), readout)


def init_masked(
    config: ModelConfig, interface: Interface, key: Array, size: Array
) -> tuple[ModelParams, ModelParams]:
    """A model of `size` units among the config's, as its own `init` would draw it, and its masks.

    What is drawn in ±1/sqrt(H) is drawn for all units, and widened to the bound of so few.
    """
    params = init_model(key, config, interface)
    masks, wider = masks_of(params, size), jnp.sqrt(config.hidden_size / size)

    def begin(path: Any, leaf: Array, mask: Array) -> Array:
        is_bias = path[-1].name.startswith("b")
        return leaf * mask * (1 if is_bias else wider)

    return jax.tree_util.tree_map_with_path(begin, params, masks), masks


def make_update(rule: Rule, drawn: Configuration, targets: float) -> optax.GradientTransformation:
    """The optimizer of a configuration, for gradients of the mean over targets.

    `sgd` is the paper's: Nesterov's momentum, the rate times 1 - momentum, and the gradient of the
    sum over a sequence, which has so many `targets`. Of `adam` the momentum is b1.
    """
    update = {
        "adam": lambda: optax.adam(drawn.learning_rate, b1=drawn.momentum),
        "sgd": lambda: optax.sgd(
            drawn.learning_rate * (1 - drawn.momentum) * targets, drawn.momentum, nesterov=True
        ),
    }[rule.optimizer]()
    clip = optax.clip_by_global_norm(rule.clip_norm) if rule.clip_norm else optax.identity()
    return optax.chain(clip, update)


def as_vectors(batch: Batch, width: int) -> Batch:
    """The batch with one-hot vectors in place of ids."""
    if not jnp.issubdtype(batch.inputs.dtype, jnp.integer):
        return batch
    return batch._replace(inputs=jax.nn.one_hot(batch.inputs, width))


class Side:
    """Models of one cell and one range of sizes on a problem, side by side in compiled programs."""

    def __init__(self, problem: Problem, cell: str, number: int, rule: Rule) -> None:
        self.problem, self.rule = problem, rule
        self.interface = problem.interface._replace(reads_ids=False)
        self.head = HEADS[self.interface.head]
        reads = "forget_bias" in cell_options(CELLS[cell])
        options: dict[str, Any] = {"forget_bias": rule.forget_bias} if reads else {}
        self.config = ModelConfig(cell=cell, hidden_size=range_of(number)[1], **options)
        # What runs once is compiled in a fifth of the time, to slower code.
        self.begin = jax.jit(jax.vmap(self._begin), compiler_options=UNOPTIMIZED)
        self.gradient = GRADIENTS["bptt"](self.head)
        held_out, B = problem.held_out, problem.held_out.inputs.shape[1]
        self.targets = float(count_targets(held_out)) / B  # of a sequence
        self.advance = jax.jit(self._advance, donate_argnums=2)
        score = jax.vmap(self._score, in_axes=(0, None))
        self.score = jax.jit(score, compiler_options=UNOPTIMIZED)

    def train(self, drawn: Sequence[Configuration]) -> Iterator[dict[str, float]]:
        """Trains a model for each configuration, and yields how it does on what is held out."""
        many = Configuration(*map(np.asarray, zip(*drawn, strict=True)))
        many = many._replace(seed=many.seed.astype(np.uint32))
        masks, state = self.begin(many)
        at_once = max(n for n in range(1, STEPS_AT_ONCE + 1) if self.rule.steps % n == 0)
        for step in range(0, self.rule.steps, at_once):
            state = self.advance(many, masks, state, self._batches(step, at_once), step)
        losses, wrong = jax.device_get(self.score(state[0], self.problem.held_out))
        for n in range(len(drawn)):
            yield {"loss": float(losses[n])} | ({} if wrong is None else {"wrong": float(wrong[n])})

    def _batches(self, step: int, count: int) -> Batch:
        """What all models of the search learn from in some steps, with a leading axis of steps."""
        B, seed = self.rule.batch_size, self.rule.seed
        rngs = (np.random.default_rng([seed, n]) for n in range(step, step + count))
        return stack_batches([self.problem.draw(rng, B) for rng in rngs])

    def _begin(self, drawn: Configuration) -> tuple[ModelParams, Any]:
        """The masks of a model, and its state before the first step."""
        key = jax.random.key(drawn.seed)
        params, masks = init_masked(self.config, self.interface, key, drawn.size)
        return masks, (params, make_update(self.rule, drawn, self.targets).init(params))

    def _advance(
        self, many: Configuration, masks: ModelParams, state: Any, batches: Batch, first: int
    ) -> Any:
        key = jax.random.fold_in(jax.random.key(self.rule.seed), 2**31)

        def step(state: Any, inputs: tuple[Array, Batch]) -> tuple[Any, None]:
            number, batch = inputs
            batch = as_vectors(batch, self.interface.input_size)
            # The same for all, each times its own deviation: to draw it takes as long as to train.
            noise = jax.random.normal(jax.random.fold_in(key, number), batch.inputs.shape)
            learn = jax.vmap(partial(self._learn, batch, noise))
            return learn(many, masks, state), None

        numbers = first + jnp.arange(len(batches.inputs))
        return lax.scan(step, state, (numbers, batches))[0]

    def _learn(
        self, batch: Batch, noise: Array, drawn: Configuration, masks: ModelParams, state: Any
    ) -> Any:
        """One step of one model."""
        params, memory = state
        batch = batch._replace(inputs=batch.inputs + drawn.noise * noise)
        carry = init_carry(params, batch.inputs.shape[1])
        _, gradient = self.gradient(params, carry, batch, None)
        gradient = jax.tree.map(jnp.multiply, gradient, masks)
        update = make_update(self.rule, drawn, self.targets)
        updates, memory = update.update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory

    def _score(self, params: ModelParams, batch: Batch) -> tuple[Array, Array | None]:
        """The loss on what is held out, without noise; and the share that is wrong."""
        batch = as_vectors(batch, self.interface.input_size)
        carry = init_carry(params, batch.inputs.shape[1])
        loss, _ = sequence_loss(params, carry, batch, head=self.head)
        if self.problem.score is None:
            return loss, None
        outputs, _ = apply(params, carry, batch.inputs, None, batch.resets, batch.live)
        return loss, jnp.mean(self.problem.score(self.head.predict(outputs), batch).wrong)
