"""Sums that are divided once: metrics over batches of different size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.metrics import Mean, edit_distance, masked_mean, mean_value, merge, tally

VALUES = np.array([[0.5, -1.25, 3.0], [2.0, 7.5, -4.0]], np.float32)
MASK = np.array([[True, True, False], [True, False, False]])


def test_the_mean_over_batches_is_the_mean_over_all_values():
    batches = [(VALUES, MASK), (10 * VALUES[:1], ~MASK[:1])]
    pairs = [tally(values, mask) for values, mask in batches]
    everything = np.concatenate([values[mask] for values, mask in batches])
    np.testing.assert_allclose(mean_value(merge(*pairs)), everything.mean(), rtol=1e-6)


def test_merging_adds_totals_and_counts():
    assert merge(Mean(3.0, 2.0), Mean(-1.0, 5.0)) == Mean(total=2.0, count=7.0)


def test_nothing_counted_is_zero_with_zero_gradient():
    assert float(mean_value(Mean(jnp.float32(0), jnp.float32(0)))) == 0.0
    gradient = jax.grad(lambda total: mean_value(Mean(total, jnp.float32(0))))(jnp.float32(0))
    assert float(gradient) == 0.0


def test_integer_pairs_are_divided_in_float32():
    value = mean_value(Mean(jnp.int32(7), jnp.int32(2)))
    assert value.dtype == jnp.float32
    assert float(value) == 3.5


def test_half_precision_is_summed_in_float32():
    values = jnp.full(4096, 1.0009765625, jnp.float16)
    pair = tally(values, jnp.ones(4096, bool))
    assert pair.total.dtype == jnp.float32
    np.testing.assert_allclose(mean_value(pair), 1.0009765625, rtol=1e-6)


def test_masked_mean_divides_by_the_weights():
    weights = np.array([[0.5, 2.0, 0.0], [1.0, 0.25, 3.0]], np.float32)
    expected = (VALUES * weights).sum() / weights.sum()
    np.testing.assert_allclose(masked_mean(VALUES, weights), expected, rtol=1e-6)
    np.testing.assert_allclose(masked_mean(VALUES, MASK), VALUES[MASK].mean(), rtol=1e-6)


def test_masked_mean_without_any_weight_is_zero():
    assert float(masked_mean(VALUES, np.zeros_like(MASK))) == 0.0


def test_nan_in_padding_harms_neither_value_nor_gradient():
    values = np.where(MASK, VALUES, np.nan)
    value, gradient = jax.value_and_grad(masked_mean)(jnp.asarray(values), jnp.asarray(MASK))
    np.testing.assert_allclose(value, VALUES[MASK].mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient, MASK / MASK.sum(), rtol=1e-6)


def test_nan_among_real_values_is_not_hidden():
    assert np.isnan(masked_mean(np.array([1.0, np.nan]), np.array([True, True])))


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`weights` must have the shape of `values`, \(2, 3\)"):
        tally(VALUES, MASK[:, :1])


def slow_distance(a: list[int], b: list[int]) -> int:
    """By its definition: what becomes of the last of each."""
    if not a or not b:
        return len(a) + len(b)
    replaced = slow_distance(a[:-1], b[:-1]) + (a[-1] != b[-1])
    return min(replaced, slow_distance(a[:-1], b) + 1, slow_distance(a, b[:-1]) + 1)


def test_edit_distances_equal_their_definition():
    rng = np.random.default_rng(3)
    tokens, references = rng.integers(0, 3, (5, 40)), rng.integers(0, 3, (4, 40))
    lengths, reference_lengths = rng.integers(0, 6, 40), rng.integers(0, 5, 40)
    expected = [
        slow_distance(tokens[: lengths[b], b].tolist(), references[: reference_lengths[b], b].tolist())
        for b in range(40)
    ]
    ours = edit_distance(tokens, lengths, references, reference_lengths)
    np.testing.assert_array_equal(ours, expected)
    assert len(set(expected)) > 4
    folded = edit_distance(
        tokens.reshape(5, 8, 5), lengths.reshape(8, 5), references.reshape(4, 8, 5), reference_lengths.reshape(8, 5)
    )
    np.testing.assert_array_equal(folded.reshape(-1), expected)


def test_edit_distances_need_one_batch():
    with pytest.raises(ValueError, match=r"`references` must have the batch axes of `tokens`, \(2,\), got \(3,\)"):
        edit_distance(np.zeros((4, 2), int), np.zeros(2, int), np.zeros((4, 3), int), np.zeros(2, int))
    with pytest.raises(ValueError, match=r"`lengths` must have the batch axes of `tokens`, \(2,\), got \(\)"):
        edit_distance(np.zeros((4, 2), int), 3, np.zeros((4, 2), int), np.zeros(2, int))
