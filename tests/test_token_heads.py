"""Distributions over tokens against float64 NumPy, enumeration and the full softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.token_heads import SoftmaxParams, adaptive_head, softmax_head

V, F = 11, 6
CUTOFFS = (3, 7)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def noisy(params):
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(5)
    return jax.tree.unflatten(structure, [jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


@pytest.fixture
def data() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(3)
    return jnp.asarray(rng.normal(size=(5, 4, F)), jnp.float32), jnp.asarray(rng.integers(0, V, (5, 4)), jnp.int32)


def test_the_full_softmax_is_its_equation(data) -> None:
    hs, targets = data
    head = softmax_head(V)
    params = noisy(head.init(jax.random.key(0), F))
    expected = log_softmax(np.asarray(hs, np.float64) @ np.asarray(params.w, np.float64) + np.asarray(params.b))
    np.testing.assert_allclose(head.log_probs(params, hs), expected, atol=2e-6)
    picked = -np.take_along_axis(expected, np.asarray(targets)[..., None], -1)[..., 0]
    for key in (None, jax.random.key(1)):  # nothing is sampled
        np.testing.assert_allclose(jax.jit(head.nll)(params, hs, targets, key), picked, atol=2e-6)


def test_the_sampled_softmax_is_its_equation(data) -> None:
    hs, targets = data
    head = softmax_head(V, num_sampled=7)
    params, key = noisy(head.init(jax.random.key(0), F)), jax.random.key(4)
    drawn = np.floor(np.exp(np.asarray(jax.random.uniform(key, (7,)), np.float64) * np.log(V + 1))).astype(int) - 1
    assert len(set(drawn.tolist())) > 3  # so that there is something to see

    def logit(h: np.ndarray, token: int) -> float:
        return h @ np.asarray(params.w, np.float64)[:, token] + float(params.b[token])

    got = jax.jit(head.nll)(params, hs, targets, key)
    for place in np.ndindex(targets.shape):
        h, y = np.asarray(hs[place], np.float64), int(targets[place])
        total = np.exp(logit(h, y))
        for token in drawn:
            if token != y:
                total += np.exp(logit(h, token)) / (7 * np.log(1 + 1 / (token + 1)) / np.log(V + 1))
        assert float(got[place]) == pytest.approx(np.log(total) - logit(h, y), abs=3e-6)


def test_the_gradient_of_many_samples_is_nearly_the_full_one(data) -> None:
    hs, targets = data
    head = softmax_head(V, num_sampled=4000)
    params = noisy(head.init(jax.random.key(0), F))
    grads = [
        jax.jit(jax.grad(lambda params, key: head.nll(params, hs, targets, key).mean()))(params, key)
        for key in (None, jax.random.key(2))
    ]
    np.testing.assert_allclose(grads[1].w, grads[0].w, atol=0.03 * float(jnp.abs(grads[0].w).max()))


def adaptive_oracle(params, h: np.ndarray, token: int) -> float:
    head, down, up = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), part) for part in params)
    first = log_softmax(h @ head)
    if token < CUTOFFS[0]:
        return first[token]
    k = sum(token >= cutoff for cutoff in CUTOFFS) - 1
    return first[CUTOFFS[0] + k] + log_softmax(h @ down[k] @ up[k])[token - CUTOFFS[k]]


@pytest.mark.parametrize("capacity", [None, 0.4, 1.0, 9.0])  # 0.4: too little room, all are worked out
def test_the_adaptive_softmax_is_its_equation(data, capacity: float | None) -> None:
    hs, targets = data
    head = adaptive_head(V, CUTOFFS, divide=2.0, capacity=capacity)
    params = noisy(head.init(jax.random.key(0), F))
    expected = [[adaptive_oracle(params, np.asarray(h, np.float64), v) for v in range(V)] for h in hs.reshape(-1, F)]
    expected = np.array(expected).reshape(5, 4, V)
    np.testing.assert_allclose(np.exp(expected).sum(-1), 1, atol=1e-12)
    np.testing.assert_allclose(head.log_probs(params, hs), expected, atol=5e-6)
    picked = -np.take_along_axis(expected, np.asarray(targets)[..., None], -1)[..., 0]
    np.testing.assert_allclose(jax.jit(head.nll)(params, hs, targets), picked, atol=5e-6)
    gradient = jax.jit(jax.grad(lambda params, hs: head.nll(params, hs, targets).sum(), argnums=(0, 1)))(params, hs)
    plain = jax.jit(
        jax.grad(
            lambda params, hs: -jnp.take_along_axis(head.log_probs(params, hs), targets[..., None], -1).sum(),
            argnums=(0, 1),
        )
    )(params, hs)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_bad_arguments_are_named(data) -> None:
    hs, _ = data
    for cutoffs in ((), (0, 3), (3, 3), (4, 2), (V,)):
        with pytest.raises(ValueError, match="`cutoffs` must rise within"):
            adaptive_head(V, cutoffs)
    with pytest.raises(ValueError, match="`capacity` must be above 0, got 0"):
        adaptive_head(V, CUTOFFS, capacity=0)
    with pytest.raises(ValueError, match="`num_sampled`"):
        softmax_head(V, num_sampled=0)
    for head in (softmax_head(V), adaptive_head(V, CUTOFFS)):
        with pytest.raises(ValueError, match=r"`targets` must be integers \(5, 4\)"):
            head.nll(head.init(jax.random.key(0), F), hs, jnp.zeros((5, 4)))
    assert SoftmaxParams._fields == ("w", "b")
