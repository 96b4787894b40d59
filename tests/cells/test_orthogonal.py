"""The exponential of a matrix by products against scipy, in values and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from rnn_jax.cells.orthogonal_rnn import exponential


def skew(size: int, norm: float) -> np.ndarray:
    upper = np.triu(np.random.default_rng(0).normal(size=(size, size)), 1)
    a = upper - upper.T
    return a * norm / np.abs(a).sum(0).max()


@pytest.mark.parametrize("norm", [0.0, 1e-4, 0.5, 3.0, 60.0, 2000.0])
def test_it_is_that_of_scipy(norm: float, x64: None) -> None:
    a = skew(9, norm) if norm else np.zeros((9, 9))
    got = np.asarray(jax.jit(exponential)(jnp.asarray(a)))
    np.testing.assert_allclose(got, scipy.linalg.expm(a), atol=1e-12)
    np.testing.assert_allclose(got @ got.T, np.eye(9), atol=1e-12)


def test_its_derivative_is_that_of_scipy_alone_and_for_many_at_once(x64: None) -> None:
    a, direction = np.stack([skew(4, 2.0), skew(4, 0.1)]), np.stack([skew(4, 1.0), np.ones((4, 4))])
    _, got = jax.jvp(jax.vmap(exponential), (jnp.asarray(a),), (jnp.asarray(direction),))
    for i in range(2):
        np.testing.assert_allclose(got[i], scipy.linalg.expm_frechet(a[i], direction[i])[1], atol=1e-12)
    bar = jax.grad(lambda a: jnp.vdot(exponential(a), direction[1]))(jnp.asarray(a[0]))
    np.testing.assert_allclose(bar, scipy.linalg.expm_frechet(a[0].T, direction[1])[1], atol=1e-12)


def test_a_matrix_that_is_too_large_is_not_silently_wrong() -> None:
    assert bool(jnp.isnan(exponential(jnp.asarray(skew(4, 3000.0), jnp.float32))).all())
