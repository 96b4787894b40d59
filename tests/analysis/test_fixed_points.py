"""Fixed points against closed forms, root finders of scipy, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import root

from rnn_jax import gru, lstm, stream_step
from rnn_jax.analysis import find_fixed_points, implicit_fixed_point, linearise
from rnn_jax.analysis.vectors import as_vector

pytestmark = pytest.mark.usefixtures("x64")


def test_all_points_of_uncoupled_units_are_found_and_their_indices_add_up_to_one() -> None:
    step = lambda h: jnp.tanh(1.8 * h)  # noqa: E731
    candidates = jax.random.uniform(jax.random.key(0), (200, 3), minval=-1, maxval=1)
    before = np.array(candidates)
    found = jax.jit(lambda c: find_fixed_points(step, c, tolerance=1e-24))(candidates)
    assert (np.asarray(candidates) == before).all()
    points = np.asarray(found.points)[np.asarray(found.distinct)]
    assert len(points) == 27
    height = float(root(lambda h: np.tanh(1.8 * h) - h, 0.9).x[0])
    np.testing.assert_allclose(np.abs(points[np.abs(points) > 1e-6]), height, atol=1e-10)
    there = [linearise(step, point) for point in points]
    assert [sum(one.num_unstable == n for one in there) for n in range(4)] == [8, 12, 6, 1]
    assert sum(one.index for one in there) == 1
    assert bool(found.converged.all())
    assert (np.diff(np.asarray(found.speed)[: len(points)]) >= 0).all()


@pytest.mark.parametrize("cell", [gru(4), lstm(3)], ids=["gru", "lstm"])
def test_points_of_cells_are_those_of_a_root_finder(cell) -> None:
    params = jax.tree.map(lambda leaf: 2 * leaf.astype(jnp.float64), cell.init(jax.random.key(1), 2))
    x = jnp.asarray([0.5, -1.0])
    step = lambda h: stream_step(cell, params, h, x)[0]  # noqa: E731
    carry = cell.init_carry(params, ())
    start, back = as_vector(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), carry))
    candidates = jax.vmap(back)(jax.random.normal(jax.random.key(2), (6, len(start))))
    found = find_fixed_points(step, candidates, tolerance=1e-22, adam_steps=50)
    assert bool(found.distinct[0])
    point = jax.tree.map(lambda leaf: leaf[0], found.points)
    vector = np.asarray(as_vector(point)[0])
    f = jax.jit(lambda v: as_vector(step(back(v)))[0])
    other = root(lambda v: np.asarray(f(v)) - v, vector + 0.01, tol=1e-13).x
    np.testing.assert_allclose(vector, other, atol=1e-9)
    there = linearise(step, point)
    numeric = np.stack([(f(vector + e) - f(vector - e)) / 2e-6 for e in 1e-6 * np.eye(len(vector))], 1)
    np.testing.assert_allclose(there.jacobian, numeric, atol=1e-8)
    np.testing.assert_allclose(there.jacobian @ there.right, there.right * there.eigenvalues, atol=1e-10)
    np.testing.assert_allclose(there.left @ there.right, np.eye(len(vector)), atol=1e-9)
    np.testing.assert_allclose(np.exp(-1 / there.time_constants), np.abs(there.eigenvalues), rtol=1e-9)


def test_a_map_without_a_fixed_point_has_none_and_slow_points_are_asked_for_by_tolerance() -> None:
    step = lambda h: h + 0.01 * (1 + h**2)  # slow near 0, never still  # noqa: E731
    candidates = jnp.linspace(-1, 1, 5)[:, None]
    assert not bool(find_fixed_points(step, candidates, tolerance=1e-12).converged.any())
    slow = find_fixed_points(step, candidates, tolerance=1e-4, apart=0.5)
    assert int(slow.distinct.sum()) == 1
    assert float(slow.points[0, 0]) == pytest.approx(0, abs=1e-3)
    assert float(slow.speed[0]) == pytest.approx(0.01**2 / 2, rel=1e-3)


def test_a_line_of_fixed_points_is_marginal_and_nan_never_converges() -> None:
    line = lambda h: jnp.stack([h[0], h[1] / 2])  # noqa: E731
    candidates = jnp.stack([jnp.linspace(-1, 1, 5), jnp.ones(5)], 1)
    found = find_fixed_points(line, candidates, tolerance=1e-20)
    assert int(found.distinct.sum()) == 5
    np.testing.assert_allclose(np.sort(found.points[:, 0]), np.linspace(-1, 1, 5), atol=1e-9)
    there = linearise(line, found.points[0])
    assert (there.marginal, there.num_unstable, there.index) == (1, 0, 0)
    assert there.time_constants[0] == np.inf
    bad = find_fixed_points(lambda h: jnp.log(h), jnp.full((2, 1), -1.0))
    assert not bool(bad.converged.any())
    assert not bool(bad.distinct.any())
    with pytest.raises(ValueError, match="`point` must have a finite Jacobian"):
        linearise(lambda h: jnp.sqrt(h), jnp.zeros(1))


def test_repeated_eigenvalues_have_a_defined_answer() -> None:
    jordan = jnp.array([[0.5, 1.0], [0.0, 0.5]])
    there = linearise(lambda h: jordan @ h, jnp.zeros(2))
    np.testing.assert_allclose(there.eigenvalues, [0.5, 0.5])
    assert np.isfinite(there.left).all()


def test_the_implicit_derivative_is_that_of_finite_differences() -> None:
    cell = gru(3)
    params = jax.tree.map(lambda leaf: 1.5 * leaf.astype(jnp.float64), cell.init(jax.random.key(4), 2))
    x = jnp.asarray([1.0, -0.5])

    def height(params):
        point = implicit_fixed_point(lambda p, h: stream_step(cell, p, h, x)[0], params, jnp.zeros(3))
        return (point * jnp.arange(1.0, 4.0)).sum()

    gradient = jax.jit(jax.grad(height))(params)
    value = jax.jit(height)
    for field in ("w_x", "w_h", "b"):
        leaf = getattr(params, field)
        shift = jnp.zeros_like(leaf).at[(0,) * leaf.ndim].set(1e-6)
        slope = (
            value(params._replace(**{field: leaf + shift})) - value(params._replace(**{field: leaf - shift}))
        ) / 2e-6
        assert float(getattr(gradient, field)[(0,) * leaf.ndim]) == pytest.approx(float(slope), rel=1e-6)


def test_bad_arguments_are_named() -> None:
    for match, options in (
        ("`tolerance` must be above 0, got 0", {"tolerance": 0}),
        ("`apart` must be above 0, got -1", {"apart": -1}),
        ("`newton_steps`", {"newton_steps": -1}),
    ):
        with pytest.raises(ValueError, match=match):
            find_fixed_points(lambda h: h, jnp.ones((2, 2)), **options)
