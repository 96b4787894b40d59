"""German-English sentence pairs, and batches of pairs for encoder-decoder models."""

import gzip
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np
from numpy.typing import ArrayLike

from rnn_jax.data.batching import batches, pad
from rnn_jax.data.fetch import fetch
from rnn_jax.data.pipeline import stream
from rnn_jax.data.splits import Splits

__all__ = [
    "PaddingReport",
    "PairBatch",
    "SentencePair",
    "load_ding",
    "load_multi30k",
    "pair_batches",
    "pair_stream",
    "report_padding",
]

SentencePair = tuple[str, str]
"""A German sentence and its English translation."""

_SENTENCE = re.compile(r"[^\W\d_a-zäöüß][^\[\](){}/;|]*[.!?]")


def load_multi30k() -> Splits[SentencePair]:
    """Multi30k, task 1: descriptions of photographs, in the official split.

    The text is as published, neither tokenised nor lower-cased, but without white space at its ends. The
    files come through `fetch`, which says what to do where one is missing or damaged.

    Returns:
        `Splits(train, valid, test)` of 29,000, 1,014 and 1,000 `(german, english)`; test is the
        test set of 2016 on Flickr images.

    Raises:
        FileNotFoundError: if a file is nowhere to be found.
        DamagedFileError: if one was found but is not the published one.

    References:
        Elliott, Frank, Sima'an and Specia, "Multi30K: Multilingual English-German Image Descriptions", 2016.
    """

    def lines(name: str) -> list[str]:
        text = gzip.decompress(fetch(f"multi30k_{name}").read_bytes()).decode("utf-8")
        return [line.strip() for line in text.removesuffix("\n").split("\n")]

    return Splits(
        *(
            tuple(zip(lines(f"{name}.de"), lines(f"{name}.en"), strict=True))
            for name in ("train", "val", "test_2016_flickr")
        )
    )


