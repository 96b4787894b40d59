"""Pieces of music as training examples: the frame before, the frame, and what is known of the step beforehand."""

from collections.abc import Callable
from typing import NamedTuple

import grain
import numpy as np

from rnn_jax.data.audio import Note, roll_notes, voice_notes
from rnn_jax.data.batching import Batch, batches, pad
from rnn_jax.data.chorales import VOICES, Chorale, load_chorales, voice_ranges
from rnn_jax.data.piano_rolls import LOWEST_KEY, RollName, load_piano_rolls
from rnn_jax.data.pipeline import stream
from rnn_jax.data.splits import Splits

__all__ = [
    "CLOCK_SIZE",
    "Piece",
    "PieceSet",
    "chorale_pieces",
    "heard",
    "make_clock",
    "roll_pieces",
    "training_batches",
]

_LONGEST_BAR = 12
_COUNTDOWN = 16
CLOCK_SIZE = _LONGEST_BAR + 3 + _COUNTDOWN + 1
"""K of the chorales' clock."""


class Piece(NamedTuple):
    """A piece of T steps."""

    before: np.ndarray  # [T, F] int32, the frame before each frame; zeros at the start
    frames: np.ndarray  # [T, F] int32
    clock: np.ndarray  # [T, K] float32, what is known about a step beforehand; K may be 0
    counted: np.ndarray  # [T] bool, False for the first frame, which no published number counts


class PieceSet(NamedTuple):
    """A data set of pieces, and how to hear it."""

    splits: Splits[Piece]
    shifts: tuple[range, ...]  # of each training piece: semitones by which it may be transposed
    num_pitches: int  # pitches of a voice, or keys of the roll
    lowest: int  # the MIDI number, at concert pitch, of pitch 1 or of key 0
    steps_per_beat: int


def make_clock(position: np.ndarray, beats_per_bar: int) -> np.ndarray:
    """Where in the bar each step lies, how long bars are, and how many of the last 16 steps are left.

    Args:
        position: [T] integers in [0, 12), the step inside the bar.
        beats_per_bar: 2, 3, or 4 and more.

    Returns:
        [T, CLOCK_SIZE] float32: three one-hot codes.

    Example:
        >>> make_clock(np.array([0, 1, 0]), 3).sum(axis=1).tolist()
        [3.0, 3.0, 3.0]
    """
    position = np.asarray(position)
    if position.ndim != 1 or (position.size and (position.min() < 0 or position.max() >= _LONGEST_BAR)):
        raise ValueError(f"`position` must be [T] integers in [0, {_LONGEST_BAR}), got {position!r}")
    left = np.minimum(np.arange(len(position))[::-1], _COUNTDOWN)
    beats = np.full(len(position), min(max(beats_per_bar, 2), 4) - 2)
    codes = ((_LONGEST_BAR, position), (3, beats), (_COUNTDOWN + 1, left))
    return np.concatenate([np.eye(size, dtype=np.float32)[index] for size, index in codes], axis=1)


def chorale_pieces(steps_per_beat: int = 2) -> PieceSet:
    """Bach's chorales as frames of four pitches (0 = rest, 1 = the lowest note of all) and four onsets.

    Args:
        steps_per_beat: 1, 2 or 4.

    Returns:
        The pieces. Training pieces may be transposed by up to 6 semitones, as far as every voice stays within its
        range in the training set.
    """
    loaded = load_chorales(steps_per_beat)
    everything = voice_ranges([chorale for split in loaded for chorale in split])
    allowed = voice_ranges(loaded.train)
    lowest, highest = int(everything.min()), int(everything.max())

    def one(chorale: Chorale) -> Piece:
        pitches = np.where(chorale.pitches > 0, chorale.pitches - lowest + 1, 0)
        frames = np.concatenate([pitches, chorale.onsets], axis=1, dtype=np.int32, casting="unsafe")
        return _piece(frames, make_clock(chorale.position, chorale.beats_per_bar))

    def shifts(chorale: Chorale) -> range:
        room = allowed - voice_ranges([chorale])  # [4, 2]: how far down and up each voice may go
        return range(max(-6, int(room[:, 0].max())), min(6, int(room[:, 1].min())) + 1)

    return PieceSet(
        splits=Splits(*(tuple(one(chorale) for chorale in split) for split in loaded)),
        shifts=tuple(shifts(chorale) for chorale in loaded.train),
        num_pitches=highest - lowest + 1,
        lowest=lowest,
        steps_per_beat=steps_per_beat,
    )


