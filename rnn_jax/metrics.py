"""Metrics as pairs that can be summed: a total and the count it is to be divided by.

A mean cannot be averaged over batches of different size, a pair `(total, count)` can: add the
totals, add the counts, divide once at the end. Everything here is pure and works under `jit`,
`vmap` and `grad`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = ["Mean", "edit_distance", "masked_mean", "mean_value", "merge", "tally"]


class Mean(NamedTuple):
    """A mean that is not yet divided: `total / count`.

    Args:
      total: sum of (weighted) values; any shape, usually a scalar.
      count: what to divide by (number of values, or sum of weights); shape of `total`.

    Example:
      >>> Mean(total=6.0, count=4.0)
      Mean(total=6.0, count=4.0)
    """

    total: ArrayLike
    count: ArrayLike


def merge(a: Mean, b: Mean) -> Mean:
    """Joins two pairs into the pair of all their values.

    `merge(a, b) = (a.total + b.total, a.count + b.count)`; associative and commutative up to
    rounding, with `Mean(0.0, 0.0)` as its neutral element.

    Args:
      a: a pair.
      b: a pair of the same shapes and dtypes.

    Returns:
      the joined pair.

    Example:
      >>> merge(Mean(6.0, 4.0), Mean(2.0, 1.0))
      Mean(total=8.0, count=5.0)
    """
    return Mean(total=a.total + b.total, count=a.count + b.count)


def mean_value(mean: Mean) -> jnp.ndarray:
    """Divides a pair: `total / count`, and 0 where the count is 0.

    Nothing counted gives the value 0 and the gradient 0, never NaN: an all-padding batch must not
    poison a training run. Look at the count where "nothing" and "zero" have to be told apart.

    Args:
      mean: pair of arrays of one shape; integers are allowed.

    Returns:
      the mean; the dtype of `total` if that is float32 or wider, else float32; shape of `total`.

    Example:
      >>> print(mean_value(Mean(6.0, 4)), mean_value(Mean(0.0, 0)))
      1.5 0.0
    """
    total = _as_float(jnp.asarray(mean.total))
    count = jnp.asarray(mean.count).astype(total.dtype)
    empty = count == 0
    return jnp.where(empty, 0, total / jnp.where(empty, 1, count))


def tally(values: ArrayLike, weights: ArrayLike) -> Mean:
    """Sums weighted values into a pair: `(sum(values * weights), sum(weights))`.

    Values of weight 0 are left out by selection, not by multiplication, so NaN or infinity in
    padding harms neither the pair nor its gradient.

    Args:
      values: float or integer array of any shape, for example losses [T, B].
      weights: weights of the same shape; a boolean mask counts its `True` entries.

    Returns:
      a pair of scalars.

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> import numpy as np
      >>> pair = tally(np.array([1.0, 2.0, np.nan]), np.array([True, True, False]))
      >>> print(pair.total, pair.count)
      3.0 2.0
    """
    values, weights = jnp.asarray(values), jnp.asarray(weights)
    if values.shape != weights.shape:
        raise ValueError(f"`weights` must have the shape of `values`, {values.shape}, got {weights.shape}")
    values = _as_float(values)
    weights = weights.astype(values.dtype)
    return Mean(total=jnp.sum(jnp.where(weights != 0, values, 0) * weights), count=jnp.sum(weights))


def masked_mean(values: ArrayLike, weights: ArrayLike) -> jnp.ndarray:
    """The weighted mean `sum(values * weights) / sum(weights)`, and 0 where all weights are 0.

    It divides by the weights, not by the size of the array, so padding does not dilute a loss.

    Args:
      values: float or integer array of any shape, for example losses [T, B].
      weights: weights of the same shape; `True` = real.

    Returns:
      a scalar.

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> import numpy as np
      >>> print(masked_mean(np.array([1.0, 2.0, 9.0]), np.array([1.0, 3.0, 0.0])))
      1.75
    """
    return mean_value(tally(values, weights))


def edit_distance(
    tokens: ArrayLike, lengths: ArrayLike, references: ArrayLike, reference_lengths: ArrayLike
) -> jnp.ndarray:
    """The fewest insertions, deletions and replacements that make one sequence the other (Levenshtein).

    An error rate is `Mean(distances.sum(), reference_lengths.sum())`: of all edits by all reference tokens.

    Args:
      tokens: integers [N, *batch].
      lengths: integers [*batch], how many of them count.
      references: integers [M, *batch].
      reference_lengths: integers [*batch], how many of them count.

    Returns:
      int32 [*batch].

    Raises:
      ValueError: the batch axes differ.

    Example:
      >>> said, meant = jnp.array([3, 1, 4, 4]), jnp.array([3, 1, 5])
      >>> print(edit_distance(said, 4, meant, 3), edit_distance(said, 0, meant, 2))
      2 2
    """
    tokens, references = jnp.asarray(tokens), jnp.asarray(references)
    lengths, reference_lengths = jnp.asarray(lengths), jnp.asarray(reference_lengths)
    batch = tokens.shape[1:]
    for name, shape in (
        ("references", references.shape[1:]),
        ("lengths", lengths.shape),
        ("reference_lengths", reference_lengths.shape),
    ):
        if shape != batch:
            raise ValueError(f"`{name}` must have the batch axes of `tokens`, {batch}, got {shape}")
    num_references = references.shape[0]
    places = jnp.arange(num_references + 1, dtype=jnp.int32).reshape(-1, *[1] * len(batch))

    def step(row: jnp.ndarray, inputs: tuple[jnp.ndarray, jnp.ndarray]) -> tuple[jnp.ndarray, None]:
        token, number = inputs
        replaced = row[:-1] + (references != token[None]).astype(jnp.int32)
        without_inserting = jnp.concatenate([row[:1] + 1, jnp.minimum(row[1:] + 1, replaced)])
        new = jax.lax.cummin(without_inserting - places) + places
        return jnp.where((number < lengths)[None], new, row), None

    first = jnp.broadcast_to(places, (num_references + 1, *batch))
    row, _ = jax.lax.scan(step, first, (tokens, jnp.arange(tokens.shape[0], dtype=lengths.dtype)))
    return jnp.take_along_axis(row, reference_lengths[None].astype(jnp.int32), axis=0)[0]


def _as_float(array: jnp.ndarray) -> jnp.ndarray:
    """At least float32: sums in half precision or integers would lose digits."""
    wide = jnp.issubdtype(array.dtype, jnp.inexact) and array.dtype.itemsize >= 4
    return array if wide else array.astype(jnp.float32)
