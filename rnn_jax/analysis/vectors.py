"""Carries as real vectors, which is how dynamics are looked at."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["Step", "as_vector", "vector_step"]

Step = Callable[..., Any]
"""`step(h) -> h`, or `step(h, x) -> h` where there are inputs; h is any tree of arrays."""


def as_vector(carry: Any) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """A tree of arrays as one real vector [D], and the way back. Complex numbers are two real ones.

    Args:
      carry: a tree of floating or complex arrays.

    Returns:
      the vector, in the widest real dtype of the leaves, and `vector -> carry`.

    Raises:
      ValueError: there is no leaf, or one is not floating.

    Example:
      >>> vector, back = as_vector({"h": jnp.array([1.0, 2.0]), "c": jnp.array([3.0 + 4.0j])})
      >>> vector.tolist(), back(vector)["c"].tolist()
      ([3.0, 4.0, 1.0, 2.0], [(3+4j)])
    """
    leaves, structure = jax.tree.flatten(carry)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves):
        raise ValueError(f"`carry` must be a tree of floating arrays, got {carry!r}")
    dtype = jnp.result_type(*(leaf.real.dtype for leaf in leaves))
    likes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]

    def flat(leaf: jax.Array) -> list[jax.Array]:
        parts = (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)
        return [part.reshape(-1).astype(dtype) for part in parts]

    def back(vector: jax.Array) -> Any:
        out, start = [], 0
        for like in likes:
            parts = []
            for _ in range(2 if jnp.issubdtype(like.dtype, jnp.complexfloating) else 1):
                parts.append(vector[start : start + like.size].reshape(like.shape))
                start += like.size
            leaf = parts[0] if len(parts) == 1 else jax.lax.complex(*parts)
            out.append(leaf.astype(like.dtype))
        return jax.tree.unflatten(structure, out)

    return jnp.concatenate([part for leaf in leaves for part in flat(leaf)]), back


def vector_step(step: Step, carry: Any) -> tuple[Callable[..., jax.Array], jax.Array]:
    """A step over vectors [D], and the carry as such a vector.

    Args:
      step: see `Step`; it must return a tree like the carry.
      carry: a tree of floating arrays.

    Returns:
      `(vector, *x) -> vector`, and the vector of the carry.
    """
    vector, back = as_vector(carry)
    return lambda v, *x: as_vector(step(back(v), *x))[0].astype(v.dtype), vector