def roll_pieces(name: RollName) -> PieceSet:
    """A set of piano rolls as frames of 88 zeros and ones, without a clock and without transpositions.

    Args:
        name: as `load_piano_rolls`.

    Returns:
        The pieces.
    """
    loaded = load_piano_rolls(name)

    def one(roll: np.ndarray) -> Piece:
        return _piece(roll.astype(np.int32), np.zeros((len(roll), 0), np.float32))

    return PieceSet(
        splits=Splits(*(tuple(one(roll) for roll in split) for split in loaded)),
        shifts=(range(1),) * len(loaded.train),
        num_pitches=88,
        lowest=LOWEST_KEY - 12 if name == "jsb" else LOWEST_KEY,  # that file lies an octave too high
        steps_per_beat=1,
    )


def heard(pieces: PieceSet, frames: np.ndarray) -> tuple[np.ndarray, list[Note]]:
    """What frames of a data set look and sound like.

    Args:
        pieces: the data set.
        frames: [T, F] integers, from a piece or from a model.

    Returns:
        What to draw (MIDI pitches [T, 4] of the voices, or a roll [T, 88] of piano keys), and the notes to play.
    """
    frames = np.asarray(frames)
    if frames.ndim == 2 and frames.shape[1] == 2 * len(VOICES):
        pitches = np.where(frames[:, : len(VOICES)] > 0, frames[:, : len(VOICES)] + pieces.lowest - 1, 0)
        return pitches, voice_notes(pitches, frames[:, len(VOICES) :] == 1)
    if frames.ndim != 2 or frames.shape[1] != pieces.num_pitches:
        raise ValueError(f"`frames` must be [T, 8] or [T, {pieces.num_pitches}], got shape {frames.shape}")
    lower = LOWEST_KEY - pieces.lowest
    roll = np.pad(frames[:, lower:], ((0, 0), (0, lower))).astype(bool)
    return roll, roll_notes(roll)


def training_batches(
    pieces: PieceSet, batch_size: int, window: int, seed: int, *, rows: Callable[[int], slice] | None = None
) -> grain.DatasetIterator:
    """Endless batches of training pieces, transposed and cut at random, a pure function of `seed`.

    Args:
        pieces: the data set.
        batch_size: B.
        window: T, the steps of every batch. Longer pieces are cut to a random part of that length, whose first
            frame still knows the frame before it; shorter ones are padded.
        seed: of the run.
        rows: which rows of a batch this process builds, as in `stream`; all if None.

    Returns:
        An iterator as `stream` makes it, over batches whose data is a `Piece` of arrays [window, B, ...]; their ids are
        [B, 3]: the piece, by how many semitones it is moved, and where it is cut.
    """
    train = pieces.splits.train
    lengths = np.minimum([len(piece.frames) for piece in train], window)

    def plan(epoch: int) -> list[np.ndarray]:
        random, entries = np.random.default_rng((seed, epoch)), []
        for group in batches(lengths, batch_size, seed, epoch):
            if len(group) < min(batch_size, len(train)):
                continue  # the short rest of an epoch would be another shape to compile
            ids = []
            for index in group:
                shift = int(random.choice(pieces.shifts[index]))
                ids.append((index, shift, random.integers(len(train[index].frames) - lengths[index] + 1)))
            entries.append(np.array(ids))
        return entries

    def build(ids: np.ndarray) -> Batch:
        moved = [(_transpose(train[index], int(shift)), start) for index, shift, start in ids]
        return pad([Piece(*(leaf[start : start + window] for leaf in piece)) for piece, start in moved], window)

    return stream(plan, build, rows=rows)


def _piece(frames: np.ndarray, clock: np.ndarray) -> Piece:
    before = np.concatenate([np.zeros_like(frames[:1]), frames[:-1]])
    return Piece(before=before, frames=frames, clock=clock, counted=np.arange(len(frames)) > 0)


def _transpose(piece: Piece, semitones: int) -> Piece:
    """Moves the pitches of all voices; rests and onsets stay."""
    if semitones == 0:
        return piece
    voices = len(VOICES)

    def move(frames: np.ndarray) -> np.ndarray:
        pitches = frames[:, :voices]
        moved = np.where(pitches > 0, pitches + semitones, 0).astype(frames.dtype)
        return np.concatenate([moved, frames[:, voices:]], axis=1)

    return piece._replace(before=move(piece.before), frames=move(piece.frames))
