"""What a narrow dtype, bfloat16 or float16, is wide enough for, and what it is not.

In mixed precision (Micikevicius et al. 2018) parameters, states, losses and sums stay float32, and
the matrix products read factors of fewer bits: here bfloat16, whose range is that of float32
(Kalamkar et al. 2019). It is a change of a traced function, not of the code that it was traced
from. So it serves every cell and every head, by hand and by autodiff, a user's own among them.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive, jaxpr_as_fun
from jax.extend.core.primitives import dot_general_p
from jax.interpreters import batching, mlir
from jax.lax import DotAlgorithmPreset
from jax.typing import DTypeLike

FLOAT32 = jnp.dtype(jnp.float32)


def at_least_float32(dtype: DTypeLike) -> DTypeLike:
    """The dtype to add many values up in.

    A sum of bfloat16 stands still after some 256 like terms, and float16 counts to 65,504.
    """
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def in_bfloat16(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled, where products of two float32 arrays read them as bfloat16.

    The sum inside a product, and what comes out of it, is float32. All else stays as it is: no
    array outside a product has another dtype. A gradient is to be taken inside the function, so
    that the products of its backward are among them; from outside JAX refuses to differentiate it.

        >>> import jax, jax.numpy as jnp
        >>> from lstm_jax.precision import in_bfloat16
        >>> a, b = jnp.array([1.0, 1 + 2**-9]), jnp.ones(2)  # bfloat16 has 1, and then 1 + 2**-7
        >>> float(jnp.dot(a, b) - 2), float(in_bfloat16(jnp.dot)(a, b) - 2)
        (0.001953125, 0.0)
    """

    @jax.jit
    @wraps(function)
    def narrowed(*args: Any) -> Any:
        traced, out = jax.make_jaxpr(function, return_shape=True)(*args)
        leaves = jaxpr_as_fun(narrow(traced))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), leaves)

    return narrowed


# What is done to a training step's gradient, by the name of what its matrix products read.
PRECISIONS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "float32": lambda gradient: gradient,
    "bfloat16": in_bfloat16,
}


def narrow(it: Any) -> Any:
    """A traced function with its products so changed; anything else as it is."""
    if isinstance(it, Jaxpr):  # since JAX 0.11 all are
        return it.replace(eqns=[*map(narrow_equation, it.eqns)])
    if isinstance(it, ClosedJaxpr):
        return it.replace(jaxpr=narrow(it.jaxpr))
    return it


def narrow_equation(equation: JaxprEqn) -> JaxprEqn:
    """What stands for an equation. Those of loops, branches and calls hold traced functions; a
    kernel's is left to the person who wrote the kernel."""
    if equation.primitive.name == "pallas_call":
        return equation
    if equation.primitive is not dot_general_p:
        return equation.replace(params=jax.tree.map(narrow, equation.params))
    if any(getattr(factor.aval, "dtype", None) != FLOAT32 for factor in equation.invars):
        return equation
    return equation.replace(primitive=product)


def round_off(a: Array) -> Array:
    """The nearest numbers that bfloat16 has, in the dtype that they come in."""
    bits = jnp.finfo(jnp.bfloat16)
    return lax.reduce_precision(a, exponent_bits=bits.nexp, mantissa_bits=bits.nmant)


def multiply(a: Array, b: Array, **dimensions: Any) -> Array:
    """A product by the algorithm that rounds its float32 factors to bfloat16, as GPUs and TPUs do
    by themselves."""
    return lax.dot_general(a, b, **dimensions | {"precision": DotAlgorithmPreset.BF16_BF16_F32})


def multiply_rounded(a: Array, b: Array, **dimensions: Any) -> Array:
    """The same for a CPU, where XLA ignores that algorithm or refuses it. Products of two numbers
    of bfloat16 are exact in float32, so that only the order of the sums differs."""
    return lax.dot_general(round_off(a), round_off(b), **dimensions)


def multiply_many(factors: Any, axes: Any, **dimensions: Any) -> tuple[Array, int]:
    """The product under `jax.vmap`."""
    many = jax.vmap(partial(lax.dot_general, **dimensions), in_axes=axes)
    return in_bfloat16(many)(*factors), 0


# `lax.dot_general` of float32 factors that are read as bfloat16.
product = Primitive("dot_general_of_bfloat16")
product.def_effectful_abstract_eval(dot_general_p.abstract_eval)
batching.primitive_batchers[product] = multiply_many
mlir.register_lowering(product, mlir.lower_fun(multiply, multiple_results=False))
mlir.register_lowering(
    product, mlir.lower_fun(multiply_rounded, multiple_results=False), platform="cpu"
)
