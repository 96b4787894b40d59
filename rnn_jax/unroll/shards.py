"""Sums over a batch that lies on several devices, added up once after a loop and not in every turn of it."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.types import Array


class Shards:
    """A batch in parts, one for each device, or for as many as divide it, with sums of their own.

    Where the first axis of a batch is split over devices, XLA leaves each part where it is. Elsewhere this costs
    little: the parts are as large together as the whole.
    """

    def __init__(self, batch_shape: tuple[int, ...]) -> None:
        self.count = math.gcd(batch_shape[0], jax.device_count()) if batch_shape else 1

    def rows(self, chunk: Any) -> Any:
        """Leaves [K, *batch, F] as rows [K x batch, F], or [parts, rows, F] of several parts."""

        def one(leaf: Array) -> Array:
            if self.count == 1:
                return leaf.reshape(-1, leaf.shape[-1])
            parts = leaf.reshape(leaf.shape[0], self.count, -1, *leaf.shape[2:])
            return jnp.moveaxis(parts, 1, 0).reshape(self.count, -1, leaf.shape[-1])

        return jax.tree.map(one, chunk)

    def unrows(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """The opposite of `rows`."""
        if self.count == 1:
            return rows.reshape(shape)
        parts = rows.reshape(self.count, shape[0], -1, *shape[2:])
        return jnp.moveaxis(parts, 0, 1).reshape(shape)

    def each(self, function: Callable[..., Any], *shared: Any) -> Callable[..., Any]:
        """The function of rows, applied to each part."""
        bound = functools.partial(function, *shared)
        return bound if self.count == 1 else jax.vmap(bound)

    def room(self, like: Any) -> Any:
        """The shapes and dtypes of sums like `like`."""
        parts = () if self.count == 1 else (self.count,)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*parts, *leaf.shape), leaf.dtype), like)

    def total(self, sums: Any) -> Any:
        """The sums of all parts."""
        return sums if self.count == 1 else jax.tree.map(lambda leaf: leaf.sum(0), sums)
