from typing import NamedTuple

import numpy as np
import pytest

from rnn_jax.data import batches, epoch_order, pad, padded_fraction


class Pair(NamedTuple):
    xs: np.ndarray
    ys: np.ndarray


def test_padding_equals_a_slow_copy_step_by_step():
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(length, 2, 3)).astype(np.float32) for length in (4, 1, 0, 6)]
    data, lengths = pad(sequences, num_steps=7)
    assert (data.shape, data.dtype, lengths.dtype) == ((7, 4, 2, 3), np.float32, np.int32)
    assert lengths.tolist() == [4, 1, 0, 6]
    for t in range(7):
        for b, sequence in enumerate(sequences):
            expected = sequence[t] if t < len(sequence) else np.zeros((2, 3))
            np.testing.assert_array_equal(data[t, b], expected)


def test_padding_goes_to_the_longest_sequence_by_default():
    data, _ = pad([np.array([True, True]), np.array([True, False, True])])
    assert data.tolist() == [[True, True], [True, False], [False, True]]
    assert data.dtype == np.bool_


def test_structures_are_padded_leaf_by_leaf_and_kept():
    pairs = [Pair(np.array([1, 2]), np.array([[3.0], [4.0]])), Pair(np.array([5]), np.array([[6.0]]))]
    batch = pad([{"b": pair, "a": (pair.xs, [pair.ys])} for pair in pairs])
    assert isinstance(batch.data["b"], Pair)
    assert batch.data["b"].xs.tolist() == batch.data["a"][0].tolist() == [[1, 5], [2, 0]]
    assert batch.data["b"].ys.tolist() == batch.data["a"][1][0].tolist() == [[[3.0], [6.0]], [[4.0], [0.0]]]
    assert batch.lengths.tolist() == [2, 1]


def test_padding_does_not_change_the_sequences_it_is_given():
    sequence = np.array([1, 2, 3])
    pad([sequence]).data[:] = 9
    assert sequence.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("sequences", "num_steps", "message"),
    [
        ([], None, r"`sequences` must hold at least one sequence"),
        ([np.zeros(3)], 2, r"`num_steps` must be at least the longest length 3, got 2"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], None, r"`sequences\[1\]` must have the structure"),
        ([np.zeros(2), np.zeros(2, np.int32)], None, r"`sequences\[1\]` must have .*got .*int32"),
        ([(np.zeros(2),), [np.zeros(2)]], None, r"`sequences\[1\]` must have .*got .*list"),
        ([{"a": np.zeros(2)}, {"b": np.zeros(2)}], None, r"`sequences\[1\]` must have .*'b'"),
        ([(np.zeros(2), np.zeros(3))], None, r"`sequences\[0\]` must be arrays of one length.*\(2,\), \(3,\)"),
        ([np.float32(1)], None, r"`sequences\[0\]` must be arrays of one length"),
    ],
)
def test_sequences_that_cannot_be_padded_are_refused(sequences, num_steps, message):
    with pytest.raises(ValueError, match=message):
        pad(sequences, num_steps)


def test_an_epochs_order_is_a_permutation_fixed_by_seed_and_epoch():
    orders = {(s, e): tuple(epoch_order(s, e, 50).tolist()) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    for (seed, epoch), order in orders.items():
        assert sorted(order) == list(range(50))
        assert tuple(epoch_order(seed, epoch, 50).tolist()) == order


@pytest.mark.parametrize("arguments", [(-1, 0, 3), (0, -1, 3), (0, 0, -3)])
def test_negative_arguments_of_an_order_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be >= 0, got"):
        epoch_order(*arguments)


@pytest.mark.parametrize("bucket", [1, 3, 50])
@pytest.mark.parametrize("count", [0, 1, 8, 61])
def test_batches_hold_every_example_once_and_are_full_but_for_one(count, bucket):
    lengths = np.random.default_rng(1).integers(1, 100, count)
    groups = batches(lengths, 4, seed=2, epoch=5, bucket=bucket)
    assert sorted(i for group in groups for i in group) == list(range(count))
    assert sorted((len(group) for group in groups), reverse=True)[: count // 4] == [4] * (count // 4)
    assert len(groups) == -(-count // 4)


def test_batches_are_fixed_by_seed_and_epoch():
    lengths = np.arange(40) % 7

    def flat(seed, epoch):
        return np.concatenate(batches(lengths, 8, seed, epoch)).tolist()

    assert flat(3, 1) == flat(3, 1)
    assert flat(3, 1) != flat(3, 2)
    assert flat(3, 1) != flat(4, 1)


def test_a_bucket_pads_much_less_than_a_plain_shuffle_and_mixes_batches():
    lengths = np.random.default_rng(0).integers(10, 200, 1000)
    plain = batches(lengths, 16, seed=0, epoch=0, bucket=1)
    bucketed = batches(lengths, 16, seed=0, epoch=0, bucket=20)
    assert padded_fraction(lengths, bucketed) < 0.06 < 0.35 < padded_fraction(lengths, plain)
    means = [lengths[group].mean() for group in bucketed]
    assert means != sorted(means)


def test_the_padded_fraction_equals_counting_the_padding_of_real_batches():
    lengths = np.array([5, 3, 8, 1, 2, 9, 4])
    groups = batches(lengths, 3, seed=0, epoch=0)
    padding = steps = 0
    for group in groups:
        data, _ = pad([np.ones(lengths[i], bool) for i in group])
        padding += int((~data).sum())
        steps += data.size
    assert padded_fraction(lengths, groups) == pytest.approx(padding / steps)
    assert padded_fraction([], []) == 0.0


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([[1, 2]], {"batch_size": 1}, r"`lengths` must have shape \[N\], got \[1, 2\]"),
        ([1, 2], {"batch_size": 0}, r"`batch_size` must be >= 1, got 0"),
        ([1, 2], {"batch_size": 1, "bucket": 0}, r"`bucket` must be >= 1, got 0"),
    ],
)
def test_batches_refuse_what_makes_no_batch(lengths, options, message):
    with pytest.raises(ValueError, match=message):
        batches(lengths, seed=0, epoch=0, **options)
