"""Branches of fixed points against normal forms whose bifurcations are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import gru, stream_step
from rnn_jax.analysis import continue_fixed_point

pytestmark = pytest.mark.usefixtures("x64")


def kinds(branch) -> list[tuple[str, float]]:
    return [(one.kind, round(one.value, 3)) for one in branch.bifurcations]


def test_a_branch_goes_round_a_fold() -> None:
    # h' = h + a - h^2 has the points +-sqrt(a), and none below 0.
    branch = continue_fixed_point(
        lambda h, a: h + a - h**2, jnp.ones(1), 1.0, low=-1.0, high=1.0, upwards=False, tolerance=1e-12
    )
    points = np.asarray(branch.points)[:, 0]
    np.testing.assert_allclose(points**2, branch.values, atol=1e-11)
    np.testing.assert_allclose(branch.eigenvalues[:, 0], 1 - 2 * points, atol=1e-11)
    assert [one.kind for one in branch.bifurcations] == ["fold"]
    assert 0 <= branch.bifurcations[0].value < 0.001
    assert points[0] == pytest.approx(1)
    assert points[-1] < -0.95
    assert branch.num_unstable.tolist() == (points < 0).astype(int).tolist()
    assert branch.ended == "range"


def test_a_pitchfork_a_flip_and_a_pair_are_told_apart() -> None:
    rotation = jnp.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    pitchfork = continue_fixed_point(lambda h, a: jnp.tanh(a * h), jnp.zeros(1), 0.5, low=0.5, high=1.5)
    flip = continue_fixed_point(lambda h, a: a * h * (1 - h), jnp.array([0.6]), 2.5, low=2.5, high=3.4)
    pair = continue_fixed_point(lambda h, a: jnp.tanh(a * rotation @ h), jnp.zeros(2), 0.5, low=0.5, high=1.5)
    assert kinds(pitchfork) == [("branch", 1.0)]
    assert kinds(flip) == [("flip", 3.0)]
    assert kinds(pair) == [("neimark_sacker", 1.0)]
    assert pair.num_unstable[[0, -1]].tolist() == [0, 2]
    np.testing.assert_allclose(np.asarray(flip.points)[:, 0], 1 - 1 / flip.values, atol=1e-10)


def test_a_cell_keeps_its_fixed_point_while_an_input_is_turned() -> None:
    cell = gru(4)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(jax.random.key(0), 2))
    step = lambda h, a: stream_step(cell, params, h, a * jnp.array([1.0, -1.0]))[0]  # noqa: E731
    still = jnp.zeros(4, jnp.float64)
    branch = continue_fixed_point(step, still, 0.0, low=-1.0, high=1.0, tolerance=1e-11)
    assert branch.ended == "range"
    assert len(branch.values) > 10
    for value, point in zip(branch.values, branch.points, strict=True):
        np.testing.assert_allclose(step(point, value), point, atol=1e-10)


def test_a_curve_that_ends_is_lost_and_a_short_walk_says_so() -> None:
    # sqrt(a) has no branch below 0, and its slope is infinite there.
    lost = continue_fixed_point(lambda h, a: jnp.sqrt(a) + 0 * h, jnp.ones(1), 1.0, low=-1.0, high=2.0, upwards=False)
    assert lost.ended == "lost"
    assert np.isfinite(lost.values).all()
    short = continue_fixed_point(lambda h, a: 0.5 * h + a, jnp.zeros(1), 0.0, low=-9.0, high=9.0, num_steps=3)
    assert (short.ended, len(short.values)) == ("num_steps", 4)


def test_bad_arguments_are_named() -> None:
    step = lambda h, a: h + a  # noqa: E731
    with pytest.raises(ValueError, match="`value` must be between `low` = 1 and `high` = 2, got 0"):
        continue_fixed_point(step, jnp.zeros(1), 0, low=1, high=2)
    with pytest.raises(ValueError, match="`point` must be near a fixed point at `value` = 1"):
        continue_fixed_point(step, jnp.zeros(1), 1.0, low=0.5, high=2)
    with pytest.raises(ValueError, match="`step_size` must be above 0, got 0"):
        continue_fixed_point(step, jnp.zeros(1), 1.0, low=0.5, high=2, step_size=0)
