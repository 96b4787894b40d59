"""What is to be decoded, checked; the model's log-probabilities; which tokens may come next."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks, tree
from rnn_jax.types import Array, Carry

Step = Callable[[Carry, Array], tuple[Carry, Array]]
"""`(carry, tokens int32 [*batch]) -> (carry, logits [*batch, V])`; the leaves of the carry are [*batch, ...]."""

NEVER = -1
"""The end token of sequences that do not end: no token has this id."""


class Task(NamedTuple):
    """The arguments that all decoders share, checked."""

    carry: Carry  # leaves [*batch, ...], with beams [*batch, K, ...]
    start: Array  # int32 [*batch], with beams [*batch, K]
    vocab_size: int
    dtype: Any  # of log-probabilities
    end: int
    max_length: int
    min_length: int
    prefix: Array  # int32 [P, *batch], P may be 0
    prefix_lengths: Array  # int32 [*batch]
    padding: int  # what stands after the end


def make_task(
    step: Step,
    carry: Carry,
    start: Any,
    *,
    end: int | None,
    max_length: int,
    min_length: int,
    prefix: Any,
    prefix_lengths: Any,
    num_beams: int | None = None,
) -> Task:
    """Checks the arguments that all decoders share. With `num_beams`, carry and start get an axis of K beams."""
    count("max_length", max_length)
    count("min_length", min_length)
    if min_length > max_length:
        raise ValueError(f"`min_length` must be at most max_length={max_length}, got {min_length}")
    tokens = _ids("start", start, None)
    batch_shape = tokens.shape
    for path, leaf in jax.tree.flatten_with_path(carry)[0]:
        if jnp.shape(leaf)[: len(batch_shape)] != batch_shape:
            where = jax.tree_util.keystr(path) or "the carry"
            expected = f"`carry` must have the batch axes {batch_shape} of `start` first"
            raise ValueError(f"{expected}, got shape {jnp.shape(leaf)} at {where}")
    carry = jax.tree.map(jnp.asarray, carry)
    if num_beams is not None:
        carry, tokens = jax.tree.map(lambda leaf: _repeat(leaf, len(batch_shape), num_beams), (carry, tokens))
    vocab_size, dtype = _check_step(step, carry, tokens)
    if end is not None and (
        not isinstance(end, int | np.integer) or isinstance(end, bool) or not 0 <= end < vocab_size
    ):
        raise ValueError(f"`end` must be None or an integer in [0, {vocab_size}), got {checks.describe(end)}")
    forced, forced_lengths = _check_prefix(prefix, prefix_lengths, batch_shape, vocab_size, max_length)
    return Task(
        carry=carry,
        start=tokens,
        vocab_size=vocab_size,
        dtype=dtype,
        end=NEVER if end is None else int(end),
        max_length=max_length,
        min_length=min_length,
        prefix=forced,
        prefix_lengths=forced_lengths,
        padding=0 if end is None else int(end),
    )


def next_log_probs(logits: Array) -> Array:
    """The model's log-probabilities of the next token, in at least float32.

    A NaN logit counts as -inf, an infinite one as the largest number. Where no logit is above -inf, all are -inf.
    """
    z = logits.astype(tree.wide(logits.dtype))
    z = jnp.where(jnp.isnan(z), -jnp.inf, jnp.minimum(z, jnp.finfo(z.dtype).max))
    possible = (z > -jnp.inf).any(-1, keepdims=True)
    return jnp.where(possible, jax.nn.log_softmax(z), -jnp.inf)


def allow(task: Task, t: Array, log_probs: Array, banned: Array | None = None) -> Array:
    """The log-probabilities [*batch, ..., V] with -inf at what must not come at step t.

    Within the prefix that is everything but its token; after it, `banned` and an end before `min_length`.
    """
    ids = jax.lax.broadcasted_iota(jnp.int32, log_probs.shape, log_probs.ndim - 1)
    forbidden = (ids == task.end) & (t + 1 < task.min_length)
    if banned is not None:
        forbidden = forbidden | banned
    if len(task.prefix):
        forced = tree.expand(t < task.prefix_lengths, ids)
        forbidden = jnp.where(forced, ids != tree.expand(task.prefix[t], ids), forbidden)
    return jnp.where(forbidden, -jnp.inf, log_probs)


def count(name: str, value: Any) -> None:
    """Checks that `value` is an integer of at least 0."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        raise ValueError(f"`{name}` must be an integer of at least 0, got {checks.describe(value)}")


