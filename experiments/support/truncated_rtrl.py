"""Networks of memory blocks that learn at every symbol of a stream without an end, many at once.

Gers, Schmidhuber and Cummins 2000, "Learning to Forget: Continual Prediction with LSTM" (Neural
Computation 12): blocks with forget gates, as in `cells.forgetting_blocks`, and outputs that read
the cells and, by direct links, the input. A stream has no end to go back from, so derivatives are
carried forward in time, by the truncated rule: real-time recurrent learning, cut where the cell's
backward is cut. What is carried says of each cell how its state depends on each weight of its own
and of its block's input and forget gate, through all earlier states of that cell alone.

Axes: D inputs, N blocks of S cells, C = N S cells, K outputs, and last the L lanes: networks that
have nothing to do with each other. Elementwise operations on them are one long vector each; a
`vmap` of small products is not. Marks are those of `forgetting_blocks`: ^ takes a block's gate to
its cells, and v sums over the cells of each block.

Forward. u_t = [x_t, h_{t-1}, 1], of which g has no 1; v_t = [h_t, x_t, 1].

    (F1)  z_t = u_t W, for input gates, forget gates, output gates and cells
    (F2)  i = sigmoid(z^i), f = sigmoid(z^f), o = sigmoid(z^o), g = 4 sigmoid(z^g) - 2
    (F3)  s_t = f^_t s_{t-1} + i^_t g_t
    (F4)  q_t = 2 sigmoid(s_t) - 1,  h_t = o^_t q_t
    (F5)  y_t = sigmoid(v_t V)

Carried forward: P = ds/dW, a column for each cell.

    (P1)  P^i_t = f^_t P^i_{t-1} + u_t' (g_t i^_t (1 - i^_t))
    (P2)  P^f_t = f^_t P^f_{t-1} + u_t' (s_{t-1} f^_t (1 - f^_t))
    (P3)  P^g_t = f^_t P^g_{t-1} + u_t' (i^_t (4 - g_t^2) / 4)

The gradient of a step's loss, half the squared error (y_t - target)^2 summed over the outputs.

    (G1)  dy_t = (y_t - target_t) y_t (1 - y_t),  dV = v_t' dy_t,  dh_t = dy_t V', cells' rows alone
    (G2)  ds_t = dh_t o^_t (1 - q_t^2) / 2
    (G3)  dW^i = (ds_t P^i_t)v,  dW^f = (ds_t P^f_t)v,  dW^g = ds_t P^g_t
    (G4)  dW^o = u_t' ((dh_t q_t)v o_t (1 - o_t))

Weights change between the steps that a P adds up, as in the paper: it belongs to older ones, too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

BLOCKS, BLOCK_SIZE = 4, 2
CELLS = BLOCKS * BLOCK_SIZE
BOUND = 0.2  # initial weights are uniform in ± this, but for the biases of gates
GATE_BIASES = (0.5, 1.0, 1.5, 2.0)  # of forget gates, block by block; of the other two minus this


class Weights(NamedTuple):
    """All that learns. R = D + C + 1 are the rows of what gates read."""

    i: Array  # RxNxL, to the input gates
    f: Array  # RxNxL, to the forget gates
    o: Array  # RxNxL, to the output gates
    g: Array  # (R-1)xCxL, to the cells
    V: Array  # (C+D+1)xKxL, to the outputs


class Memory(NamedTuple):
    """What a step hands to the next."""

    h: Array  # CxL, the cells' outputs
    s: Array  # CxL, their states


class Partials(NamedTuple):
    """How each cell's state depends on weights, which a step hands on as well."""

    i: Array  # RxCxL, (P1)
    f: Array  # RxCxL, (P2)
    g: Array  # (R-1)xCxL, (P3)


class Units(NamedTuple):
    """What the units of a step put out."""

    u: Array  # RxL, what they read
    i: Array  # CxL: each gate as its cells see it
    f: Array  # CxL
    o: Array  # CxL
    g: Array  # CxL
    q: Array  # CxL


def init_weights(keys_L: Array, inputs: int, outputs: int) -> Weights:
    """The initial weights of the paper, each lane by its own key."""
    R = inputs + CELLS + 1
    shapes = ((R, BLOCKS), (R, BLOCKS), (R, BLOCKS), (R - 1, CELLS), (R, outputs))

    def draw(key: Array) -> list[Array]:
        keys = jax.random.split(key, len(shapes))
        return [
            jax.random.uniform(one, shape, minval=-BOUND, maxval=BOUND)
            for one, shape in zip(keys, shapes, strict=True)
        ]

    i, f, o, g, V = jax.vmap(draw, out_axes=-1)(keys_L)
    bias_Nx1 = jnp.asarray(GATE_BIASES)[:, None]
    return Weights(i.at[-1].set(-bias_Nx1), f.at[-1].set(bias_Nx1), o.at[-1].set(-bias_Nx1), g, V)


