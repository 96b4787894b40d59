"""A number that changes when any bit of a tree of arrays does."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["fingerprint"]


def fingerprint(tree: Any) -> str:
    """Hashes the bytes of all arrays of a tree, wherever they are: the same on any number of devices.

    A sum over 32-bit words, each multiplied by an odd number that depends on its place, modulo 2^32, in two ways. It
    finds damage, not forgery. Each device sums what it holds.

    Args:
      tree: a pytree of arrays, typed keys among them.

    Returns:
      16 hexadecimal digits.

    Example:
      >>> a, b = {"w": jnp.zeros(3)}, {"w": jnp.zeros(3).at[1].set(-0.0)}
      >>> fingerprint(a) == fingerprint({"w": jnp.zeros(3)}), fingerprint(a) == fingerprint(b)
      (True, False)
    """
    low, high = (int(part) for part in jax.device_get(_sums(tree)))
    return f"{high:08x}{low:08x}"


@jax.jit
def _sums(tree: Any) -> tuple[jax.Array, jax.Array]:
    low, high = jnp.uint32(2166136261), jnp.uint32(40503)
    for leaf in jax.tree.leaves(tree):
        words = _words(leaf)
        place = jax.lax.iota(jnp.uint32, words.size).reshape(words.shape)
        first = jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)
        second = jnp.sum((words ^ (words >> 15)) * (place * jnp.uint32(2654435761) | 1), dtype=jnp.uint32)
        low, high = low * jnp.uint32(16777619) + first, high * jnp.uint32(2246822519) + second
    return low, high


def _words(leaf: jax.Array) -> jax.Array:
    """The bits of an array as unsigned integers of 32 bits, in its shape or with one more axis."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    size = leaf.dtype.itemsize
    bits = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32))
    return bits.astype(jnp.uint32)
