"""Zoneout: some units of the state stay what they were for a step (Krueger et al. 2017).

    c_t <- stay_c c_{t-1} + (1 - stay_c) c_t          likewise h

stay is 1 with probability `rate` and 0 otherwise, for each unit anew at each step; where nothing is
random it is the rate itself, as in the paper.
"""

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.cells.lstm import LSTMState


def sample_zoneout(
    key: Array, rates: LSTMState, shape: tuple[int, int, int], dtype: str
) -> LSTMState:
    """Draws which units of one layer stay what they were: 1 or 0, in the shape TxBxH."""
    keys = jax.random.split(key)
    return LSTMState(
        *(
            jax.random.bernoulli(key, rate, shape).astype(dtype)
            for key, rate in zip(keys, rates, strict=True)
        )
    )


def mean_zoneout(rates: LSTMState) -> LSTMState:
    """What `sample_zoneout` draws on average, the same for all: 1x1x1."""
    return LSTMState(*(jnp.full((1, 1, 1), rate) for rate in rates))


def zone_out(before: LSTMState, after: LSTMState, stay: LSTMState) -> LSTMState:
    """The state after a step whose cell went from one state to another."""
    return LSTMState(
        *(k * old + (1 - k) * new for old, new, k in zip(before, after, stay, strict=True))
    )
