"""The strength of forcing equals NumPy's norms, matrix by matrix, and tames the gradients it is meant for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit

from rnn_jax.forcing.strength import anneal_alpha, forced_alpha

RNG = np.random.default_rng(7)
JACOBIANS = RNG.normal(size=(5, 4, 2, 3, 3)) * RNG.uniform(0.5, 2.0, size=(5, 4, 2, 1, 1))


def sigma_by_loop(jacobians, statistic):
    sequences = [jacobians[:, i, j] for i, j in np.ndindex(jacobians.shape[1:3])]
    if statistic == "arithmetic_mean":
        return max(np.linalg.norm(sum(s) / len(s), 2) for s in sequences)
    norms = [[np.linalg.norm(one, 2) for one in s] for s in sequences]
    return max(max(n) if statistic == "maximum" else np.prod(n) ** (1 / len(n)) for n in norms)


@pytest.mark.parametrize("statistic", ["maximum", "geometric_mean", "arithmetic_mean"])
def test_alpha_is_that_of_the_statistic_of_numpy_norms(statistic, x64):
    sigma = sigma_by_loop(JACOBIANS, statistic)
    assert sigma > 1.2
    alpha = jit(lambda j: forced_alpha(j, statistic))(jnp.asarray(JACOBIANS))
    assert float(alpha) == pytest.approx(1 - 1 / sigma, rel=1e-10)
    assert float(forced_alpha(jnp.asarray(JACOBIANS[:, 0, 0]), statistic)) == pytest.approx(
        max(0, 1 - 1 / sigma_by_loop(JACOBIANS[:, :1, :1], statistic)), rel=1e-10
    )
    assert forced_alpha(jnp.asarray(0.1 * JACOBIANS), statistic) == 0
    assert jnp.isnan(forced_alpha(jnp.asarray(JACOBIANS).at[0, 0, 0, 0, 0].set(jnp.nan), statistic))


def test_the_default_bounds_products_of_forced_jacobians_by_one():
    alpha = float(forced_alpha(jnp.asarray(JACOBIANS, jnp.float32)))
    products = [np.linalg.multi_dot(list((1 - alpha) * JACOBIANS[::-1, i, j])) for i, j in np.ndindex(4, 2)]
    assert max(np.linalg.norm(p, 2) for p in products) <= 1
    assert alpha < forced_alpha(jnp.asarray(JACOBIANS, jnp.float32), "maximum")


def test_alpha_rises_at_once_and_falls_slowly():
    alphas = jax.vmap(lambda a, e: anneal_alpha(a, e, 0.75))(jnp.array([1.0, 0.2, 0.5]), jnp.array([0.2, 0.6, 0.5]))
    np.testing.assert_allclose(alphas, [0.75 + 0.25 * 0.2, 0.6, 0.5], rtol=1e-6)
    assert float(anneal_alpha(jnp.float32(1.0), jnp.float32(0.0))) == pytest.approx(0.999)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"`statistic` must be one of 'maximum', .*, got 'maximal'; did you mean 'max"):
        forced_alpha(jnp.ones((2, 3, 3)), "maximal")
    for shape in ((3, 3), (2, 3, 4), (0, 3, 3)):
        with pytest.raises(ValueError, match=r"`jacobians` must be \[T, \*batch, H, H\] with T and H at least 1, got"):
            forced_alpha(jnp.ones(shape))
    with pytest.raises(ValueError, match=r"`decay` must be a number in \[0, 1\), got int 1"):
        anneal_alpha(jnp.float32(0.5), jnp.float32(0.5), 1)
