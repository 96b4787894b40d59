"""What the experiment on initialisation measures, against closed forms and loops."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import _initialisation_pictures as pictures
from experiments._initialisation import (
    Kind,
    Outcome,
    Start,
    Task,
    begin,
    forgotten,
    memory_of_start,
    train_windows,
    windows,
)
from experiments._linear_networks import exact_checks, linear_spectra, ring_gains
from experiments.initialisation import SMOKE, Windows, judge_windows, ratios, run, starts_of, steps_to_forget
from rnn_jax import dense, elman, gru, lstm, stack, unroll
from rnn_jax.initializers import chrono, forget_bias, ring, zero_bias


def linear(size: int):
    return elman(size, activation=lambda a: a)


def kernels(gain: float, size: int = 4):
    """Parameters [1, 2, ...] of two linear networks."""
    states = begin(stack(linear(size), dense(1)), size, [Start("one", gain=gain)], optax.sgd(0.1), keys())
    return jax.tree.map(lambda leaf: leaf[None], states.params[0])


def keys() -> jax.Array:
    return jax.vmap(jax.random.key)(np.arange(2, dtype=np.uint32))


def test_the_gain_of_a_ring_is_the_mean_of_one_over_one_minus_lambda_squared(x64: None) -> None:
    plain, normalised = jax.jit(lambda key: ring_gains(300, 400, key))(jax.random.key(0))
    nu_log, _ = ring(jax.random.split(jax.random.split(jax.random.key(0))[0], 4)[0], 300, 0.9, 0.99, 6.28)
    radius = np.exp(-np.exp(np.asarray(nu_log)))
    assert plain == pytest.approx(np.mean(1 / (1 - radius**2)), rel=0.05)
    assert normalised == pytest.approx(1, rel=0.02)


def test_exponents_of_linear_networks_are_logarithms_of_their_eigenvalues(x64: None) -> None:
    spectra, eigenvalues = linear_spectra(6, 400, jax.random.key(1))
    for name, (measured, form) in spectra.items():
        np.testing.assert_allclose(measured, eigenvalues[name], atol=5e-3, err_msg=name)
        assert form.shape == (6,)
    np.testing.assert_allclose(spectra["orthogonal"][0], 0, atol=1e-12)
    assert (np.exp(eigenvalues["ring"]) > 0.9).all()
    assert (np.exp(eigenvalues["ring"]) < 0.99).all()
    draws = np.random.default_rng(0).uniform(size=(2, 200_000))
    in_disk = np.sort(np.log(np.sqrt(draws[0])))[::-1]  # uniform in the unit disk: P(|lambda| <= r) = r^2
    on_ring = np.sort(np.log(0.81 + draws[1] * (0.9801 - 0.81)) / 2)[::-1]
    at = ((np.arange(6) + 0.5) / 6 * 200_000).astype(int)
    np.testing.assert_allclose(spectra["Gaussian"][1], in_disk[at], atol=0.02)
    np.testing.assert_allclose(spectra["ring"][1], on_ring[at], atol=0.002)


def test_a_fused_orthogonal_kernel_has_gates_of_small_radius(x64: None) -> None:
    metrics, _ = exact_checks(12, 20, jax.random.key(0))
    assert metrics["radius_fused_gru"] == pytest.approx(3**-0.5, abs=0.1)
    assert metrics["radius_fused_lstm"] == pytest.approx(4**-0.5, abs=0.1)
    assert metrics["orthogonal_largest_log"] < 1e-12


def test_networks_begin_as_their_start_says() -> None:
    starts = [
        Start("plain"),
        Start("gain", gain=0.5),
        Start("bias", bias=forget_bias(3.0)),
        Start("chrono", bias=chrono(50.0)),
        Start("fused", "fused"),
        Start("identity", "identity", gain=0.9),
    ]
    cell = stack(lstm(4, bias_init=zero_bias), dense(1))
    layer, readout = begin(cell, 4, starts, optax.adam(0.1), keys()).params
    w = np.asarray(layer.w_h).reshape(6, 2, 4, 16)
    b = np.asarray(layer.b).reshape(6, 2, 4, 4)
    for block in np.split(w[0, 1], 4, axis=1):
        np.testing.assert_allclose(block @ block.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(w[1], 0.5 * w[0], atol=1e-6)
    np.testing.assert_array_equal(w[2], w[0])
    np.testing.assert_allclose(w[4, 0] @ w[4, 0].T, np.eye(4), atol=1e-5)
    assert abs(w[4, 0, :, :4] @ w[4, 0, :, :4].T - np.eye(4)).max() > 0.1
    np.testing.assert_allclose(w[5], np.tile(0.9 * np.eye(4), (2, 1, 4)), rtol=1e-6)
    np.testing.assert_array_equal(b[0], 0)
    np.testing.assert_array_equal(b[2], np.tile([[0], [3], [0], [0]], (2, 1, 4)))
    assert (b[3, :, 1] >= 0).all()
    assert (b[3, :, 1] <= np.log(49)).all()
    np.testing.assert_array_equal(b[3, :, 0], -b[3, :, 1])
    assert (np.ptp(np.asarray(readout.w).reshape(6, 2, -1), axis=0) == 0).all()
    assert (w[0, 0] != w[0, 1]).any()


def test_a_contracting_linear_network_forgets_by_its_gain_at_each_step() -> None:
    xs = jax.random.normal(jax.random.key(1), (5, 3, 2))
    distances = forgotten(linear(4), kernels(0.5), xs, jax.random.key(2))
    np.testing.assert_allclose(distances, np.broadcast_to(0.5 ** np.arange(6), (1, 2, 6)), rtol=1e-4)
    memory = memory_of_start(linear(4), kernels(0.5), xs)
    np.testing.assert_allclose(memory, np.full((1, 2), 0.5**5), rtol=1e-4)


def test_steps_are_those_of_the_first_low_value() -> None:
    outcome = Outcome(
        linear(2), (), (), np.zeros((1, 2)), np.array([10, 20, 30]), np.array([[[3.0, 3]], [[1, 3]], [[2, 3]]])
    )
    np.testing.assert_array_equal(outcome.steps_to(2.0), [[20, 30]])
    np.testing.assert_array_equal(steps_to_forget(np.array([[1, 0.5, 0.05, 0.2], [1, 1, 1, 1]])), [2, 3])


def test_windows_are_parts_of_the_series() -> None:
    series = jnp.arange(9.0)[:, None]
    found = np.asarray(windows(series, 4, 50, jax.random.key(0)))
    assert found.shape == (4, 50, 1)
    np.testing.assert_array_equal(np.diff(found, axis=0), 1)
    assert found.min() == 0
    assert found.max() == 8
    with pytest.raises(ValueError, match="`length` must be at most the 9 steps"):
        windows(series, 10, 2, jax.random.key(0))


def test_errors_of_windows_are_those_from_the_state_without_noise(tmp_path: Path) -> None:
    series = np.sin(np.arange(40.0, dtype=np.float32))[:, None]
    kinds = (Kind("zero"), Kind("learned", learned=True), Kind("noise", noise=2.0))
    task = Task(length=7, batch_size=2, num_tests=3, num_steps=1, every=1, learning_rate=1e-9)
    errors = train_windows(3, kinds, task, (series, series), (0, 1), tmp_path / "windows")
    assert errors.shape == (3, 1, 7)
    cell = stack(gru(3), dense(1))
    own_key = jax.random.split(jax.random.key(0))[0]
    layer_key, dense_key = jax.random.split(own_key)
    layer = gru(3).init(jax.random.split(layer_key)[0], 1)
    params = (layer, dense(1).init(dense_key, 3))
    tests = windows(jnp.asarray(series), 8, 3, jax.random.key(10_000))
    expected = np.square(np.asarray(unroll(cell, params, tests[:-1])[1] - tests[1:])).mean((1, 2))
    np.testing.assert_allclose(errors[:, 0], np.tile(expected, (3, 1)), rtol=1e-3, atol=1e-6)


def test_first_and_later_steps_are_told_apart(tmp_path: Path) -> None:
    kinds = (Kind("zero"), Kind("learned", learned=True))
    errors = np.stack([np.full((2, 8), 4.0), np.full((2, 8), 4.0)])
    errors[1, :, :5] = [[1], [3]]
    metrics = {}
    judge_windows(Windows(kinds, {8: errors}, "simulated"), metrics)
    assert metrics["first_learned_8_seeds"] == [1, 3]
    assert metrics["all_learned_8"] == pytest.approx((5 * 2 + 3 * 4) / 8)
    found = ratios(metrics, dataclasses.replace(SMOKE, windows=(8,)))
    assert found["first_learned_over_zero_8"] == 0.5
    assert found["later_learned_over_zero_8"] == 1
    path = pictures.window_curves({8: errors}, ["zero", "learned"], 20, tmp_path / "windows.png")
    assert path.stat().st_size > 10_000
    many = np.exp(np.random.default_rng(0).normal(size=(2, 3, 2)))
    assert pictures.noise_curves((0.0, 0.1, 1.0), many[0], many[1], tmp_path / "noise.png").stat().st_size > 10_000


def test_starts_have_names_of_their_own() -> None:
    config = dataclasses.replace(SMOKE, noises=(0.0, 3.0))
    for cell in ("tanh", "relu", "lstm", "gru"):
        names = [start.name for start in starts_of(cell, config)]
        assert len(set(names)) == len(names)
    assert [start.noise for start in starts_of("relu", config)] == [0, 0, 0, 3.0]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"cells": ("tanh", "mgu")}, "`cells` must be some of tanh, relu, lstm, gru"),
        ({"windows": (10, 5)}, "`windows` must be lengths above 5 steps"),
    ],
)
def test_bad_settings_are_named(changed: dict, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=text):
        run(dataclasses.replace(SMOKE, **changed), tmp_path)
