"""Learning while a sequence goes by: an update after each of its targets.

The algorithm of Hochreiter and Schmidhuber 1997 ("Long Short-Term Memory", appendix A.1), forward
in time: besides the state, a step hands on the derivative of every cell's state by every weight.
What an error at this step does to the weights of earlier steps goes through those alone, which is
the truncated rule. As the weights change on the way, what is handed on belongs to older ones.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from lstm_jax.cells import cell_of
from lstm_jax.data.batches import Batch
from lstm_jax.model import ModelParams

if TYPE_CHECKING:
    from experiments.support.trials import Recipe


def step_from(layer: Any, s_1xC: Array, before: Any, x_1xD: Any) -> Any:
    """The state after a step. The cells' states s are given apart, to be differentiated by."""
    cell = cell_of(layer)
    prepared = jax.tree.map(lambda leaf: leaf[0], cell.prepare(layer, x_1xD[None], None))
    return cell.step(layer, before._replace(s=s_1xC), prepared)


def learn_online(
    recipe: "Recipe", params: ModelParams, rule: optax.OptState, batch: Batch
) -> tuple[ModelParams, optax.OptState, Array]:
    """Learns from one sequence; its outputs, Tx1xN, are each of before its own update.

    For cells whose states are the field `s`: `memory_blocks` and `carousel`.
    """
    (layer,) = params.layers
    zero = cell_of(layer).init_state(layer, 1)
    ds_dlayer = jax.tree.map(lambda leaf: jnp.zeros((zero.s.size, *leaf.shape)), layer)

    def loss_of(layer: Any, s_1xC: Array, readout: Any, before: Any, now: Batch) -> Any:
        after = step_from(layer, s_1xC, before, now.inputs)
        y_1xN = after.h @ readout.W + readout.b[None]
        loss_1 = recipe.head.losses(y_1xN[None], jnp.asarray(now.targets)[None])[0]
        return jnp.sum(jnp.where(jnp.asarray(now.mask), loss_1, 0)), (after, y_1xN)

    def step(carry: Any, now: Batch) -> Any:
        params, rule, before, ds_dlayer = carry
        (layer,) = params.layers
        differentiate = jax.grad(loss_of, argnums=(0, 1, 2), has_aux=True)
        (dlayer, ds_1xC, dreadout), (after, y_1xN) = differentiate(
            layer, before.s, params.readout, before, now
        )
        earlier = jax.tree.map(lambda ds: jnp.tensordot(ds_1xC[0], ds, 1), ds_dlayer)
        gradient = ModelParams(None, (jax.tree.map(jnp.add, dlayer, earlier),), dreadout)
        gradient = jax.tree.map(jnp.multiply, gradient, recipe.learns)
        updates, new_rule = recipe.rule.update(gradient, rule, params)
        here = jax.jacrev(lambda of: step_from(of, before.s, before, now.inputs).s[0])(layer)
        ds_dlayer_after = jax.tree.map(jnp.add, ds_dlayer, here)
        new = optax.apply_updates(params, updates), new_rule, after, ds_dlayer_after
        return jax.tree.map(partial(jnp.where, jnp.asarray(now.live)[0]), new, carry), y_1xN

    (params, rule, _, _), y_Tx1xN = lax.scan(step, (params, rule, zero, ds_dlayer), batch)
    return params, rule, y_Tx1xN