def number(
    name: str,
    value: Any,
    dtype: Any,
    expected: str = "a finite number",
    valid: Callable[[float], bool] = lambda value: bool(np.isfinite(value)),
) -> Array:
    """Checks a scalar, which may be traced: then its value cannot be looked at."""
    is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and not isinstance(value, bool)
    if not is_number or jnp.shape(value) or not jnp.issubdtype(jnp.asarray(value).dtype, jnp.number):
        raise ValueError(f"`{name}` must be {expected}, got {checks.describe(value)}")
    if not isinstance(value, jax.core.Tracer) and not valid(float(value)):
        raise ValueError(f"`{name}` must be {expected}, got {float(value)}")
    return jnp.asarray(value).astype(dtype)


def _ids(name: str, value: Any, vocab_size: int | None, real: Any = True) -> Array:
    """Checks token ids; those that are traced or not `real` cannot be wrong."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"`{name}` must be integers, got {checks.describe(array)}")
    if not isinstance(value, jax.core.Tracer):
        ids = np.asarray(value)
        wrong = ids[((ids < 0) | (ids >= (np.inf if vocab_size is None else vocab_size))) & real]
        if wrong.size:
            expected = "of at least 0" if vocab_size is None else f"in [0, {vocab_size})"
            raise ValueError(f"`{name}` must hold token ids {expected}, got {wrong[0]}")
    return array.astype(jnp.int32)


def _check_prefix(
    prefix: Any, prefix_lengths: Any, batch_shape: tuple[int, ...], vocab_size: int, max_length: int
) -> tuple[Array, Array]:
    if prefix is None:
        if prefix_lengths is not None:
            raise ValueError("`prefix_lengths` needs a `prefix`, got None")
        return jnp.zeros((0, *batch_shape), jnp.int32), jnp.zeros(batch_shape, jnp.int32)
    shape = np.shape(prefix)
    if shape[1:] != batch_shape or len(shape) != len(batch_shape) + 1:
        raise ValueError(f"`prefix` must have the shape (P, *batch) with the batch {batch_shape}, got {shape}")
    if shape[0] > max_length:
        raise ValueError(f"`prefix` must have at most max_length={max_length} steps, got {shape[0]}")
    if prefix_lengths is None:
        prefix_lengths = np.full(batch_shape, shape[0])
    lengths = jnp.asarray(prefix_lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.shape != batch_shape:
        expected = f"`prefix_lengths` must be integers of the shape {batch_shape} of the batch"
        raise ValueError(f"{expected}, got {checks.describe(lengths)}")
    real: Any = True
    if isinstance(prefix_lengths, jax.core.Tracer):
        real = False
    else:
        known = np.asarray(prefix_lengths)
        wrong = known[(known < 0) | (known > shape[0])]
        if wrong.size:
            raise ValueError(f"`prefix_lengths` must lie in [0, P] with P={shape[0]}, got {wrong[0]}")
        real = np.arange(shape[0]).reshape(-1, *[1] * known.ndim) < known
    forced = _ids("prefix", prefix, vocab_size, real)
    return forced, jnp.minimum(lengths.astype(jnp.int32), shape[0])


def _check_step(step: Step, carry: Carry, tokens: Array) -> tuple[int, Any]:
    """Runs the step on shapes: the size of the vocabulary, and the dtype of log-probabilities."""
    result = jax.eval_shape(step, carry, tokens)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"`step` must return (carry, logits), got {type(result).__name__}")
    after, logits = result
    is_array = isinstance(logits, jax.ShapeDtypeStruct) and jnp.issubdtype(logits.dtype, jnp.floating)
    if not is_array or logits.shape[:-1] != tokens.shape or logits.ndim != tokens.ndim + 1 or not logits.shape[-1]:
        expected = f"floating logits (*batch, V) with the batch {tokens.shape}"
        raise ValueError(f"`step` must return {expected}, got {checks.describe(logits)}")
    if jax.tree.structure(after) != jax.tree.structure(carry):
        got, structure = jax.tree.structure(after), jax.tree.structure(carry)
        raise ValueError(f"`step` must return a carry of the structure it got, {structure}, got {got}")
    for (path, leaf), like in zip(jax.tree.flatten_with_path(after)[0], jax.tree.leaves(carry), strict=True):
        if (leaf.shape, leaf.dtype) != (like.shape, like.dtype):
            where = jax.tree_util.keystr(path) or "the carry"
            expected = f"`step` must return a carry like the one it got, at {where} {checks.describe(like)}"
            raise ValueError(f"{expected}, got {checks.describe(leaf)}")
    return logits.shape[-1], tree.wide(logits.dtype)


def _repeat(leaf: Array, axis: int, num_beams: int) -> Array:
    """`num_beams` copies on a new axis."""
    return jnp.broadcast_to(jnp.expand_dims(leaf, axis), (*leaf.shape[:axis], num_beams, *leaf.shape[axis:]))
