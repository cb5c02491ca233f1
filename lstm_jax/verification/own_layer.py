"""A layer of your own, with a backward of your own, held to a reference that has none.

Three sources: your layer's derivative, JAX's through the reference, and central differences of
your own layer's values, which ask no derivative of anybody.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.verification.compare import DIFFERENCE_STEP, TOLERANCES, Row, make_row, worst

Layer = Callable[[Any, Any], Any]


def check_layer(
    my_layer: Layer,
    reference: Layer,
    params: Any,
    x: Any,
    *,
    dtype: str = "float64",
    directions: int = 2,
    seed: int = 0,
) -> list[Row]:
    """Compares a layer with a reference, by its values and by the gradient of every leaf.

    Args:
      my_layer: (params, x) -> what it puts out, any pytree; a `jax.custom_vjp`, say.
      reference: the same in plain JAX, which JAX differentiates.
      params, x: any pytrees; leaves that are no floating point are held fixed.
      dtype: what all is computed in; `float32` for a kernel that has no other, with its tolerance
        and no differences, whose rounding would hide any error.
      directions: along how many of each leaf the differences are taken.

    Returns:
      A row for each pair and leaf: how far the two are apart, and how far they may be.

    Raises AssertionError, which names the pair and the leaf that are furthest apart, where some are
    too far; what is of another shape, or not finite, is infinitely far. Works where `my_layer` is
    jitted. Runs in float64 whatever `jax_enable_x64` says.

        >>> import jax, jax.numpy as jnp
        >>> from lstm_jax.verification import check_layer
        >>> @jax.custom_vjp
        ... def cube(params, x):
        ...     return params["w"] * x**3
        >>> def forward(params, x):
        ...     return cube(params, x), (params["w"], x)
        >>> def backward(kept, dy):
        ...     w, x = kept
        ...     return {"w": (dy * x**3).sum(0)}, 3 * dy * w * x**2
        >>> cube.defvjp(forward, backward)
        >>> plain = lambda params, x: params["w"] * x * x * x
        >>> rows = check_layer(cube, plain, {"w": jnp.arange(3.0)}, jnp.ones((4, 3)))
        >>> sorted({row.pair for row in rows})
        ['mine ~ differences', 'mine ~ reference']
    """
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        given = jax.tree.map(lambda a: in_dtype(a, dtype), (params, x))
        mine, wanted = (values_and_gradient(f, given, seed) for f in (my_layer, reference))
        rows = compare_leaves(mine, wanted, dtype)
        if dtype == "float64":
            rows += against_differences(my_layer, given, mine[1], directions, seed)
    refuse(rows)
    return rows


def in_dtype(leaf: Any, dtype: str) -> Array:
    """A leaf in the dtype that is computed in, unless it counts or chooses something."""
    array = jnp.asarray(leaf)
    return array.astype(dtype) if is_floating(array) else array


def named(tree: Any, what: str) -> dict[str, Array]:
    """The leaves of floating point, by a name for people."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {what + jax.tree_util.keystr(path): leaf for path, leaf in leaves if is_floating(leaf)}


def is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def loss_of(layer: Layer, seed: int) -> Callable[..., Any]:
    """(params, x) -> a number that every output has a share in, and the outputs."""

    def loss(params: Any, x: Any) -> tuple[Array, Any]:
        outputs = layer(params, x)
        rng, parts = np.random.default_rng(seed), []
        for a in named(outputs, "").values():
            weights = jnp.asarray(rng.standard_normal(a.shape), a.dtype)
            parts.append(jnp.sum(weights * a))
        return jnp.sum(jnp.stack(parts)), outputs

    return loss


def values_and_gradient(layer: Layer, given: Any, seed: int) -> tuple[Any, Any]:
    """What a layer puts out, and the gradient by its parameters and by what it reads."""
    grad = jax.grad(loss_of(layer, seed), (0, 1), has_aux=True, allow_int=True)
    gradient, outputs = jax.jit(grad)(*given)
    return outputs, gradient


def compare_leaves(mine: tuple[Any, Any], wanted: tuple[Any, Any], dtype: str) -> list[Row]:
    """A row for each output and each gradient."""
    rows = []
    for what, ours, theirs in (
        ("output", mine[0], wanted[0]),
        ("dparams", mine[1][0], wanted[1][0]),
        ("dx", mine[1][1], wanted[1][1]),
    ):
        a, b = named(ours, what), named(theirs, what)
        if a.keys() != b.keys():
            raise AssertionError(
                f"the layer's {what} has the leaves {', '.join(a)}, the reference's {', '.join(b)}"
            )
        for name in a:
            pair = (np.asarray(a[name]), np.asarray(b[name]))
            scale = max(np.abs(leaf).max(initial=0) for leaf in pair)
            rows.append(make_row("mine ~ reference", dtype, name, *pair, scale))
    return rows


def against_differences(
    layer: Layer, given: Any, gradient: Any, directions: int, seed: int
) -> list[Row]:
    """A row for each leaf: the slopes of the loss along directions by chance, of fourth order."""
    rng, s, rows = np.random.default_rng(seed + 1), DIFFERENCE_STEP, []
    loss, structure = jax.jit(loss_of(layer, seed)), jax.tree.structure(given)
    leaves, grads = jax.tree.leaves(given), jax.tree.leaves(gradient)
    names = names_of(given)
    for n, (leaf, grad) in enumerate(zip(leaves, grads, strict=True)):
        if not is_floating(leaf):
            continue
        slopes, products = [], []
        for _ in range(directions):
            way = rng.standard_normal(leaf.shape) / max(leaf.size, 1) ** 0.5

            def at(step: float, n: int = n, way: np.ndarray = way) -> float:
                moved = [*leaves[:n], leaves[n] + step * way, *leaves[n + 1 :]]
                return float(loss(*jax.tree.unflatten(structure, moved))[0])

            slopes.append((8 * (at(s) - at(-s)) - (at(2 * s) - at(-2 * s))) / (12 * s))
            products.append(float(np.vdot(grad, way)))
        scale = np.abs(np.asarray(grad)).max(initial=0)
        pair = (np.array(slopes), np.array(products))
        rows.append(make_row("mine ~ differences", "differences", names[n], *pair, scale))
    return rows


def names_of(given: Any) -> list[str]:
    """The names of all leaves of the parameters and of what is read, in order."""
    names = []
    for what, tree in zip(("dparams", "dx"), given, strict=True):
        paths, _ = jax.tree_util.tree_flatten_with_path(tree)
        names += [what + jax.tree_util.keystr(path) for path, _ in paths]
    return names


def refuse(rows: list[Row]) -> None:
    """Raises AssertionError where two sources are too far apart."""
    bad = [row for row in worst(rows, "pair", "leaf") if not row.passed]
    if bad:
        first = max(bad, key=lambda row: row.relative / TOLERANCES[row.kind])
        raise AssertionError(
            f"{first.pair}: {first.leaf} is off by {first.relative:.1e} of its largest value, and "
            f"{first.allowed:.0e} is allowed ({len(bad)} of {len(rows)} comparisons fail: "
            f"{', '.join(dict.fromkeys(row.leaf for row in bad))})"
        )
