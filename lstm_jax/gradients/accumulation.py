"""A batch in parts, one after another: the same gradient in the memory of a part.

Lanes never meet inside the model, so each part takes some of them, with what is dropped in them and
the state that they come with. Their gradients add up, by how many targets count in each.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.data.batches import Batch
from lstm_jax.gradients import GradFn
from lstm_jax.gradients.lanes import axis_of_mask, weigh
from lstm_jax.loss import Aux, count_targets
from lstm_jax.model import Carry, Masks, ModelParams


def in_parts(value_and_grad: GradFn, parts: int) -> GradFn:
    """The same gradient, of so many parts of the lanes in turn, whose number they divide.

    The loss is the mean over the counted targets of all lanes, as of the whole batch; only the
    order of its sums differs.
    """
    if parts == 1:
        return value_and_grad

    def split(a: Any, axis: int | None) -> Array:
        """The parts of an array, along a new first axis."""
        if axis is None:
            return jnp.broadcast_to(a, (parts, *a.shape))
        shape = *a.shape[:axis], parts, -1, *a.shape[axis + 1 :]
        return jnp.moveaxis(jnp.reshape(a, shape), axis, 0)

    def accumulated(
        params: ModelParams, carry: Carry, batch: Batch, masks: Masks | None = None
    ) -> tuple[tuple[Array, Aux], ModelParams]:
        count = count_targets(batch)
        each = (
            jax.tree.map(lambda a: split(a, 0), carry),
            jax.tree.map(lambda a: split(a, 1), batch),
            jax.tree.map(lambda a: split(a, axis_of_mask(a)), masks),
        )

        def add(total: Any, part: Any) -> tuple[Any, Carry]:
            (loss, aux), grads = value_and_grad(params, *part)
            share = weigh((loss, grads), aux.count, count)
            return jax.tree.map(jnp.add, total, share), aux.carry

        first = jax.tree.map(lambda a: a[0], each)
        (loss, _), grads = jax.eval_shape(value_and_grad, params, *first)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (loss, grads))
        (loss, grads), carries = lax.scan(add, zeros, each)
        after = jax.tree.map(lambda a: jnp.reshape(a, (-1, *a.shape[2:])), carries)
        return (loss, Aux(after, count)), grads

    return accumulated
