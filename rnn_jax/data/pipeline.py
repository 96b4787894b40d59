"""Endless batches that can be put back to any place: what training reads.

grain does the work: it builds batches ahead of time in threads, in a fixed order, and says and takes its position.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import grain

from rnn_jax.data.batching import Numbered

__all__ = ["stream"]

_EPOCHS = 1 << 40


class _Epochs:
    """A source of batches by their number, one epoch after another."""

    def __init__(self, plan: Callable[[int], Sequence[Any]], build: Callable[[Any], Any]) -> None:
        self.plan, self.build = lru_cache(maxsize=3)(plan), build
        self.per_epoch = len(self.plan(0))

    def __len__(self) -> int:
        return self.per_epoch * _EPOCHS

    def __getitem__(self, number: int) -> Any:
        epoch, place = divmod(int(number), self.per_epoch)
        plan = self.plan(epoch)
        if len(plan) != self.per_epoch:
            raise ValueError(f"`plan` must give every epoch {self.per_epoch} batches, got {len(plan)} in epoch {epoch}")
        ids = plan[place]
        return Numbered(ids=ids, batch=self.build(ids))


def stream(
    plan: Callable[[int], Sequence[Any]], build: Callable[[Any], Any], *, num_threads: int = 1, prefetch: int = 4
) -> grain.DatasetIterator:
    """Batches without end, a pure function of their number, built in the background.

    Args:
        plan: `plan(epoch)`: what is in each batch of an epoch, such as the index arrays that `batches` gives; the same
            number of batches in every epoch. Draw crops and transpositions here, and put them in.
        build: makes the batch of one entry of a plan. It runs in other threads.
        num_threads: that build batches; the order is the same for any number.
        prefetch: how many batches wait ready.

    Returns:
        An iterator over `Numbered(ids, batch)`, `ids` being the entry of the plan. `get_state()` says where it is, as
        plain data, and `set_state(state)` puts a fresh one there, at once.

    Raises:
        ValueError: if epoch 0 has no batch.

    Example:
        >>> import numpy as np
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
    source: Any = _Epochs(plan, build)
    if not source.per_epoch:
        raise ValueError("`plan` must give at least one batch, got none in epoch 0")
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))
