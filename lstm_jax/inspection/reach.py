"""How far back the gradient reaches: |dloss_t/dh_{t-k}| by the lag k, in every layer.

loss_t is the loss of what is predicted after step t, alone. A step is taken back at a time, by the
backward by hand, where the model has one: what arrives at the state after a step goes in, and what
arrives at the state before it comes out. So every way counts, through other layers as well. What
else is in the state at t-k is held.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lstm_jax.cells import cell_of
from lstm_jax.data.batches import Batch, Ids, bare
from lstm_jax.gradients.bptt import backpropagate
from lstm_jax.gradients.known import missing_by_hand
from lstm_jax.inspection.traces import Traces, resets_of
from lstm_jax.loss import sequence_loss
from lstm_jax.model import Carry, Masks, ModelParams, init_carry

LAGS, ENDS = 200, 32  # at most


class Reach(NamedTuple):
    """The norms by the lag from 1 on: of each layer, by the field of its state, KxE each."""

    layers: tuple[dict[str, np.ndarray], ...]
    ends: list[int]  # E, the steps t
    by_hand: bool


def reach(
    params: ModelParams,
    ids: Ids,
    traces: Traces,
    masks: Masks | None = None,
    *,
    lags: int = LAGS,
    ends: int = ENDS,
) -> Reach:
    """From some steps spread over a text, as far back as its length allows."""
    T, by_hand = len(ids), is_by_hand(params)
    K = min(lags, (T - 1) // 2)
    ends_E = np.unique(np.linspace(K, T - 2, ends if K else 0).astype(int))
    # Lag k is what a step makes of what arrives at the state after it: K steps, the last first.
    steps_KxE = ends_E[None] - np.arange(K)[:, None]
    every, resets_Tx1 = bare(ids).astype(np.int32), resets_of(ids)
    resets_KxE = None if resets_Tx1 is None else resets_Tx1[steps_KxE, 0]
    # What the state is that a step reads where a document begins, is the step's to say.
    states = tuple(layer.states for layer in traces.layers)
    before = jax.tree.map(
        lambda a, like: a[steps_KxE - 1].astype(like.dtype), states, init_carry(params, 1)
    )
    inputs = before, every[steps_KxE], every[steps_KxE + 1], resets_KxE
    norms = jax.device_get(_reach(params, inputs, masks, by_hand=by_hand)) if K else ()
    return Reach(tuple(state._asdict() for state in norms), ends_E.tolist(), by_hand)


def is_by_hand(params: ModelParams) -> bool:
    """Whether the model has a backward by hand."""
    return missing_by_hand(map(cell_of, params.layers)) is None


@partial(jax.jit, static_argnames="by_hand")
def _reach(params: ModelParams, inputs: Any, masks: Masks | None, *, by_hand: bool) -> Carry:
    """The norms, KxE, in the shape of a carry."""
    step_back = step_by_hand if by_hand else step_by_autodiff

    def walk(darrived: Carry, step: Any) -> tuple[Carry, Carry]:
        k, before, ids_E, targets_E, resets_E = step
        mask_1xE = jnp.broadcast_to(k == 0, ids_E.shape)[None]
        resets_1xE = None if resets_E is None else resets_E[None]
        batch = Batch(ids_E[None], targets_E[None], mask_1xE, resets_1xE)
        dbefore = step_back(params, before, batch, masks, darrived)
        return dbefore, jax.tree.map(lambda d_ExN: jnp.linalg.norm(d_ExN, axis=-1), dbefore)

    nothing = jax.tree.map(lambda a: jnp.zeros_like(a[0]), inputs[0])
    lags_K = jnp.arange(inputs[1].shape[0])
    return lax.scan(walk, nothing, (lags_K, *inputs))[1]


def step_by_hand(
    params: ModelParams, before: Carry, batch: Batch, masks: Masks | None, darrived: Carry
) -> Carry:
    """What arrives at the states before a step, from its own loss and from what comes after."""
    # A count of 1: each lane's loss is its own, not its share of a mean.
    return backpropagate(params, before, batch, masks, darrived, jnp.array(1))[2]


def step_by_autodiff(
    params: ModelParams, before: Carry, batch: Batch, masks: Masks | None, darrived: Carry
) -> Carry:
    """The same, for a cell that has no backward by hand."""

    def step(before: Carry) -> tuple[Array, Carry]:
        loss, aux = sequence_loss(params, before, batch, masks)
        return loss * jnp.maximum(aux.count, 1).astype(loss.dtype), aux.carry

    (loss, _), back = jax.vjp(step, before)
    return back((jnp.ones_like(loss), darrived))[0]
