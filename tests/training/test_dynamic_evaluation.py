"""Dynamic evaluation against its equations in a Python loop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.metrics import Mean
from rnn_jax.training import dynamic_evaluation, gradient_rms

RNG = np.random.default_rng(0)
WINDOWS = jnp.asarray(RNG.normal(size=(5, 3, 2)), jnp.float32)  # S windows of T steps
PARAMS = {"a": jnp.asarray([0.3, -0.2]), "b": jnp.asarray(0.1)}


def judge(params: Any, carry: jax.Array, window: jax.Array) -> tuple[jax.Array, Mean]:
    """A leaky sum that should stay at zero; the count differs from window to window."""
    total = jnp.zeros(())
    for x in window:
        carry = jnp.tanh(carry * params["b"] + (params["a"] * x).sum())
        total = total + (carry - 0.5) ** 2
    return carry, Mean(total, jnp.asarray(3.0))


def gradients(params: Any, carry: jax.Array, window: jax.Array) -> tuple[Any, jax.Array, float]:
    def mean(params: Any) -> jax.Array:
        pair = judge(params, carry, window)[1]
        return jnp.asarray(pair.total) / pair.count

    after, pair = judge(params, carry, window)
    return jax.grad(mean)(params), after, float(pair.total)


def test_the_scale_is_the_root_mean_square_of_gradients() -> None:
    carry, squares = jnp.zeros(()), []
    for window in WINDOWS:
        grads, carry, _ = gradients(PARAMS, carry, window)
        squares.append(jax.tree.map(lambda g: np.asarray(g, np.float64) ** 2, grads))
    expected = jax.tree.map(lambda *leaves: np.sqrt(np.mean(leaves, axis=0)), *squares)
    got = jax.jit(lambda: gradient_rms(judge, PARAMS, jnp.zeros(()), WINDOWS))()
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_each_window_is_judged_before_it_is_learned_from(scaled: bool) -> None:
    rms = {"a": jnp.asarray([0.2, 1.5]), "b": jnp.asarray(0.4)} if scaled else None
    mean = float(np.mean([0.2, 1.5, 0.4]))
    rate, decay = 0.05, 0.3
    params, carry, total = PARAMS, jnp.zeros(()), 0.0
    for window in WINDOWS:
        grads, carry, value = gradients(params, carry, window)
        total += value

        def update(p: Any, g: Any, p0: Any, r: Any = None) -> Any:
            if r is None:
                return p - rate * g + decay * (p0 - p)
            return p - rate * g / (r + 1e-5) + np.minimum(decay * r / np.float32(mean), np.float32(1)) * (p0 - p)

        params = jax.tree.map(update, params, grads, PARAMS, *([rms] if scaled else []))
    evaluate = jax.jit(
        lambda rate, decay: dynamic_evaluation(
            judge, PARAMS, jnp.zeros(()), WINDOWS, learning_rate=rate, decay=decay, rms=rms
        )
    )
    pair, last = evaluate(rate, decay)
    assert float(pair.total) == pytest.approx(total, rel=1e-5)
    assert float(pair.count) == 15
    for one, other in zip(jax.tree.leaves(last), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    still, kept = evaluate(0.0, 0.0)
    static = sum(float(judge(PARAMS, c, w)[1].total) for c, w in zip(_carries(), WINDOWS, strict=True))
    assert float(still.total) == pytest.approx(static, rel=1e-5)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(PARAMS), strict=True))


def _carries() -> list[jax.Array]:
    carries = [jnp.zeros(())]
    for window in WINDOWS[:-1]:
        carries.append(judge(PARAMS, carries[-1], window)[0])
    return carries
