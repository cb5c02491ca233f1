"""What a narrow dtype, bfloat16 or float16, is not wide enough for."""

import jax.numpy as jnp
from jax.typing import DTypeLike


def at_least_float32(dtype: DTypeLike) -> DTypeLike:
    """The dtype to add many values up in.

    A sum of bfloat16 stands still after some 256 like terms, and float16 counts to 65,504.
    """
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
