"""Walking along time in chunks of steps, and writing arrays of all steps on the way."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.types import Array

SHORT = 256, 1_700_000
"""So many steps, and gates of all of them together, a sequence may have to be one chunk: 7 MB in float32."""


def steps_in_a_turn() -> int:
    """How many steps a loop of the default backend best has in one turn."""
    return 16 if jax.default_backend() == "gpu" else 1


class Walk(NamedTuple):
    """An order of steps.

    Attributes:
        num_steps: T.
        size: steps in a chunk.
        reverse: from the last step to the first.
        unroll: steps in one turn of a loop.
        in_place: whether each row is written where it belongs, or those of a turn of the loop together.
    """

    num_steps: int
    size: int
    reverse: bool
    unroll: int = 1
    in_place: bool = True

    @classmethod
    def here(cls, num_steps: int, batch_shape: tuple[int, ...], num_gates: int, reverse: bool, unroll: int) -> "Walk":
        """As it is fastest on the default backend.

        On a CPU a long sequence goes in chunks of some 512 rows, whose gates stay in the cache; a product of fewer rows
        is slower. If it can be, a chunk has a number of steps that divides T, so that no part of one is left over. A
        sequence whose gates fit into the cache as a whole is one chunk, which compiles in two thirds of the time.
        Elsewhere it is one in any case: what takes the time on a GPU is the number of kernels, and each row that is
        written by itself is one.
        """
        num_rows = math.prod(batch_shape)
        short = num_steps <= SHORT[0] and num_steps * num_rows * num_gates <= SHORT[1]
        if short or jax.default_backend() != "cpu":
            return cls(num_steps, num_steps, reverse, unroll, in_place=False)
        most = min(num_steps, max(8, 512 // max(1, num_rows)))
        size = next((size for size in range(most, most // 2, -1) if num_steps % size == 0), most)
        return cls(num_steps, size, reverse, unroll)

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

    def steps(
        self,
        one: Callable[[Any, Any, Any], tuple[Any, Any]],
        state: Any,
        into: Any,
        first: Any,
        count: int,
        offset: Any = 0,
    ) -> tuple[Any, Any]:
        """All steps of a chunk.

        Args:
            one: `(state, t, k) -> (state, rows)`; t counts from the begin of time, k from that of the chunk.
            state: before the first of them.
            into: arrays for the rows.
            first: the lowest t.
            count: how many steps.
            offset: where in `into` the rows of this chunk begin.

        Returns:
            the state, and `into` with the rows.
        """

        def turn(i: Any, loop: Any) -> Any:
            k = count - 1 - i if self.reverse else i
            state, rows = one(loop[0], first + k, k)
            return state, put(loop[1], rows, offset + k)

        if self.in_place:
            return lax.fori_loop(0, count, turn, (state, into), unroll=min(self.unroll, count))
        ks = jnp.arange(count, dtype=jnp.int32)
        state, rows = lax.scan(
            lambda state, k: one(state, first + k, k), state, ks, reverse=self.reverse, unroll=min(self.unroll, count)
        )
        return state, jax.tree.map(lambda leaf, rows: _written(leaf, rows, offset), into, rows)

    def part(self, steps: Any, first: Any, count: int) -> Any:
        """The rows of a chunk."""
        if count == self.num_steps:
            return steps
        return jax.tree.map(
            lambda leaf: lax.dynamic_slice_in_dim(leaf, first, count, allow_negative_indices=False), steps
        )


def _written(leaf: Array, rows: Array, offset: Any) -> Array:
    """With some rows replaced."""
    if leaf.shape == rows.shape:
        return rows
    return lax.dynamic_update_slice_in_dim(leaf, rows, offset, 0, allow_negative_indices=False)


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
