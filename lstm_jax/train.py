"""The training step, and many of them in one dispatch. Pure functions; the loop is `run.loop`."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.stages import Wrapped

from lstm_jax.averaging import Average, init_average, update_average
from lstm_jax.cells.passes import reset
from lstm_jax.config import Config
from lstm_jax.data.batches import Batch, Values
from lstm_jax.gradients.accumulation import in_parts
from lstm_jax.gradients.lanes import Division, Placement, divide_lanes, over_lanes
from lstm_jax.gradients.remat import make_gradient
from lstm_jax.gradients.weight_drop import draw_weight_masks, with_weight_drop
from lstm_jax.heads import Head, softmax
from lstm_jax.hyperparameters import Hyperparameters, Program
from lstm_jax.masks import draw_masks
from lstm_jax.model import Carry, Interface, ModelParams, init_carry, init_model
from lstm_jax.optimizer import Numbers, SkipState, make_optimizer, make_schedule, skip_nonfinite
from lstm_jax.precision import PRECISIONS
from lstm_jax.stalling import Stall, init_stall, slowed


class TrainState(NamedTuple):
    """Everything a run is in the middle of. Randomness needs no place here: it follows the step."""

    step: Array  # steps done
    params: ModelParams
    opt_state: optax.OptState
    carry: Carry
    average: Average | None = None
    stall: Stall | None = None

    @property
    def eval_params(self) -> ModelParams:
        """The parameters to score and sample with: their average, where there is one."""
        return self.params if self.average is None else self.average.params


class StepInfo(NamedTuple):
    """What a step reports, all of it scalars."""

    loss: Array  # the mean over the counted targets, before the update
    grad_norm: Array  # global norm, before clipping
    leaf_norms: (
        ModelParams  # the gradient's norm leaf by leaf; their squares add up to the global one
    )
    learning_rate: Array
    skipped: Array | None = None  # updates skipped so far; None: none ever is
    in_a_row: Array | None = None  # and of those, the ones since the last update


TrainStep = Callable[[Hyperparameters, TrainState, Batch], tuple[TrainState, StepInfo]]


def division_of(config: Config) -> Division:
    """How a training batch, or each of its parts, is divided among the devices."""
    lanes = config.train.batch_size // config.train.accumulate
    return divide_lanes(lanes, max(config.model.layer_sizes))


def mesh_of(config: Config) -> Mesh:
    """The devices that share a training batch."""
    return division_of(config).mesh


def state_placement(config: Config) -> TrainState:
    """Where a state's arrays live: the carry divided among the devices, the rest on each."""
    placement = Placement.of(mesh_of(config))
    everywhere = placement.replicated
    average = None if config.train.average == "none" else everywhere
    stalls = init_stall(config.optimizer, config.train.patience) is not None
    stall = everywhere if stalls else None
    places = (everywhere, everywhere, everywhere, placement.carry, average, stall)
    return TrainState._make(places)


def optimizer_of(config: Config, numbers: Numbers) -> optax.GradientTransformationExtraArgs:
    """The config's optimizer; its `update` takes the loss as an argument by name."""
    optimizer = make_optimizer(config.optimizer, numbers)
    if config.train.on_nonfinite == "skip":
        return skip_nonfinite(optimizer)
    return optax.with_extra_args_support(optimizer)


def init_train_state(
    config: Config,
    interface: Interface | int,
    hyper: Hyperparameters | None = None,
    params: ModelParams | None = None,
) -> TrainState:
    """The state before the first step, placed on the devices; `draw_train_state` takes the same."""
    state = draw_train_state(config, interface, hyper, params)
    return jax.device_put(state, state_placement(config))


def draw_train_state(
    config: Config,
    interface: Interface | int,
    hyper: Hyperparameters | None = None,
    params: ModelParams | None = None,
) -> TrainState:
    """The state before the first step, wherever it is.

    Args:
      interface: as `init_model` takes it.
      hyper: what is data to a compiled program; the config's, if it is left out.
      params: what it begins with; None: they are drawn.
    """
    hyper = Hyperparameters.of(config) if hyper is None else hyper
    if params is None:
        params = init_model(jax.random.key(hyper.seed), config.model, interface)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer_of(config, hyper.optimizer).init(params),
        carry=init_carry(params, config.train.batch_size),
        average=init_average(params, config.train),
        stall=init_stall(config.optimizer, config.train.patience),
    )


def reset_nonfinite(carry: Carry) -> Carry:
    """The zero state in every lane in which some value is not finite."""
    finite_B = jnp.stack([jnp.isfinite(x_BxH).all(1) for x_BxH in jax.tree.leaves(carry)]).all(0)
    return reset(carry, ~finite_B)


