"""Initial values against their definitions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from rnn_jax import initializers, lstm
from rnn_jax.initializers import Gate

KEY = jax.random.key(0)
GATES = (Gate("i", "write"), Gate("f", "keep"), Gate("g"))


def test_orthogonal_kernels_are_orthogonal_gate_by_gate() -> None:
    w = np.asarray(initializers.per_gate(initializers.orthogonal, KEY, 6, 6, gates=3))
    blocks = np.split(w, 3, axis=-1)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(6), atol=1e-5)
    assert np.abs(blocks[0] - blocks[1]).max() > 0.1
    tall = initializers.orthogonal(KEY, (5, 3))
    np.testing.assert_allclose(tall.T @ tall, np.eye(3), atol=1e-5)


def test_kernels_have_the_variance_that_their_names_promise() -> None:
    shape = (300, 100)
    np.testing.assert_allclose(np.var(initializers.lecun_normal(KEY, shape)), 1 / 300, rtol=0.05)
    np.testing.assert_allclose(np.var(initializers.glorot_uniform(KEY, shape)), 2 / 400, rtol=0.05)
    np.testing.assert_allclose(np.std(initializers.normal(0.3)(KEY, shape)), 0.3, rtol=0.05)
    values = initializers.uniform(-1.0, 3.0)(KEY, shape)
    assert -1 <= values.min() < -0.99
    assert 2.99 < values.max() < 3


def test_per_gate_draws_windows_for_convolutions() -> None:
    w = initializers.per_gate(initializers.lecun_normal, KEY, (3, 3, 8), 16, gates=2)
    assert w.shape == (3, 3, 8, 32)
    np.testing.assert_allclose(np.var(w), 1 / 72, rtol=0.1)


def test_identity_is_scaled_and_may_be_oblong() -> None:
    np.testing.assert_array_equal(initializers.identity(0.5)(KEY, (2, 3)), [[0.5, 0, 0], [0, 0.5, 0]])


def test_initialisers_with_equal_arguments_are_one_object() -> None:
    assert initializers.identity(0.5) is initializers.identity(0.5)
    assert initializers.chrono(50.0) is initializers.chrono(50.0)


def test_forget_bias_knows_the_role_of_each_gate() -> None:
    np.testing.assert_array_equal(initializers.forget_bias(2.0)(KEY, GATES, 2), [0, 0, 2, 2, 0, 0])
    only_write = (Gate("f", "write"), Gate("n"))
    np.testing.assert_array_equal(initializers.unit_forget_bias(KEY, only_write, 2), [-1, -1, 0, 0])
    np.testing.assert_array_equal(initializers.zero_bias(KEY, GATES, 2), np.zeros(6))


def test_chrono_spreads_memory_times_up_to_the_longest() -> None:
    size, t_max = 20_000, 100.0
    write, keep, other = np.split(np.asarray(initializers.chrono(t_max)(KEY, GATES, size), np.float64), 3)
    np.testing.assert_array_equal(write, -keep)
    assert not other.any()
    assert 0 <= keep.min()
    assert keep.max() <= np.log(t_max - 1)
    # With a forget gate f, memory decays as f^t: its time is 1 / (1 - f).
    times = 1 / (1 - 1 / (1 + np.exp(-keep)))
    quantiles = np.quantile(times, [0.1, 0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(quantiles, 2 + (t_max - 2) * np.array([0.1, 0.25, 0.5, 0.75, 0.9]), rtol=0.04)
    with pytest.raises(ValueError, match="`t_max` must be above 2 steps, got 2"):
        initializers.chrono(2)


def test_ring_is_uniform_by_area_between_its_radii_with_bounded_phases() -> None:
    nu_log, theta_log = initializers.ring(KEY, 20_000, 0.4, 0.9, 1.5)
    eigenvalues = np.exp(-np.exp(np.asarray(nu_log, np.float64)) + 1j * np.exp(np.asarray(theta_log, np.float64)))
    radii, phases = np.abs(eigenvalues), np.angle(eigenvalues)
    assert 0.4 <= radii.min()
    assert radii.max() <= 0.9 + 1e-6
    assert 0 <= phases.min()
    assert phases.max() <= 1.5 + 1e-6
    share = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(np.quantile(radii**2, share), 0.16 + share * (0.81 - 0.16), rtol=0.03)
    np.testing.assert_allclose(np.quantile(phases, share), share * 1.5, rtol=0.05)
    assert all(np.isfinite(part).all() for part in initializers.ring(KEY, 1000, 0.0, 1.0, 6.28))


def test_hippo_equals_an_eigendecomposition_of_the_explicit_matrix() -> None:
    size = 8
    normal = np.zeros((size, size))
    for n in range(size):
        for k in range(size):
            if n > k:
                normal[n, k] = -np.sqrt((2 * n + 1) * (2 * k + 1))
            elif n == k:
                normal[n, k] = -(n + 1)
            normal[n, k] += np.sqrt((n + 0.5) * (k + 0.5))
    np.testing.assert_allclose(normal @ normal.T, normal.T @ normal, atol=1e-9)
    expected = scipy.linalg.eigvals(normal)
    eigenvalues, v = initializers.hippo_legs(size)
    whole = np.concatenate([eigenvalues, eigenvalues.conj()])
    np.testing.assert_allclose(np.sort(whole.imag), np.sort(expected.imag), atol=1e-9)
    np.testing.assert_allclose(whole.real, -0.5, atol=1e-9)
    assert (eigenvalues.imag > 0).all()
    np.testing.assert_allclose(normal @ v, v * eigenvalues, atol=1e-9)
    np.testing.assert_allclose(v.conj().T @ v, np.eye(size // 2), atol=1e-9)
    with pytest.raises(ValueError, match="`size` must be even, got 3"):
        initializers.hippo_legs(3)


@pytest.mark.parametrize("size", [6, 7])
def test_henaff_rotates_each_pair_of_units_by_its_own_angle(size: int) -> None:
    upper = np.asarray(initializers.henaff(KEY, size), np.float64)
    w = scipy.linalg.expm(upper - upper.T)
    np.testing.assert_allclose(w @ w.T, np.eye(size), atol=1e-12)
    angles = upper[np.arange(0, size - 1, 2), np.arange(1, size, 2)]
    assert len(set(angles)) == size // 2
    assert np.abs(angles).max() <= np.pi
    expected = np.eye(size)
    for pair, angle in enumerate(angles):
        block = slice(2 * pair, 2 * pair + 2)
        expected[block, block] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    np.testing.assert_allclose(w, expected, atol=1e-12)
    spread = np.asarray(initializers.henaff(KEY, 4000)).sum(1)[::2]
    np.testing.assert_allclose(np.quantile(spread, [0.1, 0.5, 0.9]) / np.pi, [-0.8, 0, 0.8], atol=0.06)


def test_initialisers_follow_the_dtype_that_is_asked_for() -> None:
    assert initializers.uniform(0.0, 1.0)(KEY, (2, 2), jnp.bfloat16).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        assert initializers.per_gate(initializers.lecun_normal, KEY, 2, 2).dtype == jnp.float64
        assert initializers.ring(KEY, 2, 0.0, 1.0, 6.28)[0].dtype == jnp.float64


def test_many_orthogonal_kernels_are_made_one_at_a_time() -> None:
    # jax < 0.11 hands batches of factorisations to the threads that wait for them: two at once can hang for ever.
    def factorised(jaxpr: Any) -> list[int]:
        ranks = []
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("geqrf", "qr", "householder_product"):
                ranks.append(max(variable.aval.ndim for variable in equation.invars))
            for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "jaxpr")):
                ranks += factorised(inner.jaxpr) if hasattr(inner, "jaxpr") else []
        return ranks

    keys = jax.random.split(jax.random.key(0), 3)
    init = lambda key: lstm(4).init(key, 2).w_h  # noqa: E731
    ranks = factorised(jax.make_jaxpr(jax.vmap(init))(keys).jaxpr)
    assert ranks
    assert set(ranks) == {2}
    assert factorised(jax.make_jaxpr(jax.vmap(jnp.linalg.qr))(jnp.ones((3, 2, 2))).jaxpr)[0] == 3
    alone = jnp.stack([init(key) for key in keys])
    assert jnp.abs(jax.jit(jax.vmap(init))(keys) - alone).max() < 1e-6