def init_memory(lanes: int) -> Memory:
    """The zero state."""
    return Memory(*(jnp.zeros((CELLS, lanes)) for _ in range(2)))


def init_partials(inputs: int, lanes: int) -> Partials:
    """Of the zero state, which depends on no weight."""
    R = inputs + CELLS + 1
    return Partials(*(jnp.zeros((rows, CELLS, lanes)) for rows in (R, R, R - 1)))


def product(read_RxL: Array, W_RxMxL: Array) -> Array:
    """What units read times their weights, lane by lane: MxL.

    As a sum of products of long vectors, which a CPU does faster than a reduction over the first
    axis: a whole step of 100 networks in 47 instead of 58 microseconds.
    """
    rows = [read_RxL[r][None] * W_RxMxL[r] for r in range(W_RxMxL.shape[0])]
    return sum(rows[1:], rows[0])


def outer(read_RxL: Array, d_MxL: Array) -> Array:
    """RxMxL."""
    return read_RxL[:, None] * d_MxL[None]


def to_cells(gates_NxL: Array) -> Array:
    """^: what each block has one of, for each of its cells."""
    return jnp.repeat(gates_NxL, BLOCK_SIZE, axis=-2)


def over_cells(d: Array) -> Array:
    """v: the sums over the cells of each block, of ...xCxL."""
    blocks = d.reshape(*d.shape[:-2], BLOCKS, BLOCK_SIZE, d.shape[-1])
    return sum((blocks[..., n, :] for n in range(1, BLOCK_SIZE)), blocks[..., 0, :])


def with_one(*parts_L: Array) -> Array:
    return jnp.concatenate([*parts_L, jnp.ones_like(parts_L[0][:1])])


def advance(
    weights: Weights, before: Memory, x_DxL: Array, held: float | None
) -> tuple[Memory, Units]:
    """(F1) to (F4). Where `held` is given f is that number: 1 is the LSTM of 1997, less than 1 a
    state that decays."""
    u_RxL = with_one(x_DxL, before.h)
    i, o = (to_cells(jax.nn.sigmoid(product(u_RxL, W))) for W in (weights.i, weights.o))
    g = 4 * jax.nn.sigmoid(product(u_RxL, weights.g)) - 2
    if held is None:
        f = to_cells(jax.nn.sigmoid(product(u_RxL, weights.f)))
    else:
        f = jnp.full_like(g, held)
    s = f * before.s + i * g
    q = 2 * jax.nn.sigmoid(s) - 1
    return Memory(o * q, s), Units(u_RxL, i, f, o, g, q)


def carry(before: Memory, partials: Partials, units: Units, held: float | None) -> Partials:
    """(P1) to (P3). A forget gate that is held learns nothing."""
    u, i, f, _, g, _ = units
    return Partials(
        i=f[None] * partials.i + outer(u, g * i * (1 - i)),
        f=f[None] * partials.f + outer(u, before.s * f * (1 - f)) if held is None else partials.f,
        g=f[None] * partials.g + outer(u[:-1], i * (4 - g * g) / 4),
    )


def read_out(weights: Weights, h_CxL: Array, x_DxL: Array) -> Array:
    """(F5): KxL."""
    return jax.nn.sigmoid(product(with_one(h_CxL, x_DxL), weights.V))


def gradient(
    weights: Weights,
    partials: Partials,
    units: Units,
    h_CxL: Array,
    x_DxL: Array,
    y_KxL: Array,
    target_KxL: Array,
) -> Weights:
    """(G1) to (G4), from the partials after the step."""
    u, _, _, o, _, q = units
    dy = (y_KxL - target_KxL) * y_KxL * (1 - y_KxL)
    # Not `product`, which the compiler would compute again for each row of what it is used for.
    dh = jnp.sum(weights.V[:CELLS] * dy[None], axis=1)
    ds = dh * o * (1 - q * q) / 2
    return Weights(
        i=over_cells(ds[None] * partials.i),
        f=over_cells(ds[None] * partials.f),
        o=outer(u, over_cells(dh * q * o * (1 - o))),
        g=ds[None] * partials.g,
        V=outer(with_one(h_CxL, x_DxL), dy),
    )
