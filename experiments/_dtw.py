"""Dynamic time warping, and the nearest neighbour under it: what classifiers of time series are measured against."""

from collections.abc import Sequence

import numpy as np

from rnn_jax.data.batching import pad
from rnn_jax.data.ts_files import LabelledSeries


def dtw_distances(queries: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> np.ndarray:
    """The cheapest alignment of each query with each reference.

        d(i, j) = |q_i - r_j|^2 + min(d(i - 1, j), d(i, j - 1), d(i - 1, j - 1))

    with d(0, 0) = |q_0 - r_0|^2 in the first corner; the distance is that of the last one. No window; all dimensions
    are warped alike (DTW_D). All pairs are worked on at once, cell by cell.

    Args:
        queries: Q arrays [T, D].
        references: R arrays [S, D].

    Returns:
        [Q, R] float64, squared distances.

    Raises:
        ValueError: if the numbers of dimensions differ.

    References:
        Sakoe and Chiba, Dynamic programming algorithm optimization for spoken word recognition, 1978.
    """
    rows, num_rows = pad([np.asarray(one, np.float64) for one in queries])  # [T, Q, D]
    columns, num_columns = pad([np.asarray(one, np.float64) for one in references])  # [S, R, D]
    if rows.shape[-1] != columns.shape[-1]:
        raise ValueError(f"`references` must have {rows.shape[-1]} dimensions as `queries`, got {columns.shape[-1]}")
    distances = np.empty((len(num_rows), len(num_columns)))
    squares = np.square(columns).sum(-1)
    everyone = np.arange(len(num_columns))
    above = np.full((len(columns), *distances.shape), np.inf)
    for i, row in enumerate(rows):
        cost = np.square(row).sum(-1)[:, None] - 2 * np.einsum("qd,srd->sqr", row, columns) + squares[:, None]
        here = np.empty_like(above)
        for j in range(len(columns)):
            best = above[j]
            if j:
                best = np.minimum(np.minimum(best, above[j - 1]), here[j - 1])
            here[j] = np.maximum(cost[j], 0) + (best if i or j else 0)
        ends = num_rows == i + 1
        distances[ends] = here[num_columns - 1, :, everyone].T[ends]
        above = here
    return distances


def nearest_accuracy(train: LabelledSeries, test: LabelledSeries) -> float:
    """The share of test series whose nearest training series under time warping has their label."""
    nearest = dtw_distances(test.series, train.series).argmin(1)
    return float((train.labels[nearest] == test.labels).mean())
