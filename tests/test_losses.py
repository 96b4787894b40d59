"""Losses against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.losses import token_nll


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_token_nll_equals_a_loop(x64: None, smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(3, 2, 5)) * 3, rng.integers(0, 5, (3, 2))

    def slow(logits: np.ndarray) -> np.ndarray:
        out = np.zeros((3, 2))
        for t, b in np.ndindex(3, 2):
            p = np.exp(logits[t, b]) / np.exp(logits[t, b]).sum()
            wanted = np.full(5, smoothing / 5)
            wanted[targets[t, b]] += 1 - smoothing
            out[t, b] = -(wanted * np.log(p)).sum()
        return out

    ours = token_nll(jnp.asarray(logits), jnp.asarray(targets), smoothing=smoothing)
    np.testing.assert_allclose(ours, slow(logits), rtol=1e-12)
    grads = jax.grad(lambda z: token_nll(z, jnp.asarray(targets), smoothing=smoothing).sum())(jnp.asarray(logits))
    bumps = np.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        step = np.zeros_like(logits)
        step[index] = 1e-6
        bumps[index] = (slow(logits + step).sum() - slow(logits - step).sum()) / 2e-6
    np.testing.assert_allclose(grads, bumps, atol=1e-8)


def test_low_precision_is_summed_in_float32() -> None:
    loss = token_nll(jnp.zeros((2, 7), jnp.bfloat16), jnp.array([0, 6]))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)


def test_targets_must_fit() -> None:
    with pytest.raises(ValueError, match=r"`targets` must be integers \(3, 2\), got int32 of shape \(2, 3\)"):
        token_nll(jnp.zeros((3, 2, 5)), jnp.zeros((2, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"`targets` must be integers \(3,\), got float32 of shape \(3,\)"):
        token_nll(jnp.zeros((3, 5)), jnp.zeros(3))
