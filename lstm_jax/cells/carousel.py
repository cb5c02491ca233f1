"""Constant error carousels alone, forward and backward: cells with an input gate each.

The reduced network of experiments 2a and 2b of Hochreiter and Schmidhuber 1997, "Long Short-Term
Memory" (Neural Computation 9): no output gate, no forget gate, no weights from hidden to hidden
units, and direct links from the input to the output. The paper's 10,504 weights come out only so:
101 x 101 direct ones, and 101 each into one cell, into its gate, and out of it.

The readout reads what a layer puts out and nothing else, so a layer puts out its input as well.

Axes: B batch, D input, C cells, H = C + D, G = 2C in the order input gates, cells. Marks are those
of `lstm`.

Forward.

    (F1)  z_t = (m x_t) W + b
    (F2)  i = sigmoid(z^i), g = sigmoid(z^g)
    (F3)  s_t = s~_t + i_t g_t
    (F4)  h_t = [s_t, m x_t]

Backward. dh_t and ds_t arrive at the state; dh^s and dh^x are the two parts of dh.

    (B1)  ds_t gains dh^s_t
    (B2)  dz^i_t = ds_t g_t i_t (1 - i_t)
          dz^g_t = ds_t i_t g_t (1 - g_t)
    (B3)  dh~_t = 0,  ds~_t = ds_t
    (B4)  dW = sum_t (m x_t)' dz_t,  db = sum_t dz_t,  dx_t = m (dz_t W' + dh^x_t)

The truncated rule has nothing to leave out: no error goes back in time but through the cell state.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.cells.cell import Cell
from lstm_jax.cells.passes import Calculus, make_passes
from lstm_jax.cells.projection import multiply_input, project_backward, reads_ids
from lstm_jax.errors import UserError


class CarouselParams(NamedTuple):
    """One layer's parameters."""

    W: Array  # DxG, input weights
    b: Array  # G


class CarouselState(NamedTuple):
    """What one layer hands from a step to the next."""

    h: Array  # BxH, the cells' states and the input
    s: Array  # BxC, the cells' states


class Prepared(NamedTuple):
    """What a step reads."""

    z: Array  # BxG, the input's share
    x: Array  # BxD, the input itself


class Kept(NamedTuple):
    """What (B2) needs of a step, each BxC."""

    i: Array
    g: Array


class Arrived(NamedTuple):
    """What the backward step hands to (B4)."""

    z: Array  # dz, BxG
    x: Array  # dh^x, BxD


def init_carousel(
    key: Array, input_size: int, hidden_size: int, *, input_bound: float | None = None
) -> CarouselParams:
    """Weights uniform in ±1/sqrt(H), or ±`input_bound` if given; biases zero.

    Raises UserError where `hidden_size`, H, leaves no cell beside the D of the input.
    """
    C = hidden_size - input_size
    if C < 1:
        raise UserError(
            f"a layer of model.cell=carousel puts out its {input_size} inputs and its cells: "
            f"a size of {hidden_size} leaves no cell; take {input_size + 1} or more"
        )
    bound = hidden_size**-0.5 if input_bound is None else input_bound
    shape = input_size, 2 * C
    return CarouselParams(
        jax.random.uniform(key, shape, minval=-bound, maxval=bound), jnp.zeros(2 * C)
    )


def widths(params: CarouselParams) -> tuple[int, int]:
    """D and H."""
    D, G = params.W.shape
    return D, D + G // 2


def init_state(params: CarouselParams, batch_size: int) -> CarouselState:
    """The zero state of a layer."""
    D, H = widths(params)
    return CarouselState(*(jnp.zeros((batch_size, n), params.W.dtype) for n in (H, H - D)))


def prepare(params: CarouselParams, x: Array, mask_BxD: Array | None = None) -> Prepared:
    """(F1), and what is put out beside the cells."""
    z_TxBxG = multiply_input(x, params.W, mask_BxD) + params.b[None, None]
    if reads_ids(x):
        x = jax.nn.one_hot(x, params.W.shape[0], dtype=z_TxBxG.dtype)
    return Prepared(z_TxBxG, x if mask_BxD is None else x * mask_BxD[None])


def forward(_: None, before: CarouselState, prepared: Prepared) -> tuple[CarouselState, Kept]:
    """(F2) to (F4)."""
    i, g = jnp.split(jax.nn.sigmoid(prepared.z), 2, axis=-1)
    s = before.s + i * g
    return CarouselState(jnp.concatenate([s, prepared.x], axis=-1), s), Kept(i, g)


def step(params: CarouselParams, state: CarouselState, prepared: Prepared) -> CarouselState:
    """One step."""
    return forward(None, state, prepared)[0]


def backward(_: None, read: None, kept: Kept, d: CarouselState) -> tuple[CarouselState, Arrived]:
    """(B1) to (B3)."""
    i, g = kept
    C = i.shape[-1]
    ds = d.s + d.h[:, :C]
    dz_BxG = jnp.concatenate([ds * g * i * (1 - i), ds * i * g * (1 - g)], axis=-1)
    return CarouselState(jnp.zeros_like(d.h), ds), Arrived(dz_BxG, d.h[:, C:])


def collect(
    params: CarouselParams,
    x: Array,
    mask_BxD: Array | None,
    before: CarouselState,
    after: CarouselState,
    kept: Kept,
    d: Arrived,
) -> tuple[CarouselParams, Array | None]:
    """(B4)."""
    dW, dx_TxBxD = project_backward(params.W, x, mask_BxD, d.z)
    if dx_TxBxD is not None:
        dx_TxBxD = dx_TxBxD + (d.x if mask_BxD is None else d.x * mask_BxD[None])
    return CarouselParams(dW, jnp.sum(d.z, (0, 1))), dx_TxBxD


CALCULUS = Calculus(
    forward_weights=lambda params, x: None,
    prepare=prepare,
    forward=forward,
    reads=lambda before, after: None,
    backward_weights=lambda params, x, truncated: None,
    backward=backward,
    collect=collect,
)

CAROUSEL = Cell(
    params=CarouselParams,
    state=CarouselState,
    init=init_carousel,
    init_state=init_state,
    prepare=prepare,
    step=step,
    widths=widths,
    recurrent=(),
    truncate=lambda state: state,
    by_hand={"rows": make_passes(CALCULUS)},
)
