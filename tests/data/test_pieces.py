"""Pieces as training examples."""

import itertools

import numpy as np
import pytest

from rnn_jax.data.batching import pad
from rnn_jax.data.chorales import load_chorales, transpose, voice_ranges
from rnn_jax.data.pieces import (
    CLOCK_SIZE,
    chorale_pieces,
    heard,
    make_clock,
    roll_pieces,
    training_batches,
)


@pytest.fixture(scope="module")
def pieces():
    return chorale_pieces(steps_per_beat=2)


def test_frames_are_the_chorales_and_know_the_frame_before(pieces) -> None:
    for split, chorales in zip(pieces.splits, load_chorales(2), strict=True):
        assert len(split) == len(chorales)
        for piece, chorale in list(zip(split, chorales, strict=True))[:3]:
            picture, _ = heard(pieces, piece.frames)
            np.testing.assert_array_equal(picture, chorale.pitches)
            np.testing.assert_array_equal(piece.frames[:, 4:], chorale.onsets)
            np.testing.assert_array_equal(piece.before[1:], piece.frames[:-1])
            assert not piece.before[0].any()
            assert piece.counted.tolist() == [False] + [True] * (len(piece.frames) - 1)


def test_the_clock_says_position_bar_length_and_what_is_left() -> None:
    clock = make_clock(np.arange(20) % 6, beats_per_bar=3)
    assert clock.shape == (20, CLOCK_SIZE)
    assert clock[:, :12].argmax(1).tolist() == (np.arange(20) % 6).tolist()
    assert (clock[:, 12:15] == [0, 1, 0]).all()
    assert clock[:, 15:].argmax(1).tolist() == [16] * 4 + list(range(15, -1, -1))
    with pytest.raises(ValueError, match=r"`position` must be \[T\] integers in \[0, 12\)"):
        make_clock(np.array([12]), 4)


def test_training_batches_are_transposed_parts_of_training_pieces(pieces) -> None:
    batch = next(training_batches(pieces, batch_size=4, window=64, seed=3)).batch
    assert batch.data.frames.shape == (64, 4, 8)
    chorales = load_chorales(2).train
    found = 0
    for b in range(4):
        length = batch.lengths[b]
        frames, before = batch.data.frames[:length, b], batch.data.before[:length, b]
        np.testing.assert_array_equal(frames[:-1], before[1:])
        assert not batch.data.frames[length:, b].any()
        for chorale, shift in itertools.product(chorales, range(-6, 7)):
            moved = transpose(chorale, shift)
            pitches = np.where(moved.pitches > 0, moved.pitches - pieces.lowest + 1, 0)
            whole = np.concatenate([pitches, moved.onsets], axis=1)
            starts = range(len(whole) - length + 1)
            if any((whole[s : s + length] == frames).all() for s in starts):
                found += 1
                break
    assert found == 4


def test_transpositions_stay_within_the_ranges_of_the_voices(pieces) -> None:
    chorales = load_chorales(2).train
    allowed = voice_ranges(chorales)
    assert any(len(shifts) > 3 for shifts in pieces.shifts)
    for chorale, shifts in zip(chorales, pieces.shifts, strict=True):
        assert 0 in shifts
        for shift in (shifts[0], shifts[-1]):
            own = voice_ranges([transpose(chorale, shift)])
            assert (own[:, 0] >= allowed[:, 0]).all()
            assert (own[:, 1] <= allowed[:, 1]).all()


def test_batches_are_a_pure_function_of_the_seed(pieces) -> None:
    def first(seed: int):
        return [b.batch.data.frames for b in itertools.islice(training_batches(pieces, 8, 32, seed), 3)]

    for one, again, other in zip(first(0), first(0), first(1), strict=True):
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()


def test_a_padded_split_holds_every_piece_once(pieces) -> None:
    batch = pad(pieces.splits.valid)
    assert batch.lengths.tolist() == [len(piece.frames) for piece in pieces.splits.valid]
    for b, piece in enumerate(pieces.splits.valid):
        np.testing.assert_array_equal(batch.data.frames[: len(piece.frames), b], piece.frames)
    assert int(batch.data.counted.sum()) == sum(len(p.frames) - 1 for p in pieces.splits.valid)


def test_rolls_are_heard_at_concert_pitch() -> None:
    try:
        jsb = roll_pieces("jsb")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    frames = np.zeros((2, 88), np.int32)
    frames[:, 51] = 1  # an octave above middle C in the file, which lies an octave too high
    roll, notes = heard(jsb, frames)
    assert roll.sum() == 2
    assert [note.pitch for note in notes] == [60]
    assert len(jsb.splits.train) == 229
    assert jsb.splits.train[0].clock.shape[1] == 0


def test_frames_of_another_size_are_refused(pieces) -> None:
    with pytest.raises(ValueError, match=r"`frames` must be \[T, 8\] or"):
        heard(pieces, np.zeros((3, 5)))
