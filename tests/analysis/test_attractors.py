"""Distances of attractors equal slow loops over cells and frequencies, and what can be worked out by hand."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from rnn_jax.analysis import power_spectrum_distance, state_space_divergence

RNG = np.random.default_rng(3)
DATA = RNG.normal(size=(60, 2)) @ np.array([[1.0, 0.5], [0.0, 2.0]]) + 3.0
OTHER = 0.8 * DATA[::-1] + RNG.normal(size=(60, 2))


def divergence_by_loop(data, generated, bins, smoothing):
    edges = []
    for column in data.T:
        margin = 0.1 * math.sqrt(sum((column - column.mean()) ** 2) / (len(column) - 1))
        low, high = min(column) - margin, max(column) + margin
        edges.append([low + (high - low) * i / bins for i in range(bins + 1)])
    cells = list(itertools.product(range(bins), repeat=data.shape[1]))

    def histogram(x):
        inside = [
            sum(all(e[c] <= v < e[c + 1] for v, c, e in zip(row, cell, edges, strict=True)) for row in x)
            for cell in cells
        ]
        return [(count + smoothing) / (sum(inside) + smoothing * len(cells)) for count in inside]

    return sum(p * math.log(p / q) for p, q in zip(histogram(data), histogram(generated), strict=True))


@pytest.mark.parametrize(("bins", "smoothing"), [(4, 1e-5), (3, 0.5)])
def test_the_divergence_equals_a_loop_over_all_cells(bins, smoothing):
    expected = divergence_by_loop(DATA, OTHER, bins, smoothing)
    assert expected > 0.1
    assert state_space_divergence(DATA, OTHER, bins=bins, smoothing=smoothing) == pytest.approx(expected, rel=1e-12)
    assert ((OTHER < DATA.min(0)) | (OTHER > DATA.max(0))).any()


def test_equal_sets_have_no_divergence_in_whatever_order_they_are_visited():
    assert state_space_divergence(DATA, DATA[::-1]) == 0
    assert state_space_divergence(DATA, OTHER) != state_space_divergence(OTHER, DATA)


def test_the_box_goes_a_tenth_of_a_sample_deviation_beyond_the_data():
    data = np.array([[0.0], [1.0]])  # deviation 0.7071
    for beyond, inside in ((0.07, True), (0.071, False)):
        divergence = state_space_divergence(data, np.array([[-beyond], [1 + beyond]]), bins=2)
        assert (divergence == 0) is inside


def test_disjoint_sets_and_collapsed_models_have_the_divergence_of_the_closed_form():
    data = np.concatenate([np.zeros((50, 1)), np.ones((50, 1))])
    seen, empty = 50 + 1e-5, 1e-5
    total = 100 + 30e-5
    for generated in (np.full((100, 1), 0.5), np.full((100, 1), np.nan), np.full((100, 1), 7.0)):
        inside = float(generated[0, 0] == 0.5)
        p, q = np.array([seen, seen, empty, *[empty] * 27]) / total, np.full(30, empty / total)
        q[2] = (100 * inside + empty) / total
        expected = scipy.stats.entropy(p, q) if inside else (p * np.log(p / q)).sum()
        assert state_space_divergence(data, generated) == pytest.approx(expected, rel=1e-9)
        assert expected == pytest.approx(math.log(50 / 1e-5), abs=0.01)


def test_values_that_are_left_out_do_not_count_and_nothing_is_more_divergent_than_none():
    lost = np.where(np.arange(60)[:, None] < 30, OTHER, np.nan)
    away = np.where(np.arange(60)[:, None] < 30, OTHER, [[np.inf, -np.inf]])
    assert state_space_divergence(DATA, lost) == state_space_divergence(DATA, OTHER[:30])
    assert state_space_divergence(DATA, away) == state_space_divergence(DATA, OTHER[:30])
    point = np.full((60, 2), DATA[0])
    assert state_space_divergence(DATA, OTHER) < state_space_divergence(DATA, point)
    assert state_space_divergence(DATA, point) < state_space_divergence(DATA, np.full((60, 2), np.nan))


def spectrum_by_loop(x, sigma):
    num, mean = len(x), sum(x) / len(x)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in x) / (num - 1))
    waves = [[np.exp(-2j * np.pi * k * t / num) for t in range(num)] for k in range(num // 2 + 1)]
    power = [abs(sum((v - mean) / deviation * w for v, w in zip(x, wave, strict=True))) ** 2 for wave in waves]
    if sigma:
        radius, last = int(4 * sigma + 0.5), len(power) - 1
        kernel = {d: math.exp(-(d**2) / (2 * sigma**2)) for d in range(-radius, radius + 1)}

        def mirrored(k):
            k = abs(k) % (2 * last)
            return power[min(k, 2 * last - k)]

        power = [sum(w * mirrored(k + d) for d, w in kernel.items()) / sum(kernel.values()) for k in range(last + 1)]
    return [v / sum(power) for v in power]


@pytest.mark.parametrize("sigma", [0, 1.5, 5])
def test_the_distance_of_spectra_equals_a_loop_over_frequencies(sigma):
    expected = []
    for column in range(2):
        f, g = (spectrum_by_loop(x[:, column], sigma) for x in (DATA, OTHER))
        expected.append(math.sqrt(1 - sum(math.sqrt(a * b) for a, b in zip(f, g, strict=True))))
    assert power_spectrum_distance(DATA, OTHER, smoothing_sigma=sigma) == pytest.approx(np.mean(expected), rel=1e-9)
    assert min(expected) > 1e-3
    assert abs(expected[0] - expected[1]) > 1e-4


def test_the_distance_of_spectra_is_0_for_shifted_and_scaled_series_and_1_for_other_frequencies():
    t = np.arange(400)[:, None] * (2 * np.pi / 400)
    wave = np.sin(t * [7, 20])
    assert power_spectrum_distance(wave, 5 * np.roll(wave, 30, axis=0) - 2) == pytest.approx(0, abs=1e-6)
    assert power_spectrum_distance(wave, np.sin(t * [100, 160]), smoothing_sigma=0) == pytest.approx(1, abs=1e-6)
    assert power_spectrum_distance(wave, np.sin(t * [7, 160]), smoothing_sigma=0) == pytest.approx(0.5, abs=1e-6)


def test_a_dimension_without_a_spectrum_is_as_far_as_can_be():
    generated = DATA.copy()
    assert power_spectrum_distance(DATA, generated) == 0
    for nothing in (np.nan, np.inf, 4.0, 4.0 + 1e-8 * RNG.normal(size=60)):
        generated[:, 1] = nothing
        assert power_spectrum_distance(DATA, generated) == 0.5
    assert power_spectrum_distance(DATA, np.full((60, 2), np.nan)) == 1


def test_shapes_and_data_that_do_not_fit_are_refused():
    for measure in (state_space_divergence, power_spectrum_distance):
        with pytest.raises(ValueError, match=r"`generated` must be \[T, N\] .* the N of `data`, got shape \(60, 1\)"):
            measure(DATA, OTHER[:, :1])
        with pytest.raises(ValueError, match=r"`data` must be \[T, N\] .*, got shape \(60,\)"):
            measure(DATA[:, 0], OTHER)
        with pytest.raises(ValueError, match="`data` must be finite"):
            measure(np.where(DATA > 3, np.nan, DATA), OTHER)
    with pytest.raises(ValueError, match="`generated` must have the T=60 steps of `data`, got 59"):
        power_spectrum_distance(DATA, OTHER[1:])
    with pytest.raises(ValueError, match="`data` must vary in every dimension"):
        power_spectrum_distance(np.ones((60, 2)), OTHER)