def load_ding(path: str | os.PathLike[str] = "/usr/share/trans/de-en") -> Splits[SentencePair]:
    """The example sentences of the German-English dictionary Ding, for where Multi30k cannot be had.

    An entry is `german | german | ... :: english | english | ...`; a part of it is an example if on both
    sides it starts with a capital letter, has three words or more, ends with one of . ! ? and has none of
    the dictionary's marks, which are brackets, slashes and semicolons. Validation and test get some 5 % each by a
    hash of the German sentence: it stays the same in other editions, and no sentence is in two parts.

    Args:
        path: of the dictionary, where the Debian package `trans-de-en` puts it.

    Returns:
        `Splits(train, valid, test)` of distinct `(german, english)`, some 14,500 in all, with straight
        apostrophes.

    Raises:
        FileNotFoundError: if the file is not there.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"`path`: no file {path}; run `apt install trans-de-en`, or give its path")
    parts: tuple[list[SentencePair], ...] = ([], [], [])
    for german, english in dict.fromkeys(_examples(path.read_text(encoding="utf-8"))):
        twentieth = hashlib.sha256(german.encode()).digest()[0] * 20 // 256
        parts[max(0, twentieth - 17)].append((german, english))
    return Splits(*map(tuple, parts))


def _examples(dictionary: str) -> Iterator[SentencePair]:
    for entry in dictionary.replace("’", "'").splitlines():
        german, english = (side.split(" | ") for side in entry.partition(" :: ")[::2])
        if len(german) == len(english):
            for pair in zip(german, english, strict=True):
                if all(_SENTENCE.fullmatch(side) and side.count(" ") >= 2 for side in pair):
                    yield pair


class PairBatch(NamedTuple):
    """Padded pairs: S source steps, T target steps, B pairs; ids are 0 after the end of each sequence."""

    source: np.ndarray  # [S, B] int32
    source_lengths: np.ndarray  # [B] int32
    target: np.ndarray  # [T, B] int32
    target_lengths: np.ndarray  # [B] int32, 0 where a row only fills up the batch


def pair_batches(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    bucket: int = 50,
    multiple: int = 8,
) -> Iterator[PairBatch]:
    """Batches of pairs of nearly equal lengths in random order, in few shapes.

    Pairs are grouped by `batches`, by the longer of their two lengths. S and T are rounded up to a
    multiple, so that a compiled step is used again: a larger multiple gives fewer shapes and more padding.
    A batch that is not full is filled up with pairs of length 0, so B is always `batch_size`.

    Args:
        sources: N integer sequences.
        targets: N integer sequences, with `END` if the model must learn to stop.
        batch_size: B.
        seed: of the run, >= 0.
        epoch: 0, 1, 2, ...
        bucket: batches per pool, as in `batches`.
        multiple: S and T are multiples of it.

    Returns:
        An iterator of ceil(N / B) batches, a pure function of its arguments.

    Raises:
        ValueError: if there are not as many sources as targets, a sequence is not one of integers, or a
            number is out of range.

    Example:
        >>> (batch,) = pair_batches([[3], [4, 5]], [[6, 7], [8]], batch_size=3, seed=0, epoch=0, multiple=4)
        >>> batch.source.shape, batch.target.shape, sorted(batch.source_lengths.tolist())
        ((4, 3), (4, 3), [0, 1, 2])
    """
    plan, build = _pairs(sources, targets, batch_size, seed, bucket, multiple)
    return (build(group) for group in plan(epoch))


def pair_stream(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    batch_size: int,
    seed: int,
    *,
    bucket: int = 50,
    multiple: int = 8,
    rows: Callable[[int], slice] | None = None,
) -> grain.DatasetIterator:
    """The batches of `pair_batches`, one epoch after another without end.

    Args:
        sources, targets, batch_size, seed, bucket, multiple: as in `pair_batches`.
        rows: which rows of a batch this process builds, as in `stream`; all if None.

    Returns:
        An iterator as `stream` makes it: built in the background, and it can be put back to any place. Its ids are
        [B, 3]: the pair (-1 where a row only fills up the batch), S and T.

    Raises:
        ValueError: as `pair_batches`, or if there is no pair.
    """
    return stream(*_pairs(sources, targets, batch_size, seed, bucket, multiple), rows=rows)


def _pairs(
    sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], batch_size: int, seed: int, bucket: int, multiple: int
) -> tuple[Callable[[int], list[np.ndarray]], Callable[[np.ndarray], PairBatch]]:
    """Which pairs are in the batches of an epoch, and what makes a batch of them."""
    if len(sources) != len(targets):
        raise ValueError(f"`targets` must be as many as `sources`, {len(sources)}, got {len(targets)}")
    if multiple < 1:
        raise ValueError(f"`multiple` must be >= 1, got {multiple}")
    sides = _ids("sources", sources), _ids("targets", targets)
    lengths = [np.array([len(sequence) for sequence in side], np.int64) for side in sides]
    filler = np.zeros(0, np.int32)

    def plan(epoch: int) -> list[np.ndarray]:
        groups = batches(np.maximum(*lengths), batch_size, seed, epoch, bucket=bucket)
        entries = [np.full((batch_size, 3), -1) for _ in groups]
        for entry, group in zip(entries, groups, strict=True):
            entry[: len(group), 0] = group
            for side in (0, 1):
                entry[:, 1 + side] = -(-lengths[side][group].max() // multiple) * multiple
        return entries

    def build(entry: np.ndarray) -> PairBatch:
        indices, (source_steps, target_steps) = entry[:, 0], entry[0, 1:]
        rows = [[filler if i < 0 else side[i] for i in indices] for side in sides]
        return PairBatch(*pad(rows[0], source_steps), *pad(rows[1], target_steps))

    return plan, build


def _ids(name: str, sequences: Sequence[ArrayLike]) -> list[np.ndarray]:
    arrays = [np.asarray(sequence) for sequence in sequences]
    for index, array in enumerate(arrays):
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(f"`{name}[{index}]` must be [T] integers, got {array.dtype} of shape {list(array.shape)}")
    return [array.astype(np.int32) for array in arrays]


class PaddingReport(NamedTuple):
    """What the shapes of an epoch cost."""

    num_batches: int
    num_shapes: int  # different (S, T): how often a step is compiled
    padded_fraction: float  # of all steps held, of source and target together


def report_padding(pairs: Iterable[PairBatch]) -> PaddingReport:
    """Count batches, shapes and padding.

    Args:
        pairs: batches, such as those of an epoch.

    Returns:
        The counts; rows that only fill up a batch count as padding.

    Example:
        >>> report_padding(pair_batches([[3], [4, 5]], [[6], [7, 8]], batch_size=2, seed=0, epoch=0, multiple=3))
        PaddingReport(num_batches=1, num_shapes=1, padded_fraction=0.5)
    """
    shapes, real, held = [], 0, 0
    for batch in pairs:
        shapes.append((batch.source.shape, batch.target.shape))
        real += int(batch.source_lengths.sum()) + int(batch.target_lengths.sum())
        held += batch.source.size + batch.target.size
    return PaddingReport(len(shapes), len(set(shapes)), (held - real) / held if held else 0.0)
