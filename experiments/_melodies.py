"""Harmonising melodies of Bach's chorales: the soprano is given, the bass is to be found."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rnn_jax.data.batching import batches, pad
from rnn_jax.data.pieces import chorale_pieces


class Task(NamedTuple):
    """A piece, or a batch of them: what is to be predicted, how much of it is real, and what is given."""

    targets: Any  # [T, B], the pitch of the bass (0 is a rest)
    lengths: Any  # [B]
    inputs: Any  # [T, B, K], the soprano (pitch, onset) and the clock; None where nothing is given


class Melodies(NamedTuple):
    """Pieces by split."""

    train: list[Task]
    valid: list[Task]
    test: list[Task]
    num_classes: int


def load_melodies() -> Melodies:
    """The embedded chorales as tasks, one frame an eighth note."""
    pieces = chorale_pieces()
    classes = pieces.num_pitches + 1
    one_hot = np.eye(classes, dtype=np.float32)

    def one(piece: Any) -> Task:
        soprano = np.concatenate([one_hot[piece.frames[:, 0]], piece.frames[:, 4:5], piece.clock], axis=1)
        return Task(targets=piece.frames[:, 3], lengths=len(piece.frames), inputs=soprano.astype(np.float32))

    return Melodies(*([one(piece) for piece in split] for split in pieces.splits), num_classes=classes)


def collate(tasks: list[Task], num_steps: int | None = None) -> Task:
    """Tasks side by side."""
    (targets, inputs), lengths = pad([(task.targets, task.inputs) for task in tasks], num_steps)
    return Task(targets=targets, lengths=lengths, inputs=inputs)


def windows(tasks: list[Task], batch_size: int, window: int, seed: int) -> Iterator[Task]:
    """Endless batches of pieces, longer ones cut at a random place."""
    rng, epoch = np.random.default_rng(seed), 0
    while True:
        for group in batches([task.lengths for task in tasks], batch_size, seed, epoch):
            cut = []
            for index in np.resize(group, batch_size):
                first = rng.integers(0, max(1, tasks[index].lengths - window + 1))
                part = slice(first, first + window)
                cut.append(Task(tasks[index].targets[part], 0, tasks[index].inputs[part]))
            yield collate(cut, window)
        epoch += 1
