"""Endless batches that can be put back to any place: what training reads.

grain does the work: it builds batches ahead of time in threads, in a fixed order, and says and takes its position.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import grain
import numpy as np
from numpy.typing import ArrayLike

from rnn_jax.data.batching import Numbered, tree_leaves, tree_rebuild

__all__ = ["side_by_side", "stream", "with_steps"]

_EPOCHS = 1 << 40


class _Epochs:
    """A source of batches by their number, one epoch after another."""

    def __init__(
        self, plan: Callable[[int], Sequence[Any]], build: Callable[[Any], Any], rows: Callable[[int], slice] | None
    ) -> None:
        self.plan, self.build, self.rows = lru_cache(maxsize=3)(plan), build, rows
        self.per_epoch = len(self.plan(0))

    def __len__(self) -> int:
        return self.per_epoch * _EPOCHS

    def __getitem__(self, number: int) -> Any:
        epoch, place = divmod(int(number), self.per_epoch)
        plan = self.plan(epoch)
        if len(plan) != self.per_epoch:
            raise ValueError(f"`plan` must give every epoch {self.per_epoch} batches, got {len(plan)} in epoch {epoch}")
        ids = plan[place] if self.rows is None else plan[place][self.rows(len(plan[place]))]
        return Numbered(ids=ids, batch=self.build(ids))


def stream(
    plan: Callable[[int], Sequence[Any]],
    build: Callable[[Any], Any],
    *,
    rows: Callable[[int], slice] | None = None,
    num_threads: int = 1,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """Batches without end, a pure function of their number, built in the background.

    Args:
        plan: `plan(epoch)`: what is in each batch of an epoch, such as the index arrays that `batches` gives; the same
            number of batches in every epoch. Draw crops and transpositions here, and put them in.
        build: makes the batch of one entry of a plan. It runs in other threads.
        rows: `rows(B)`: which rows of a batch of B this process builds, as `partial(local_rows, mesh)` says where
            several processes train one model; all if None. The entries of the plan are then arrays [B, ...], `build`
            gets those rows of them, and must pad them to a number of steps that is the same in every process: a fixed
            one, or one that the plan puts into the entries (`with_steps`). The plan, and so the place in the data, is
            that of whole batches, whatever the number of processes.
        num_threads: that build batches; the order is the same for any number.
        prefetch: how many batches wait ready.

    Returns:
        An iterator over `Numbered(ids, batch)`, `ids` being the entry of the plan. `get_state()` says where it is, as
        plain data, and `set_state(state)` puts a fresh one there, at once.

    Raises:
        ValueError: if epoch 0 has no batch.

    Example:
        >>> from rnn_jax.data.batching import batches
        >>> data = np.arange(10)
        >>> numbers = stream(lambda epoch: batches(np.ones(10), 4, 0, epoch), lambda ids: data[ids] ** 2)
        >>> first = [next(numbers).batch.tolist() for _ in range(5)]
        >>> again = stream(lambda epoch: batches(np.ones(10), 4, 0, epoch), lambda ids: data[ids] ** 2)
        >>> state = numbers.get_state()
        >>> again.set_state(state)
        >>> bool((next(again).batch == next(numbers).batch).all()), sum(map(sum, first[:3]))
        (True, 285)
    """
    source: Any = _Epochs(plan, build, rows)
    if not source.per_epoch:
        raise ValueError("`plan` must give at least one batch, got none in epoch 0")
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


def side_by_side(streams: Sequence[Any]) -> Any:
    """Streams of N runs as one: each batch holds theirs, stacked along a new first axis.

    Args:
        streams: N iterators as `stream` makes them, whose batches have equal shapes.

    Returns:
        An iterator over `Numbered(ids, batch)` with leading axes N; `get_state` and `set_state` as of a stream.

    Raises:
        ValueError: if there is no stream.

    Example:
        >>> counts = [stream(lambda epoch: [0, 1, 2], lambda i, n=n: np.array([n, i])) for n in (7, 8)]
        >>> next(side_by_side(counts)).batch.tolist()
        [[7, 0], [8, 0]]
    """
    if not streams:
        raise ValueError("`streams` must hold at least one stream, got none")
    return _SideBySide(list(streams))


class _SideBySide:
    def __init__(self, streams: list[Any]) -> None:
        self.streams = streams

    def __iter__(self) -> "_SideBySide":
        return self

    def __next__(self) -> Numbered:
        items = [next(one) for one in self.streams]
        columns = zip(*(tree_leaves(item.batch) for item in items), strict=True)
        batch = tree_rebuild(items[0].batch, iter([np.stack(column) for column in columns]))
        return Numbered(ids=np.stack([item.ids for item in items]), batch=batch)

    def get_state(self) -> list[Any]:
        """Where each stream is."""
        return [one.get_state() for one in self.streams]

    def set_state(self, states: list[Any]) -> None:
        """Puts each stream to its place."""
        for one, state in zip(self.streams, states, strict=True):
            one.set_state(state)


def with_steps(groups: Sequence[np.ndarray], lengths: ArrayLike, multiple: int = 1) -> list[np.ndarray]:
    """Puts the steps that each batch is padded to beside its examples, so that every process pads its rows alike.

    Args:
        groups: index arrays [B], as `batches` gives them.
        lengths: [N] integers, of all examples.
        multiple: the longest length of a batch is rounded up to a multiple of it, so that fewer shapes are compiled.

    Returns:
        Entries of a plan, [B, 2]: the example, and the number of steps, which is the same in all rows.

    Raises:
        ValueError: if multiple is not positive.

    Example:
        >>> with_steps([np.array([2, 0])], lengths=[3, 9, 5], multiple=4)[0].tolist()
        [[2, 8], [0, 8]]
    """
    if multiple < 1:
        raise ValueError(f"`multiple` must be >= 1, got {multiple}")
    lengths = np.asarray(lengths)
    steps = [-(-int(lengths[group].max(initial=0)) // multiple) * multiple for group in groups]
    return [
        np.stack([group, np.full_like(group, longest)], axis=1) for group, longest in zip(groups, steps, strict=True)
    ]
