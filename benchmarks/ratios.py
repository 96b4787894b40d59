"""The arithmetic of ratios: whose turn it is, medians over rounds, geometric means, whether results are equal.

A ratio is always our time over theirs: below 1, rnn_jax is faster.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

TOLERANCE = 1e-4
"""Equal means: no entry of an array is off by more than this share of the array's largest."""


def blocks(ours: Sequence[str], others: Sequence[str], round_number: int) -> list[list[str]]:
    """The turns of one round, in blocks: one peer, ours, the next peer, so that each stands beside ours.

    Args:
        ours: our entries, which run in every block.
        others: the peers.
        round_number: rounds start with different peers, so that none always comes first.

    Returns:
        lists of entries in the order in which they run.

    Example:
        >>> blocks(["ours"], ["a", "b", "c"], 0)
        [['a', 'ours', 'b'], ['c', 'ours']]
        >>> blocks(["ours"], ["a", "b", "c"], 1)
        [['b', 'ours', 'c'], ['a', 'ours']]
    """
    if not others:
        return [list(ours)]
    turn = round_number % len(others)
    order = [*others[turn:], *others[:turn]]
    return [[*order[k : k + 1], *ours, *order[k + 1 : k + 2]] for k in range(0, len(order), 2)]


def block_ratios(times: Mapping[str, float], ours: Sequence[str]) -> dict[str, dict[str, float]]:
    """The ratios of one block.

    Args:
        times: seconds of each entry of the block.
        ours: our entries.

    Returns:
        `{peer: {our entry: our time / its time}}`.

    Example:
        >>> block_ratios({"a": 2.0, "ours": 1.0}, ["ours"])
        {'a': {'ours': 0.5}}
    """
    mine = {name: times[name] for name in ours if name in times}
    return {
        peer: {name: value / seconds for name, value in mine.items()}
        for peer, seconds in times.items()
        if peer not in ours
    }


def middle(values: Iterable[float]) -> float | None:
    """The median, or None of nothing."""
    found = list(values)
    return float(np.median(found)) if found else None


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """The geometric mean of what is there, or None of nothing.

    Example:
        >>> geometric_mean([0.5, 2.0, None])
        1.0
    """
    found = [value for value in values if value is not None]
    return float(np.exp(np.mean(np.log(found)))) if found else None


def difference(reference: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """The largest difference between results and their reference.

    Args:
        reference: arrays by name.
        found: the same names; a name that is missing, or another shape, is infinitely different.

    Returns:
        `(difference, name)`: of each array the largest absolute difference over the largest absolute value of the
        reference (NaN counts as infinite); the largest of these, and whose it is.

    Example:
        >>> difference({"a": np.array([1.0, 2.0])}, {"a": np.array([1.0, 1.5])})
        (0.25, 'a')
    """
    worst = (0.0, "")
    for name, expected in reference.items():
        value = found.get(name)
        if value is None or value.shape != expected.shape:
            return float("inf"), name
        scale = float(np.abs(expected).max(initial=0.0)) or 1.0
        error = float(np.abs(value.astype(np.float64) - expected).max(initial=0.0)) / scale
        worst = max(worst, (error if np.isfinite(error) else float("inf"), name))
    return worst
