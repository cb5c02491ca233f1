"""The Mogrifier LSTM: input and state scale each other in turn before the cell reads them.

    x^i = 2 sigmoid(h^(i-1) Q^i) x^(i-2)      i odd
    h^i = 2 sigmoid(x^(i-1) R^i) h^(i-2)      i even, up to the number of rounds

Melis, Kocisky and Blunsom 2020, equations 1 and 2; each matrix may be a product of two narrow ones,
as there.
"""

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.cells.cell import Cell, widths
from lstm_jax.cells.lstm import Forgetting, cell_step, init_lstm, init_state, truncate
from lstm_jax.cells.lstm_gates import LSTMParams, LSTMState
from lstm_jax.cells.projection import reads_ids
from lstm_jax.options import Section, option


@dataclass(frozen=True)
class Rounds(Section):
    """The options of this cell."""

    mogrifier_rounds: int = option(5, "how often input and state scale each other", low=0, high=100)
    mogrifier_rank: int = option(
        0, "rank of the matrices that they do it by; 0: full", low=0, high=65536
    )


class MogrifierParams(NamedTuple):
    """One layer's parameters."""

    W: Array  # DxG, input weights
    U: Array  # HxG, recurrent weights
    b: Array  # G
    # For each round its matrix: Q HxD in the first, third, ..., R DxH in the others; one factor, or
    # two whose product it is.
    rounds: tuple[tuple[Array, ...], ...]


def init_mogrifier(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    mogrifier_rounds: int = Rounds.mogrifier_rounds,
    mogrifier_rank: int = Rounds.mogrifier_rank,
    forget_bias: float = Forgetting.forget_bias,
    chrono: int = Forgetting.chrono,
    input_bound: float | None = None,
) -> MogrifierParams:
    """As `init_lstm`; every factor uniform in ±1/sqrt(its rows). `mogrifier_rank`: of each
    round's matrix, where it is a product of two; 0: it is one factor."""
    key, *round_keys = jax.random.split(key, 1 + mogrifier_rounds)
    cell = init_lstm(
        key,
        input_size,
        hidden_size,
        forget_bias=forget_bias,
        chrono=chrono,
        input_bound=input_bound,
    )

    def init_round(key: Array, rows: int, columns: int) -> tuple[Array, ...]:
        sizes = (rows, mogrifier_rank, columns) if mogrifier_rank else (rows, columns)
        keys = jax.random.split(key, len(sizes) - 1)
        return tuple(
            jax.random.uniform(key, (n, m), minval=-(n**-0.5), maxval=n**-0.5)
            for key, n, m in zip(keys, sizes, sizes[1:], strict=False)
        )

    shapes = [(hidden_size, input_size), (input_size, hidden_size)]
    return MogrifierParams(
        *cell, tuple(init_round(key, *shapes[n % 2]) for n, key in enumerate(round_keys))
    )


def drop_inputs(params: MogrifierParams, x: Array, mask_BxD: Array | None = None) -> Array:
    """What the layer reads, TxBxD: nothing can be multiplied before the state is known."""
    if reads_ids(x):
        x = jax.nn.one_hot(x, params.W.shape[0], dtype=params.W.dtype)
    return x if mask_BxD is None else x * mask_BxD[None]


def mogrify(params: MogrifierParams, x_BxD: Array, h_BxH: Array) -> tuple[Array, Array]:
    """The rounds: x and h as the cell reads them."""
    for n, factors in enumerate(params.rounds):
        if n % 2 == 0:
            x_BxD = 2 * jax.nn.sigmoid(reduce(jnp.matmul, factors, h_BxH)) * x_BxD
        else:
            h_BxH = 2 * jax.nn.sigmoid(reduce(jnp.matmul, factors, x_BxD)) * h_BxH
    return x_BxD, h_BxH


def step(params: MogrifierParams, state: LSTMState, x_BxD: Array) -> LSTMState:
    """One step."""
    x_BxD, h_BxH = mogrify(params, x_BxD, state.h)
    return cell_step(LSTMParams(params.W, params.U, params.b), state._replace(h=h_BxH), x_BxD)


MOGRIFIER = Cell(
    params=MogrifierParams,
    state=LSTMState,
    init=init_mogrifier,
    init_state=init_state,
    prepare=drop_inputs,
    step=step,
    widths=widths,
    truncate=truncate,
    options=(Forgetting, Rounds),
)
