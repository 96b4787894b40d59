"""The adding problem, the copying task, and the gradients that their experiments look at."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._long_memory import NETWORKS, Outcome, network
from experiments.adding_problem import adding
from experiments.copy_memory import BLANK, MARKER, copying, no_memory
from experiments.vanishing_gradients import gradient_sizes, squared_error, unit, walk
from rnn_jax import unroll


def test_one_number_of_each_half_is_marked_and_their_sum_is_the_answer() -> None:
    xs, sums = (np.asarray(part) for part in adding(10, jax.random.key(0), 200))
    marks = xs[..., 1]
    assert set(np.unique(marks)) == {0.0, 1.0}
    assert (marks[:5].sum(0) == 1).all()
    assert (marks[5:].sum(0) == 1).all()
    assert (marks.sum(1) > 0).all()  # every place is used
    for b in range(200):
        first, second = np.flatnonzero(marks[:, b])
        assert sums[b] == pytest.approx(xs[first, b, 0] + xs[second, b, 0], rel=1e-6)
    with pytest.raises(ValueError, match="`length` must be even and at least 2, got 7"):
        adding(7, jax.random.key(0), 1)


def test_ten_symbols_come_again_after_the_marker() -> None:
    xs, targets = copying(4, jax.random.key(0), 50)
    tokens = np.asarray(xs).argmax(-1)
    assert tokens.shape == (24, 50)
    assert set(np.unique(tokens[:10])) == set(range(1, 9))
    assert (tokens[10:13] == BLANK).all()
    assert (tokens[13] == MARKER).all()
    assert (tokens[14:] == BLANK).all()
    np.testing.assert_array_equal(targets[-10:], tokens[:10])
    assert (np.asarray(targets)[:-10] == BLANK).all()
    assert no_memory(targets) == pytest.approx(10 * math.log(8) / 24, rel=1e-5)
    with pytest.raises(ValueError, match="`length` must be at least 1, got 0"):
        copying(0, jax.random.key(0), 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_outputs(name: str) -> None:
    cell = network(name, 4, 20, 3)
    params = cell.init(jax.random.key(0), 2)
    assert unroll(cell, params, jnp.ones((5, 2, 2)))[1].shape == (5, 2, 3)


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"`cells` must be among tanh, .* got 'rnn'"):
        network("rnn", 4, 20, 1)


def test_the_first_good_evaluation_counts() -> None:
    outcome = Outcome(np.array([50, 100]), np.array([[0.1, 0.3], [0.3, 0.3]]), np.zeros(2), 1.0)
    assert outcome.first(lambda valid: valid < 0.2).tolist() == [50, math.inf]


def test_gradient_sizes_are_those_of_finite_differences(x64: None) -> None:
    cell = network("tanh", 3, 20, 1)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(jax.random.key(0), 2))
    batch = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), adding(6, jax.random.key(1), 1))
    xs, sums = batch
    carry = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init_carry(params, (1,)))

    def later(h: np.ndarray, t: int) -> float:
        """The loss if the state at t is h."""
        ys = unroll(cell, params, xs[t:], carry=(jnp.asarray(h), *carry[1:]))[1]
        return float(jnp.square(ys[-1, 0, 0] - sums[0]))

    got = gradient_sizes(cell, params, batch)
    assert got.shape == (6,)
    for t in (0, 3, 5):
        h = carry[0] if t == 0 else unroll(cell, params, xs[:t])[0][0]
        steps = 1e-6 * np.eye(3)
        bar = [(later(np.asarray(h) + e, t) - later(np.asarray(h) - e, t)) / 2e-6 for e in steps]
        assert float(got[t]) == pytest.approx(math.log(np.linalg.norm(bar)), abs=1e-6)
    assert float(squared_error(cell, params, batch)) == pytest.approx(later(np.zeros((1, 3)), 0))


def test_the_cliff_is_that_of_a_loop() -> None:
    w, b = 5.0, -1.6
    h = 0.5
    for _ in range(50):
        h = w / (1 + math.exp(-h)) + b
    loss = (1 / (1 + math.exp(-h)) - 0.7) ** 2
    assert float(unit(jnp.array([w, b]))) == pytest.approx(loss, rel=1e-5)
    path = walk(0.1, 0.3, 5, (w, b))
    assert path.shape == (6, 2)
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() <= 0.03 + 1e-6
