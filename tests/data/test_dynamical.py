"""Lorenz 63: the simulation solves the equations, and stands in for the published data where that is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from rnn_jax.analysis import power_spectrum_distance, state_space_divergence
from rnn_jax.data import dynamical
from rnn_jax.data.dynamical import load_lorenz63, lorenz63_step, simulate_lorenz63


def lorenz(_, s):
    return [10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]]


def test_a_simulation_follows_an_adaptive_solver_and_is_standardised():
    xs = simulate_lorenz63(400, seed=3, transient=0)
    start = np.array([1.0, 1.0, 25.0]) + np.random.default_rng(3).normal(size=3)
    times = 0.01 * np.arange(1, 401)
    exact = scipy.integrate.solve_ivp(lorenz, (0, 4), start, t_eval=times, rtol=1e-10, atol=1e-10).y.T
    np.testing.assert_allclose(xs, (exact - exact.mean(0)) / exact.std(0), atol=1e-3)
    np.testing.assert_allclose(xs.mean(0), 0, atol=1e-12)
    half = simulate_lorenz63(800, dt=0.005, seed=3, transient=0)[1::2]
    scaled = (half - half.mean(0)) / half.std(0)
    np.testing.assert_allclose(xs, scaled, atol=1e-3)
    assert not np.allclose(simulate_lorenz63(50, seed=4), simulate_lorenz63(50, seed=3))
    np.testing.assert_array_equal(simulate_lorenz63(50, seed=4), simulate_lorenz63(50, seed=4))


def test_a_transient_is_the_beginning_left_out():
    whole = simulate_lorenz63(60, seed=1, transient=0)[40:]
    late = simulate_lorenz63(20, seed=1, transient=40)
    np.testing.assert_allclose(late, (whole - whole.mean(0)) / whole.std(0), rtol=1e-9, atol=1e-9)


def test_without_the_files_noisy_and_clean_data_of_the_same_kind_are_simulated(monkeypatch, tmp_path):
    def missing(name):
        raise FileNotFoundError(name)

    monkeypatch.setattr(dynamical, "fetch", missing)
    train, test, source = load_lorenz63(3000, seed=5)
    assert source == "simulated"
    assert train.dtype == test.dtype == np.float32
    noise = train - simulate_lorenz63(3000, seed=5)
    np.testing.assert_allclose(noise.std(0), 0.05, rtol=0.05)
    np.testing.assert_allclose(test, simulate_lorenz63(3000, seed=6), rtol=1e-6)


def test_the_published_data_is_what_the_simulation_says():
    try:
        for name in ("lorenz63_train", "lorenz63_test"):
            dynamical.fetch(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    train, test, source = load_lorenz63(20_000)
    assert (train.shape, test.shape, source) == ((20_000, 3), (20_000, 3), "published")
    simulated = simulate_lorenz63(20_000, seed=1)
    assert state_space_divergence(test, simulated, bins=10) < 0.4
    assert state_space_divergence(test, simulated[:, ::-1], bins=10) > 1
    assert power_spectrum_distance(test, simulated) < 0.2
    rough = np.diff(train, n=2, axis=0).std(0) / np.sqrt(6)
    np.testing.assert_allclose(rough, 0.05, rtol=0.05)


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="`num_steps` must be at least 2, got 1"):
        simulate_lorenz63(1)


def test_a_step_is_the_same_for_numpy_and_jax_and_follows_the_equations() -> None:
    state = np.array([1.5, -2.0, 20.0])
    slope = np.array([10 * (state[1] - state[0]), state[0] * (28 - state[2]) - state[1], -3.0 - 160 / 3])
    small = 1e-6
    np.testing.assert_allclose((lorenz63_step(state, small) - state) / small, slope, rtol=1e-4)
    with jax.enable_x64(True):
        stepped = jax.jit(lorenz63_step)(jnp.asarray(state))
        np.testing.assert_allclose(stepped, lorenz63_step(state), rtol=1e-15)

    def error(dt: float) -> float:
        fine = state
        for _ in range(64):
            fine = lorenz63_step(fine, dt / 64)
        return float(np.abs(lorenz63_step(state, dt) - fine).max())

    assert 24 < error(0.01) / error(0.005) < 42  # of order 4: half the step, 1/32 of the error of one
