"""Batches of which each process builds its own rows."""

import numpy as np
import pytest

from rnn_jax.data.batching import batches, pad
from rnn_jax.data.pieces import chorale_pieces, training_batches
from rnn_jax.data.pipeline import stream, with_steps

LENGTHS = np.array([3, 9, 4, 7, 5, 2, 8, 6])
EXAMPLES = [np.arange(10 * n, 10 * n + length) for n, length in enumerate(LENGTHS)]


def half(number: int):
    return lambda size: slice(number * size // 2, (number + 1) * size // 2)


def numbers(rows=None):
    def build(ids):
        return pad([EXAMPLES[index] for index in ids[:, 0]], int(ids[0, 1]))

    return stream(lambda epoch: with_steps(batches(LENGTHS, 4, 0, epoch), LENGTHS, 2), build, rows=rows)


def test_the_rows_of_all_processes_are_the_batch() -> None:
    whole, first, second = numbers(), numbers(half(0)), numbers(half(1))
    for _ in range(6):
        wanted, parts = next(whole), [next(first), next(second)]
        np.testing.assert_array_equal(wanted.ids, np.concatenate([part.ids for part in parts]))
        np.testing.assert_array_equal(wanted.batch.data, np.concatenate([part.batch.data for part in parts], axis=1))
        np.testing.assert_array_equal(wanted.batch.lengths, np.concatenate([part.batch.lengths for part in parts]))


def test_the_place_in_the_data_does_not_depend_on_the_number_of_processes() -> None:
    first, whole = numbers(half(0)), numbers()
    for _ in range(3):
        next(first)
    whole.set_state(first.get_state())
    np.testing.assert_array_equal(next(whole).ids[:2], next(first).ids)


def test_pieces_are_split_as_well() -> None:
    pieces = chorale_pieces()
    whole, second = (next(training_batches(pieces, 4, 16, seed=0, rows=rows)) for rows in (None, half(1)))
    np.testing.assert_array_equal(whole.ids[2:], second.ids)
    np.testing.assert_array_equal(whole.batch.data.frames[:, 2:], second.batch.data.frames)


def test_every_row_of_a_batch_knows_its_steps() -> None:
    groups = [np.array([5, 0]), np.array([1, 6])]
    assert [entry.tolist() for entry in with_steps(groups, LENGTHS)] == [[[5, 3], [0, 3]], [[1, 9], [6, 9]]]
    assert [int(entry[0, 1]) for entry in with_steps(groups, LENGTHS, 4)] == [4, 12]
    with pytest.raises(ValueError, match="`multiple` must be >= 1, got 0"):
        with_steps(groups, LENGTHS, 0)
