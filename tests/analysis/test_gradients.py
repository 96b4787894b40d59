"""Gradients at every step against automatic differentiation of unrolled loops, and products of Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import gru, lstm, stack, stream_step
from rnn_jax.analysis import carry_gradients, forgetting, jacobian_products, row_norms
from rnn_jax.analysis.vectors import as_vector

pytestmark = pytest.mark.usefixtures("x64")
T = 6


def network(cell, batch: tuple[int, ...] = ()):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(jax.random.key(0), 2))
    carry = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) + 0.1, cell.init_carry(params, batch))
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(T, *batch, 2)))
    return (lambda h, x: stream_step(cell, params, h, x)[0]), carry, xs


@pytest.mark.parametrize("cell", [gru(3), stack(lstm(2), gru(2))], ids=["gru", "stack"])
def test_every_step_has_the_gradient_of_a_loop_started_there(cell) -> None:
    step, carry, xs = network(cell, (2,))

    def loss(hs):
        return sum(
            (jnp.arange(1.0, T + 1).reshape(T, *([1] * (leaf.ndim - 1))) * leaf**2).sum()
            for leaf in jax.tree.leaves(hs)
        )

    got = jax.jit(lambda carry, xs: carry_gradients(step, carry, xs, loss))(carry, xs)
    states = [carry]
    for x in xs:
        states.append(step(states[-1], x))

    def later(h, t):
        """What of the loss depends on h_t."""
        hs = [h] if t else []
        for x in xs[t:]:
            h = step(h, x)
            hs.append(h)
        first = max(t, 1)
        return sum((first + number) * (leaf**2).sum() for number, one in enumerate(hs) for leaf in jax.tree.leaves(one))

    for t in range(T + 1):
        expected = jax.grad(later)(states[t], t)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one[t], other, rtol=1e-10, atol=1e-12)
    norms = row_norms(got, 2)
    for one, leaf in zip(jax.tree.leaves(norms), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(one, np.linalg.norm(leaf, axis=-1), rtol=1e-12)


@pytest.mark.parametrize("cell", [gru(3), lstm(2)], ids=["gru", "lstm"])
def test_products_have_the_singular_values_of_the_whole_map(cell) -> None:
    step, carry, xs = network(cell)
    got = jax.jit(lambda carry, xs: jacobian_products(step, carry, xs))(carry, xs)
    v, back = as_vector(carry)
    states = [v]
    for x in xs:
        states.append(as_vector(step(back(states[-1]), x))[0])

    def last(v, t):
        for x in xs[t:]:
            v = as_vector(step(back(v), x))[0]
        return v

    for t in range(T + 1):
        jacobian = np.asarray(jax.jacrev(last)(states[t], t))
        values = np.linalg.svd(jacobian, compute_uv=False)
        np.testing.assert_allclose(np.exp(got.log_singular_values[t]), values, rtol=1e-8, atol=1e-13)
        assert float(got.log_norm[t]) == pytest.approx(np.log(np.linalg.norm(jacobian) / np.sqrt(len(v))), abs=1e-9)
        assert float(got.condition[t]) == pytest.approx(values[0] / values[-1], rel=1e-3)


def test_products_beyond_the_range_of_numbers_are_right() -> None:
    products = jacobian_products(lambda h, x: 0.001 * h, jnp.ones(2), jnp.zeros((400, 1)))
    assert float(products.log_norm[0]) == pytest.approx(400 * np.log(0.001))
    gone = jacobian_products(lambda h, x: jnp.zeros(2) + x, jnp.ones(2), jnp.zeros((3, 1)))
    assert (np.asarray(gone.log_norm[:3]) == -np.inf).all()


def test_two_starts_come_together_as_a_loop_says() -> None:
    step, carry, xs = network(gru(3))
    distances = jax.jit(lambda a, b: forgetting(step, a, b, xs))(carry, -carry)
    a, b, expected = carry, -carry, [np.linalg.norm(2 * carry)]
    for x in xs:
        a, b = step(a, x), step(b, x)
        expected.append(np.linalg.norm(a - b))
    np.testing.assert_allclose(distances, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="`other` must have as many numbers as `carry`, 3, got 4"):
        forgetting(step, carry, jnp.ones(4), xs)
