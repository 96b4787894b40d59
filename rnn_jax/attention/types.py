"""What a mechanism of attention is, and the arithmetic that all of them share.

Memory is time-major, `[S, *batch, features]`. A query is `[*batch, *extra, Q]`: it may have more batch axes than the
memory has (the beams of a search), and these come last. Weights are `[*batch, *extra, S]`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from rnn_jax import checks
from rnn_jax.tree import expand, wide
from rnn_jax.types import Array, Params


class Memory(NamedTuple):
    """A source as attention reads it, prepared once for all queries.

    Attributes:
        keys: [S, *batch, K], what queries are compared with.
        values: [S, *batch, E], what is read.
        real: boolean [S, *batch]; keys and values are finite everywhere, and never read where it is False.
    """

    keys: Array
    values: Array
    real: Array


class Attention(NamedTuple):
    """A mechanism of attention: four pure functions.

    Attributes:
        init: `(key, query_size, memory_size) -> params`.
        prepare: `(params, memory [S, *batch, E], real=None) -> Memory`, once per source; `real` is boolean
            [S, *batch] or [S, *leading batch axes], and None where all steps are.
        init_state: `(memory: Memory, batch_shape) -> state`, leaves [*batch_shape, ...], for queries of that batch;
            a tree without leaves if nothing is remembered from one query to the next.
        apply: `(params, memory, state, query [*batch, *extra, Q]) -> (state, context [*batch, *extra, E], weights
            [*batch, *extra, S])`. The context has the dtype of the query, weights are at least float32.
    """

    init: Callable[[Array, int, int], Params]
    prepare: Callable[..., Memory]
    init_state: Callable[[Memory, tuple[int, ...]], Any]
    apply: Callable[[Params, Memory, Any, Array], tuple[Any, Array, Array]]


def source(memory: Array, real: Array | None, size: int | None) -> tuple[Array, Array]:
    """Checks a source, and blanks what is not real.

    Args:
        memory: [S, *batch, E].
        real: boolean [S, *leading batch axes] or None.
        size: E, or None if any will do.

    Returns:
        memory, zero where it is not real, and real [S, *batch].

    Raises:
        ValueError: names `memory` or `real`.
    """
    checks.sequence("memory", memory)
    memory = jnp.asarray(memory)
    if memory.shape[0] == 0:
        raise ValueError(f"`memory` must have at least one source step, got shape {memory.shape}")
    if size is not None:
        checks.features("memory", memory, size)
    batch_shape = memory.shape[1:-1]
    if real is None:
        return memory, jnp.ones(memory.shape[:-1], bool)
    real = checks.step_mask("real", real, memory.shape[0], batch_shape)
    real = jnp.broadcast_to(expand(real, memory[..., 0]), memory.shape[:-1])
    return jnp.where(real[..., None], memory, jnp.zeros((), memory.dtype)), real


def batch_of(memory: Memory) -> tuple[int, ...]:
    """The batch axes of a source."""
    return memory.real.shape[1:]


def check_query(memory: Memory, query: Array, size: int) -> None:
    """Checks that `query` has the batch axes of the memory first, and `size` features."""
    checks.features("query", query, size)
    batch = batch_of(memory)
    if query.shape[:-1][: len(batch)] != batch:
        raise ValueError(f"`query` must have the batch axes {batch} of the memory first, got shape {query.shape}")


def source_last(leaf: Array, memory: Memory, rank: int) -> Array:
    """A leaf of the memory as queries meet it: [S, *batch, ...] -> [*batch, 1, ..., S, ...], S on axis `rank - 1`."""
    axes = memory.real.ndim - 1
    moved = jnp.moveaxis(leaf, 0, axes)
    return moved.reshape(*moved.shape[:axes], *(1,) * (rank - 1 - axes), *moved.shape[axes:])


def scores(memory: Memory, query: Array) -> Array:
    """Products of queries and keys, at least float32: [*batch, *extra, K] -> [*batch, *extra, S]."""
    check_query(memory, query, memory.keys.shape[-1])
    return _contract(query, memory.keys, memory.keys.ndim - 1)


def read(memory: Memory, weights: Array, dtype: Any) -> Array:
    """The values weighted and summed, in `dtype`: [*batch, *extra, S] -> [*batch, *extra, E]."""
    return _contract(weights.astype(dtype), memory.values, 0).astype(dtype)


def _contract(x: Array, leaf: Array, axis: int) -> Array:
    """The last axis of x [*batch, *extra, F] against one of leaf [S, *batch, F], batch by batch, at least float32."""
    accumulated = wide(x.dtype, leaf.dtype)
    dtype = x.dtype if x.dtype == leaf.dtype else accumulated
    batch = tuple(range(leaf.ndim - 2)), tuple(range(1, leaf.ndim - 1))
    dimensions = (((x.ndim - 1,), (axis,)), batch)
    return lax.dot_general(x.astype(dtype), leaf.astype(dtype), dimensions, preferred_element_type=accumulated)


def masked_softmax(energies: Array, keep: Array) -> Array:
    """Softmax over the last axis among the entries that are kept; zeros where none is.

    Args:
        energies: [..., S], finite.
        keep: boolean, broadcast against energies.

    Returns:
        [..., S].
    """
    energies = jnp.where(keep, energies, jnp.finfo(energies.dtype).min)
    top = lax.stop_gradient(energies.max(-1, keepdims=True))
    exponentials = jnp.where(keep, jnp.exp(energies - top), 0)
    total = exponentials.sum(-1, keepdims=True)
    return exponentials / jnp.where(total == 0, 1, total)
