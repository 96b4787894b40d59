"""Attribution against finite differences, closed forms and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import dense, gru, stack, unroll
from rnn_jax.analysis import integrated_gradients, occlusion, saliency

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(scope="module")
def score_and_xs():
    with jax.enable_x64(True):
        cell = stack(gru(3), dense(1))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(jax.random.key(0), 2))
        xs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
        yield jax.jit(lambda xs: unroll(cell, params, xs)[1][-1, 0]), xs


def test_saliency_is_the_slope_of_finite_differences(score_and_xs) -> None:
    score, xs = score_and_xs
    slopes = np.zeros(xs.shape)
    for place in np.ndindex(xs.shape):
        shift = jnp.zeros_like(xs).at[place].set(1e-6)
        slopes[place] = (score(xs + shift) - score(xs - shift)) / 2e-6
    np.testing.assert_allclose(saliency(score, xs), np.linalg.norm(slopes, axis=-1), rtol=1e-7)
    np.testing.assert_allclose(saliency(score, xs, times_input=True), (slopes * xs).sum(-1), rtol=1e-6, atol=1e-9)


def test_integrated_gradients_are_complete_and_those_of_a_fine_sum(score_and_xs) -> None:
    score, xs = score_and_xs
    baseline = jnp.full_like(xs, 0.3)
    got = jax.jit(lambda xs: integrated_gradients(score, xs, baseline))(xs)
    assert float(got.sum()) == pytest.approx(float(score(xs) - score(baseline)), abs=1e-12)
    gradient = jax.jit(jax.vmap(lambda a: jax.grad(score)(baseline + a * (xs - baseline))))
    fine = (xs - baseline) * gradient(jnp.linspace(0.00025, 0.99975, 2000)).mean(0)
    np.testing.assert_allclose(got, fine, atol=1e-7)
    assert float(jnp.abs(integrated_gradients(score, xs) - got).max()) > 1e-3  # another baseline, other numbers


@pytest.mark.parametrize("width", [1, 3])
def test_occlusion_is_a_loop(score_and_xs, width: int) -> None:
    score, xs = score_and_xs
    cover = jnp.array([0.5, -0.5])
    expected = []
    for t in range(len(xs)):
        covered = np.array(xs)
        first = t - (width - 1) // 2
        covered[max(first, 0) : first + width] = cover
        expected.append(float(score(xs) - score(jnp.asarray(covered))))
    np.testing.assert_allclose(occlusion(score, xs, cover, width=width), expected, atol=1e-12)


def test_bad_arguments_are_named(score_and_xs) -> None:
    score, xs = score_and_xs
    with pytest.raises(ValueError, match=r"`baseline` must have the shape of xs, \(5, 2\), got \(2,\)"):
        integrated_gradients(score, xs, jnp.zeros(2))
    with pytest.raises(ValueError, match="`num_points`"):
        integrated_gradients(score, xs, num_points=0)
    with pytest.raises(ValueError, match="`width`"):
        occlusion(score, xs, width=0)
