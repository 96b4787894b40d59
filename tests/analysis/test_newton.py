"""Newton in time ends at the states of the sequential loop, in as many iterations as theory and a plain loop say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit

from rnn_jax.analysis import newton_in_time

RNG = np.random.default_rng(11)
W = RNG.normal(size=(3, 3)) / 2
XS = RNG.normal(size=(12, 3))
GUESS = RNG.normal(size=(12, 3))
START = RNG.normal(size=3)


def step(h, x, w=W):
    return jnp.tanh(h @ jnp.asarray(w, h.dtype)) + x


def newton_by_loop(num_iterations):
    states, changes = GUESS, []
    for _ in range(num_iterations):
        new, h, before = [], START, np.concatenate([START[None], states[:-1]])
        for t in range(len(XS)):
            u = before[t] @ W
            jacobian = (1 - np.tanh(u) ** 2)[:, None] * W.T
            h = np.tanh(u) + XS[t] + jacobian @ (h - before[t])
            new.append(h)
        changes.append(np.abs(np.array(new) - states).max())
        states = np.array(new)
    return states, changes


def test_iterates_equal_a_plain_loop_and_the_count_is_where_the_change_falls_below_the_tolerance(x64):
    args = jnp.asarray(START), jnp.asarray(XS), jnp.asarray(GUESS)
    for number in (1, 2, 3):
        states, _ = newton_by_loop(number)
        run = jit(lambda *a, n=number: newton_in_time(step, *a, tolerance=0.0, max_iterations=n))(*args)
        np.testing.assert_allclose(run.states, states, rtol=1e-10, atol=1e-12)
        assert int(run.iterations) == number
        assert not run.converged
    changes = newton_by_loop(12)[1]
    assert 2 < np.argmax(np.array(changes) <= 1e-6) < 10
    run = newton_in_time(step, *args, tolerance=1e-6)
    assert run.converged
    assert int(run.iterations) == 1 + np.argmax(np.array(changes) <= 1e-6)
    h, expected = START, []
    for x in XS:
        h = np.tanh(h @ W) + x
        expected.append(h)
    np.testing.assert_allclose(run.states, expected, rtol=1e-9, atol=1e-9)


def test_a_linear_recurrence_takes_one_iteration_and_one_to_see_it():
    run = newton_in_time(lambda h, x: 1.5 * h + x, jnp.float32(START), jnp.float32(XS), jnp.float32(GUESS))
    assert int(run.iterations) == 2


def test_rows_of_a_batch_count_for_themselves_and_nan_never_converges():
    scales = jnp.array([0.0, 0.5, 1.0, jnp.nan])
    args = jnp.float32(START), jnp.float32(XS), jnp.float32(GUESS)

    def count(scale):
        return newton_in_time(lambda h, x: scale * step(h, x), *args, max_iterations=9)

    together = jit(jax.vmap(count))(scales)
    alone = [count(scale) for scale in scales]
    assert together.iterations.tolist() == [int(run.iterations) for run in alone]
    assert together.iterations[0] == 2
    assert together.iterations[3] == 9
    assert together.converged.tolist() == [True, True, True, False]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`guess` must be \[T, H\] for a `start` \[H\], got shapes \(12, 3\) and"):
        newton_in_time(step, jnp.zeros(2), XS, jnp.zeros((12, 3)))
    with pytest.raises(ValueError, match="`max_iterations` must be an integer of at least 1, got int 0"):
        newton_in_time(step, jnp.zeros(3), XS, jnp.zeros((12, 3)), max_iterations=0)