def sample_resets(key: Array, batch: Batch, rate: Values | float | None) -> Batch:
    """The batch with that share of its lanes, drawn at each step, reset before its first step.

    A lane so reset goes on in the middle of the text without knowing what came before. Scoring by
    `windows` puts a model in that condition.
    """
    if rate is None:
        return batch
    T, B = batch.inputs.shape[:2]
    resets_TxB = jnp.zeros((T, B), bool) if batch.resets is None else jnp.asarray(batch.resets)
    afresh_B = jax.random.bernoulli(key, rate, (B,))
    return batch._replace(resets=resets_TxB.at[0].set(resets_TxB[0] | afresh_B))


def keep_where_skipped(opt_state: SkipState, updated: Average, average: Average) -> Average:
    """The average as it was where the update was skipped, which so counts in no mean."""
    return jax.tree.map(partial(jnp.where, opt_state.in_a_row == 0), updated, average)


def make_train_step(config: Config, head: Head = softmax, mesh: Mesh | None = None) -> TrainStep:
    """Builds `train_step`: draw the masks, take the gradient, update, hand the carry on.

    Of the config only what `structure_of` leaves is read. `mesh`: the devices that share a batch;
    those of `mesh_of`, if it is left out.
    """
    gradient = make_gradient(config.train.gradient, config.train.remat_every, head)
    gradient = in_parts(gradient, config.train.accumulate)
    gradient = over_lanes(gradient, mesh or mesh_of(config))
    value_and_grad = PRECISIONS[config.train.precision](gradient)
    skips = config.train.on_nonfinite == "skip"

    def train_step(
        hyper: Hyperparameters, state: TrainState, batch: Batch
    ) -> tuple[TrainState, StepInfo]:
        step, params, opt_state, carry, average, stall = state
        optimizer = optimizer_of(config, hyper.optimizer)
        schedule = make_schedule(config.optimizer, hyper.optimizer)
        # A stream of its own, apart from the initial weights'.
        draws_key = jax.random.fold_in(jax.random.key(hyper.seed), 2**31)
        keys = jax.random.split(jax.random.fold_in(draws_key, step), 3)
        T, B = batch.inputs.shape[:2]
        masks = draw_masks(keys[0], params, hyper.chances, B, T)
        weights = draw_weight_masks(keys[1], params, hyper.chances.weights)
        batch = sample_resets(keys[2], batch, hyper.reset_rate)
        (loss, aux), grads = with_weight_drop(value_and_grad, weights)(params, carry, batch, masks)
        updates, opt_state = optimizer.update(grads, opt_state, params, loss=loss)
        params = optax.apply_updates(params, slowed(updates, stall))
        if average is not None:
            updated = update_average(average, params, config.train)
            average = keep_where_skipped(opt_state, updated, average) if skips else updated
        info = StepInfo(
            loss=loss,
            grad_norm=optax.tree.norm(grads),
            leaf_norms=jax.tree.map(optax.tree.norm, grads),
            learning_rate=slowed(jnp.asarray(schedule(step)), stall),
        )
        if not skips:
            return TrainState(step + 1, params, opt_state, aux.carry, average, stall), info
        # The optimizer's own count, which its schedule follows, stands still while it skips.
        info = info._replace(
            learning_rate=slowed(jnp.asarray(schedule(step - opt_state.skipped)), stall),
            skipped=opt_state.skipped,
            in_a_row=opt_state.in_a_row,
        )
        carry = reset_nonfinite(aux.carry)
        return TrainState(step + 1, params, opt_state, carry, average, stall), info

    return train_step


def make_dispatch(config: Config, head: Head = softmax) -> Wrapped:
    """The compiled function that makes K training steps: batches and infos have a leading axis K.

    The state, placed by `state_placement`, is donated: what goes in is gone. Configs that differ in
    their `Hyperparameters` alone share one such function.
    """
    return dispatch_of(Program.of(config), head, mesh_of(config))


@lru_cache(maxsize=8)
def dispatch_of(program: Program, head: Head, mesh: Mesh) -> Wrapped:
    """`make_dispatch`, made once for each of these."""
    structure = program.structure
    train_step = make_train_step(structure, head)
    placement, state = Placement.of(mesh), state_placement(structure)
    return jax.jit(
        lambda hyper, state, batches: lax.scan(partial(train_step, hyper), state, batches),
        donate_argnums=1,
        in_shardings=(placement.replicated, state, placement.batches),
        out_shardings=(state, placement.replicated),
    )
