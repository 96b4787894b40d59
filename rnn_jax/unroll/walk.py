"""Walking along time in chunks of steps, with arrays of all steps that are written in place."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.types import Array


class Walk(NamedTuple):
    """An order of steps.

    Attributes:
        num_steps: T.
        size: steps in a chunk.
        reverse: from the last step to the first.
        unroll: steps in one turn of a loop.
    """

    num_steps: int
    size: int
    reverse: bool
    unroll: int = 1

    def chunks(self, chunk: Callable[[Any, Any, int], Any], state: Any) -> Any:
        """`chunk(state, first, count)` for all chunks; `first` is the lowest number of a step, whatever the order.

        What does not fill a chunk is the end of the sequence.
        """
        full, rest = divmod(self.num_steps, self.size)

        def one(i: Any, state: Any) -> Any:
            return chunk(state, (full - 1 - i if self.reverse else i) * self.size, self.size)

        if rest and self.reverse:
            state = chunk(state, full * self.size, rest)
        state = chunk(state, 0, self.size) if full == 1 else lax.fori_loop(0, full, one, state)
        return chunk(state, full * self.size, rest) if rest and not self.reverse else state

    def steps(self, one: Callable[[Any, Any, Any], Any], state: Any, first: Any, count: int) -> Any:
        """`one(state, t, k)` for all steps of a chunk: t counts from the begin of time, k from that of the chunk."""

        def turn(i: Any, state: Any) -> Any:
            k = count - 1 - i if self.reverse else i
            return one(state, first + k, k)

        return lax.fori_loop(0, count, turn, state, unroll=min(self.unroll, count))

    def part(self, steps: Any, first: Any, count: int) -> Any:
        """The rows of a chunk."""
        if count == self.num_steps:
            return steps
        return jax.tree.map(
            lambda leaf: lax.dynamic_slice_in_dim(leaf, first, count, allow_negative_indices=False), steps
        )


def room(like: Any, num_steps: int, near: Array) -> Any:
    """Arrays of `num_steps` rows like `like` to write into, for now zero."""
    return jax.tree.map(lambda leaf: zeros((num_steps, *leaf.shape), leaf.dtype, near), like)


def zeros(shape: tuple[int, ...], dtype: Any, near: Array) -> Array:
    """Zeros; inside `shard_map` they vary over devices as `near` does."""
    if not _in_shard_map():
        return jnp.zeros(shape, dtype)
    nothing = jnp.ravel(near)[:0].astype(dtype)
    return lax.pad(nothing, jnp.zeros((), dtype), [(math.prod(shape), 0, 0)]).reshape(shape)


def alike(tree: Any) -> Any:
    """The same tree; inside `shard_map` all of its leaves vary over all devices over which any of them does."""
    if not _in_shard_map():
        return tree
    nothing = jnp.concatenate([jnp.ravel(leaf)[:0].astype(jnp.float32) for leaf in jax.tree.leaves(tree)])
    return jax.tree.map(lambda leaf: leaf + zeros(leaf.shape, leaf.dtype, nothing), tree)


def _in_shard_map() -> bool:
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def at(steps: Any, t: Any) -> Any:
    """Row t."""
    return jax.tree.map(
        lambda leaf: lax.dynamic_index_in_dim(leaf, t, keepdims=False, allow_negative_indices=False), steps
    )


def put(steps: Any, row: Any, t: Any) -> Any:
    """With row t replaced."""
    return jax.tree.map(
        lambda leaf, one: lax.dynamic_update_index_in_dim(leaf, one, t, 0, allow_negative_indices=False), steps, row
    )
