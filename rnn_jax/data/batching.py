"""Sequences of different lengths into padded, time-major batches. NumPy only.

Order and grouping are pure functions of `(seed, epoch)`: a run that is cut off continues with the
same batches without any iterator state but two numbers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Batch", "Numbered", "batches", "epoch_order", "pad", "padded_fraction"]


class Batch(NamedTuple):
    """Padded sequences: T steps, B sequences."""

    data: Any  # pytree of arrays [T, B, ...], zero after the end of each sequence
    lengths: np.ndarray  # [B] int32


class Numbered(NamedTuple):
    """A batch, and which examples are in it: training uses `batch`, and names `ids` where something goes wrong."""

    ids: np.ndarray  # [B] integers
    batch: Any


def pad(sequences: Sequence[Any], num_steps: int | None = None) -> Batch:
    """Put sequences side by side, time first, with zeros (False) after their ends.

    Args:
        sequences: B arrays [T_b, ...] that agree in dtype and in all axes but the first, or B
            equally structured tuples, NamedTuples, lists or dicts of such arrays, where all arrays of
            one sequence have the same length.
        num_steps: T; the longest sequence if not given.

    Returns:
        `Batch(data, lengths)`: arrays [T, B, ...] of the sequences' dtype, in their structure, and
        the lengths [B] int32.

    Raises:
        ValueError: if there is no sequence, one is longer than `num_steps`, or they do not agree.

    Example:
        >>> data, lengths = pad([np.array([1, 2, 3]), np.array([4])])
        >>> data.tolist(), lengths.tolist()
        ([[1, 4], [2, 0], [3, 0]], [3, 1])
    """
    if not sequences:
        raise ValueError("`sequences` must hold at least one sequence, got none")
    flat = [tree_leaves(sequence) for sequence in sequences]
    shapes = [[leaf.shape for leaf in leaves] for leaves in flat]
    for index, leaf_shapes in enumerate(shapes):
        if not leaf_shapes or () in leaf_shapes or len({shape[0] for shape in leaf_shapes}) != 1:
            raise ValueError(f"`sequences[{index}]` must be arrays of one length, got shapes {leaf_shapes}")
    lengths = np.array([leaf_shapes[0][0] for leaf_shapes in shapes], np.int32)
    longest = int(lengths.max())
    if num_steps is None:
        num_steps = longest
    if num_steps < longest:
        raise ValueError(f"`num_steps` must be at least the longest length {longest}, got {num_steps}")

    def kind(sequence: Any, leaves: list[np.ndarray]) -> tuple[Any, ...]:
        return (_structure(sequence), *((leaf.dtype.name, leaf.shape[1:]) for leaf in leaves))

    first = kind(sequences[0], flat[0])
    for index, (sequence, leaves) in enumerate(zip(sequences, flat, strict=True)):
        if (found := kind(sequence, leaves)) != first:
            raise ValueError(
                f"`sequences[{index}]` must have the structure, dtypes and shapes of sequences[0], {first}, got {found}"
            )

    padded = []
    for column in zip(*flat, strict=True):
        array = np.zeros((num_steps, len(sequences), *column[0].shape[1:]), column[0].dtype)
        for b, leaf in enumerate(column):
            array[: len(leaf), b] = leaf
        padded.append(array)
    return Batch(data=tree_rebuild(sequences[0], iter(padded)), lengths=lengths)


def _children(tree: Any) -> list[Any] | None:
    """The branches of a tuple, list or dict (by sorted key), None for a leaf."""
    if isinstance(tree, dict):
        return [tree[key] for key in sorted(tree)]
    return list(tree) if isinstance(tree, (tuple, list)) else None


def tree_leaves(tree: Any) -> list[np.ndarray]:
    children = _children(tree)
    if children is None:
        return [np.asarray(tree)]
    return [leaf for child in children for leaf in tree_leaves(child)]


def _structure(tree: Any) -> Any:
    children = _children(tree)
    if children is None:
        return "array"
    keys = sorted(tree) if isinstance(tree, dict) else None
    return (type(tree).__name__, keys, [_structure(child) for child in children])


def tree_rebuild(tree: Any, leaves: Any) -> Any:
    children = _children(tree)
    if children is None:
        return next(leaves)
    rebuilt = [tree_rebuild(child, leaves) for child in children]
    if isinstance(tree, dict):
        return dict(zip(sorted(tree), rebuilt, strict=True))
    return type(tree)(*rebuilt) if hasattr(tree, "_fields") else type(tree)(rebuilt)


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """An independent stream for each pair."""
    if seed < 0 or epoch < 0:
        raise ValueError(f"`seed` and `epoch` must be >= 0, got {seed}, {epoch}")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of `n` examples in one epoch, a pure function of its arguments.

    Args:
        seed: of the run, >= 0.
        epoch: 0, 1, 2, ...
        n: number of examples.

    Returns:
        [n] int64, a permutation of 0..n-1.

    Raises:
        ValueError: if an argument is negative.

    Example:
        >>> sorted(epoch_order(seed=0, epoch=3, n=4).tolist())
        [0, 1, 2, 3]
    """
    if n < 0:
        raise ValueError(f"`n` must be >= 0, got {n}")
    return epoch_generator(seed, epoch).permutation(n)


def batches(lengths: ArrayLike, batch_size: int, seed: int, epoch: int, *, bucket: int = 50) -> list[np.ndarray]:
    """Batches of nearly equal lengths in random order.

    The examples are shuffled and cut into pools of `bucket` batches; each pool is sorted by length
    and cut into batches; the batches are shuffled. A larger bucket pads less and mixes less:
    `bucket=1` is a plain shuffle.

    Args:
        lengths: [N] integers.
        batch_size: B.
        seed: of the run, >= 0.
        epoch: 0, 1, 2, ...
        bucket: batches per pool.

    Returns:
        Index arrays [B] int64 that together hold each of 0..N-1 once; one may be shorter.

    Raises:
        ValueError: if lengths is not one-dimensional, or batch_size or bucket is not positive.

    Example:
        >>> groups = batches([9, 2, 8, 3], batch_size=2, seed=0, epoch=0)
        >>> sorted(sorted(group.tolist()) for group in groups)
        [[0, 2], [1, 3]]
    """
    lengths = np.asarray(lengths)
    if lengths.ndim != 1:
        raise ValueError(f"`lengths` must have shape [N], got {list(lengths.shape)}")
    for argument, value in (("batch_size", batch_size), ("bucket", bucket)):
        if value < 1:
            raise ValueError(f"`{argument}` must be >= 1, got {value}")
    generator = epoch_generator(seed, epoch)
    order = generator.permutation(len(lengths))
    pool_size = batch_size * bucket
    groups = []
    for start in range(0, len(order), pool_size):
        pool = order[start : start + pool_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        groups += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [groups[i] for i in generator.permutation(len(groups))]


def padded_fraction(lengths: ArrayLike, groups: Sequence[np.ndarray]) -> float:
    """The part of all steps that is padding when each group is padded to its longest sequence.

    Args:
        lengths: [N] integers.
        groups: index arrays [B], as `batches` gives them.

    Returns:
        A number in [0, 1); 0 for no steps at all.

    Example:
        >>> padded_fraction([4, 2, 6], [np.array([0, 1]), np.array([2])])
        0.14285714285714285
    """
    lengths = np.asarray(lengths)
    real = sum(int(lengths[group].sum()) for group in groups)
    held = sum(int(lengths[group].max(initial=0)) * len(group) for group in groups)
    return (held - real) / held if held else 0.0
