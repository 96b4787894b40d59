"""Output heads against enumeration and float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.heads import bernoulli_head, chain_head


def random_params(head, input_size: int, seed: int):
    params = head.init(jax.random.key(seed), input_size)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [leaf + 0.5 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def chain_oracle(params, h: np.ndarray, y: tuple[int, ...], num_classes: int) -> float:
    """The equations of the docstring, one variable after another."""
    w_h, w_y, b, w_o, b_o = (np.asarray(leaf, np.float64) for leaf in params)
    units = w_o.shape[1]
    total = 0.0
    for n in range(len(y)):
        block = slice(n * units, (n + 1) * units)
        hidden = h @ w_h[:, block] + b[block]
        for m in range(n):
            hidden = hidden + w_y[m * num_classes + y[m], block]
        logits = np.maximum(hidden, 0) @ w_o[n] + b_o[n]
        total += logits[y[n]] - np.log(np.exp(logits).sum())
    return total


def test_the_chain_equals_its_equations_for_every_outcome_and_sums_to_one() -> None:
    head = chain_head(3, 4, hidden_size=5)
    params = random_params(head, 6, seed=0)
    h = jax.random.normal(jax.random.key(9), (6,))
    outcomes = np.array(list(itertools.product(range(4), repeat=3)))
    got = head.log_prob(params, jnp.broadcast_to(h, (len(outcomes), 6)), jnp.asarray(outcomes))
    expected = [chain_oracle(params, np.asarray(h, np.float64), tuple(y), 4) for y in outcomes]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.exp(np.asarray(got, np.float64)).sum(), 1.0, rtol=1e-5)


def test_samples_of_the_chain_have_its_probabilities() -> None:
    head = chain_head(2, 3, hidden_size=4)
    params = random_params(head, 2, seed=3)
    h = jnp.array([0.3, -1.1])
    keys = jax.random.split(jax.random.key(0), 20_000)
    for temperature in (1.0, 0.5):
        samples = np.asarray(jax.jit(jax.vmap(lambda k, t=temperature: head.sample(params, k, h, t)))(keys))
        counts = np.zeros((3, 3))
        np.add.at(counts, tuple(samples.T), 1)
        outcomes = jnp.array(list(itertools.product(range(3), repeat=2)))
        p = np.exp(head.log_prob(params, jnp.broadcast_to(h, (9, 2)), outcomes)).reshape(3, 3)
        if temperature != 1.0:  # each factor is sharpened on its own
            first = p.sum(1) ** 2 / (p.sum(1) ** 2).sum()
            rest = p**2 / (p**2).sum(1, keepdims=True)
            p = first[:, None] * rest
        np.testing.assert_allclose(counts / len(keys), p, atol=0.015)


def test_later_classes_do_not_change_earlier_factors() -> None:
    head = chain_head(3, 4, hidden_size=5)
    params = random_params(head, 6, seed=1)
    gradient = jax.grad(lambda p: head.log_prob(p, jnp.ones(6), jnp.array([1, 2, 3])))(params)
    blocks = np.asarray(gradient.w_y).reshape(3, 4, 3, 5)
    for m in range(3):
        for n in range(m + 1):
            assert (blocks[m, :, n] == 0).all()
    assert np.abs(blocks[0, 1, 1:]).sum() > 0


def test_independent_bits_equal_the_product_of_sigmoids() -> None:
    head = bernoulli_head(3)
    params = random_params(head, 2, seed=2)
    h = np.array([0.7, -0.2], np.float32)
    p = 1 / (1 + np.exp(-(h.astype(np.float64) @ np.asarray(params.w, np.float64) + np.asarray(params.b))))
    outcomes = np.array(list(itertools.product((0, 1), repeat=3)))
    expected = np.log(np.where(outcomes == 1, p, 1 - p)).sum(1)
    got = head.log_prob(params, jnp.broadcast_to(h, (8, 2)), jnp.asarray(outcomes))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    keys = jax.random.split(jax.random.key(5), 20_000)
    samples = jax.vmap(lambda k: head.sample(params, k, jnp.asarray(h)))(keys)
    np.testing.assert_allclose(np.asarray(samples, np.float64).mean(0), p, atol=0.015)


def test_confident_wrong_logits_stay_finite() -> None:
    head = bernoulli_head(1)
    params = head.init(jax.random.key(0), 1)._replace(w=jnp.full((1, 1), 300.0))
    value, gradient = jax.value_and_grad(lambda p: head.log_prob(p, jnp.ones(1), jnp.array([0])))(params)
    assert value == -300.0
    assert jnp.isfinite(gradient.w).all()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`num_outputs` must be an integer of at least 1, got int 0"):
        bernoulli_head(0)
    with pytest.raises(ValueError, match=r"`num_classes` must be an integer"):
        chain_head(2, -1, 4)
    with pytest.raises(ValueError, match=r"`key` must be a PRNG key"):
        chain_head(2, 3, 4).init(0, 3)
    head = bernoulli_head(3)
    with pytest.raises(ValueError, match=r"`targets` must have 3 features on its last axis, got shape \(5, 2\)"):
        head.log_prob(head.init(jax.random.key(0), 4), jnp.zeros((5, 4)), jnp.zeros((5, 2), jnp.int32))
