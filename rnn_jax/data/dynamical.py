"""Chaotic systems as data: Lorenz 63, published or simulated."""

from typing import Any

import numpy as np

from rnn_jax.data.fetch import fetch

__all__ = ["load_lorenz63", "lorenz63_step", "simulate_lorenz63"]

LORENZ63_EXPONENT = 0.9056
"""The largest Lyapunov exponent of Lorenz 63, for each unit of time."""


def load_lorenz63(num_steps: int = 100_000, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, str]:
    """A noisy trajectory to train on and a clean one to test with: as published, or else simulated in the same way.

    Args:
        num_steps: T, at most 100,000 where the files are found.
        seed: of a simulation: `seed` for training, `seed + 1` for the test.

    Returns:
        `(train, test, source)`: float32 [T, 3], each dimension of mean 0 and variance 1, 0.01 units of time a step;
        train has Gaussian noise of 5 % of a standard deviation. `source` is "published" or "simulated".

    Example:
        >>> train, test, source = load_lorenz63(500)
        >>> train.shape, test.shape, source in ("published", "simulated")
        ((500, 3), (500, 3), True)

    References:
        github.com/DurstewitzLab/GTF-shPLRNN, the data of Hess et al., 2023, arXiv:2306.04406.
    """
    try:
        train, test = (np.load(fetch(name))[:num_steps] for name in ("lorenz63_train", "lorenz63_test"))
    except FileNotFoundError:
        train = simulate_lorenz63(num_steps, seed=seed)
        train += 0.05 * np.random.default_rng(seed).normal(size=train.shape)
        return train.astype(np.float32), simulate_lorenz63(num_steps, seed=seed + 1).astype(np.float32), "simulated"
    return train, test, "published"


def lorenz63_step(state: Any, dt: float = 0.01) -> Any:
    """The state of Lorenz 63 a time `dt` later, by the Runge-Kutta method of order 4.

        x' = 10 (y - x),    y' = x (28 - z) - y,    z' = x y - 8/3 z

    Args:
        state: [3], of NumPy or of any library with the array API, such as JAX.
        dt: time of the step.

    Returns:
        [3], an array of the same library.

    Example:
        >>> lorenz63_step(np.array([1.0, 1.0, 1.0])).round(4).tolist()
        [1.0126, 1.2599, 0.9849]
    """
    stack = state.__array_namespace__().stack

    def slope(s: Any) -> Any:
        x, y, z = s
        return stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    k1 = slope(state)
    k2 = slope(state + dt / 2 * k1)
    k3 = slope(state + dt / 2 * k2)
    k4 = slope(state + dt * k3)
    return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def simulate_lorenz63(num_steps: int, *, dt: float = 0.01, seed: int = 0, transient: int = 2000) -> np.ndarray:
    """A trajectory on the attractor of Lorenz 63 by the Runge-Kutta method of order 4, standardised.

        x' = 10 (y - x),    y' = x (28 - z) - y,    z' = x y - 8/3 z

    Args:
        num_steps: T.
        dt: time of one step.
        seed: of the point it starts from.
        transient: steps that are dropped before the first one.

    Returns:
        float64 [T, 3]; each dimension has mean 0 and variance 1.

    Raises:
        ValueError: for fewer than 2 steps.

    Example:
        >>> xs = simulate_lorenz63(1000)
        >>> xs.shape, bool(np.allclose(xs.std(0), 1))
        ((1000, 3), True)

    References:
        Lorenz, Deterministic nonperiodic flow, 1963.
    """
    if num_steps < 2:
        raise ValueError(f"`num_steps` must be at least 2, got {num_steps}")

    state = np.array([1.0, 1.0, 25.0]) + np.random.default_rng(seed).normal(size=3)
    xs = np.empty((num_steps, 3))
    for t in range(-transient, num_steps):
        state = lorenz63_step(state, dt)
        if t >= 0:
            xs[t] = state
    return (xs - xs.mean(0)) / xs.std(0)
