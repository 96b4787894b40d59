"""`Recursive(budget)`: chunks of chunks, as many levels as it takes to stay within a budget of memory."""

import functools
import math

from rnn_jax.types import Cell, Params
from rnn_jax.unroll.run import Run, Sequence, Start, run_chunked, run_scan

CARRIES = 8
"""How many carries the activations of one step are taken to be. By `memory_analysis()` a gradient by `Scan()` keeps
3.5 to 16 a step (elman 6, lstm 9.5, gru 16), and 1.3 for `m_lstm`, whose carry is a matrix. With two levels, the sizes
that are best for 8 keep at most 9 % more than the best ones from 3.5 to 16."""


def run_recursive(
    cell: Cell,
    params: Params,
    sequence: Sequence,
    start: Start,
    reverse: bool,
    keep: bool,
    budget: int,
) -> Run:
    """Runs one cell in the chunks of `chunk_sizes`.

    Raises:
        ValueError: if the budget is too small for so many steps.
    """
    sizes = chunk_sizes(sequence.xs.shape[0], budget)
    if not sizes:
        return run_scan(cell, params, sequence, start, reverse, keep)
    return run_chunked(cell, params, sequence, start, reverse, keep, size=sizes[0], remat=True, inner=sizes[1:])


@functools.cache
def chunk_sizes(num_steps: int, budget: int) -> tuple[int, ...]:
    """The sizes of chunks, of chunks inside of them, and so on: as few levels as fit into the budget.

    Args:
        num_steps: T.
        budget: what `kept` may be at most.

    Returns:
        Sizes, each a multiple of the next; none where all steps may be kept.

    Raises:
        ValueError: if no number of levels fits.

    Example:
        >>> chunk_sizes(100_000, 1000), chunk_sizes(100_000, 100), chunk_sizes(100_000, 100_000)
        ((100,), (1000, 10), ())
    """
    if num_steps <= budget:
        return ()
    least = math.inf
    for levels in range(2, num_steps.bit_length() + 1):
        choices = _near_best(num_steps, levels)
        fitting = [sizes for sizes in choices if kept(num_steps, sizes) <= budget]
        if fitting:
            return min(fitting, key=lambda sizes: (num_loops(num_steps, sizes), kept(num_steps, sizes)))
        least = min(least, *(kept(num_steps, sizes) for sizes in choices))
    raise ValueError(f"`budget` must be at least {math.ceil(least)} for T={num_steps}, got {budget}")


def kept(num_steps: int, sizes: tuple[int, ...]) -> float:
    """How many steps of `Scan()` take as much memory: the last chunk, and a carry for every chunk of each level."""
    counts = (math.ceil(size / inner) for size, inner in zip((num_steps, *sizes), sizes, strict=False))
    return sizes[-1] + sum(counts) / CARRIES


def num_loops(num_steps: int, sizes: tuple[int, ...]) -> int:
    """How many loops over steps are compiled: what a level leaves over falls into parts of its own."""
    loops = 0
    for size in (*sizes, 1):
        loops += num_steps >= size
        num_steps %= size
    return loops


def _near_best(num_steps: int, levels: int) -> list[tuple[int, ...]]:
    """Sizes that keep nearly the least with so many levels; some of them leave fewer steps over than others.

    With n chunks in each chunk and m steps in the last, n^(levels - 1) m = T. What is kept,
    (levels - 1) n / CARRIES + m, is least at m = n / CARRIES and hardly differs nearby.
    """
    n = (CARRIES * num_steps) ** (1 / levels)
    if n < 2 * CARRIES:  # the last chunk has two steps at least
        n = (num_steps / 2) ** (1 / (levels - 1))
    counts = _near(n) if levels > 2 else (1,)
    powers = range(levels - 2, -1, -1)
    return [tuple(last * count**power for power in powers) for last in _near(n / CARRIES) for count in counts]


def _near(size: float) -> range:
    """Integers of at least 2 within about a fifth."""
    return range(max(2, math.floor(size / 1.2)), max(2, math.ceil(1.2 * size)) + 1)
