"""Small operations on pytrees of arrays: casting, selecting by mask, per-step leaves."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.types import Array, PerStep

__all__ = ["at_step", "cast", "expand", "per_step", "size", "where", "wide", "widen", "with_per_step"]


def wide(*dtypes: Any) -> Any:
    """The accumulation dtype: float64 if any of `dtypes` is 64-bit floating (or complex128), else float32.

    Args:
        *dtypes: floating or complex dtypes.

    Returns:
        `jnp.float32` or `jnp.float64`.
    """
    doubles = (jnp.dtype("float64"), jnp.dtype("complex128"))
    return jnp.float64 if any(jnp.dtype(d) in doubles for d in dtypes) else jnp.float32


def cast(tree: Any, dtype: Any) -> Any:
    """Casts every floating leaf to `dtype`; integers, booleans, keys and complex leaves stay as they are.

    Args:
        tree: any pytree of arrays.
        dtype: a floating dtype, such as `jnp.bfloat16`.

    Returns:
        The same structure.

    Example:
        >>> cast({"w": jnp.zeros(2), "step": jnp.arange(2)}, jnp.bfloat16)["w"].dtype
        dtype(bfloat16)
    """

    def one(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def widen(tree: Any, dtype: Any) -> Any:
    """Raises floating and complex leaves to the precision of `dtype`, never lowers them."""

    def one(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return leaf.astype(jnp.complex128 if wide(leaf.dtype, dtype) == jnp.float64 else jnp.complex64)
        return leaf.astype(wide(leaf.dtype, dtype)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def expand(mask: Array, leaf: Array) -> Array:
    """Gives `mask` trailing axes of length one until it has the rank of `leaf`."""
    return mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))


def where(mask: Array, on_true: Any, on_false: Any) -> Any:
    """`jnp.where` over two trees of equal structure; `mask` has the leading axes of every leaf."""
    return jax.tree.map(lambda a, b: jnp.where(expand(mask, a), a, b), on_true, on_false)


def size(tree: Any) -> int:
    """The number of scalars in a tree: for parameters, the parameter count.

    Example:
        >>> size({"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)})
        9
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _is_per_step(node: Any) -> bool:
    return isinstance(node, PerStep)


def per_step(params: Any) -> list[Array]:
    """The values of all `PerStep` leaves of `params`, in the order of the tree."""
    nodes = jax.tree.leaves(params, is_leaf=_is_per_step)
    return [node.value for node in nodes if _is_per_step(node)]


def with_per_step(params: Any, values: list[Array]) -> Any:
    """`params` with the values of its `PerStep` leaves replaced, in the order of `per_step`."""
    rest = iter(values)
    return jax.tree.map(lambda node: PerStep(next(rest)) if _is_per_step(node) else node, params, is_leaf=_is_per_step)


def at_step(params: Any, t: int | Array) -> Any:
    """Perturbed parameters as step `t` sees them: every `PerStep` leaf loses its time axis.

    Args:
        params: parameters from `cell.perturb`.
        t: the step, an integer or a traced scalar.

    Returns:
        Parameters for `stream_step`.
    """
    return with_per_step(params, [value[t] for value in per_step(params)])
