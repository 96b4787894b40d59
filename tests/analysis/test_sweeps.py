"""Sweeps against loops, and edited parameters against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import dense, elman, gru, lstm, mgu, s_lstm, stream_step, unroll
from rnn_jax.analysis import lyapunov_spectrum, sweep, with_forget_bias, with_gain, with_spectral_radius

KEY = jax.random.key(0)


def test_it_is_a_loop_over_values_and_seeds_in_one_program() -> None:
    traced = []

    def measure(key, gain, noise):
        traced.append(1)
        params = with_gain(elman(4).init(key, 2), gain)
        h0 = noise * jax.random.normal(key, (3, 4))
        carry, ys = unroll(elman(4), params, jnp.ones((5, 3, 2)), h0)
        return {"mean": ys.mean(), "carry": carry}

    found = sweep(measure, KEY, seeds=2, gain=[0.5, 1, 2.0], noise=(0.0, 0.3))
    assert len(traced) == 1
    assert found.results["mean"].shape == (3, 2, 2)
    assert found.results["carry"].shape == (3, 2, 2, 3, 4)
    assert found.axes["gain"].tolist() == [0.5, 1.0, 2.0]
    for i, j, seed in np.ndindex(3, 2, 2):
        one = measure(
            jax.random.fold_in(KEY, seed), *(jnp.float32(found.axes[n][k]) for n, k in (("gain", i), ("noise", j)))
        )
        np.testing.assert_allclose(found.results["mean"][i, j, seed], one["mean"], rtol=1e-5)
        np.testing.assert_allclose(found.results["carry"][i, j, seed], one["carry"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", [elman(5), gru(5), lstm(5)], ids=["elman", "gru", "lstm"])
def test_every_block_gets_the_radius(cell) -> None:
    params = cell.init(KEY, 2)
    params = params._replace(w_h=jax.random.normal(KEY, params.w_h.shape))
    changed = jax.jit(with_spectral_radius)(params, 1.3)
    blocks = np.split(np.asarray(changed.w_h, float), changed.w_h.shape[1] // 5, axis=1)
    radii = [np.abs(np.linalg.eigvals(block)).max() for block in blocks]
    np.testing.assert_allclose(radii, 1.3, rtol=1e-4)
    before = np.asarray(params.w_h[:, :5])
    np.testing.assert_allclose(blocks[0] / before, np.broadcast_to((blocks[0] / before)[0, 0], before.shape), rtol=1e-5)


@pytest.mark.parametrize("block", [np.zeros((3, 3)), np.triu(np.ones((3, 3)), 1)], ids=["zero", "nilpotent"])
def test_a_block_without_a_radius_is_not_scaled_to_something(block) -> None:
    params = elman(3).init(KEY, 2)._replace(w_h=jnp.asarray(block, jnp.float32))
    assert jnp.isnan(with_spectral_radius(params, 0.9).w_h).any()


@pytest.mark.parametrize(
    ("cell", "kept", "others"),
    [
        (lstm(2), slice(2, 4), 8),
        (lstm(2, coupled=True), slice(0, 2), 6),
        (lstm(4, projection=2, coupled=True), slice(0, 4), 12),
        (gru(2), slice(2, 4), 6),
        (s_lstm(2), slice(2, 4), 8),
    ],
    ids=["lstm", "coupled", "projected", "gru", "s_lstm"],
)
def test_the_gate_that_keeps_gets_the_bias_and_no_other(cell, kept, others) -> None:
    params = cell.init(KEY, 3)
    params = params._replace(b=jnp.arange(others, dtype=jnp.float32))
    b = with_forget_bias(params, 7.5).b
    expected = np.arange(others, dtype=np.float32)
    expected[kept] = 7.5
    np.testing.assert_array_equal(b, expected)


def test_where_no_gate_keeps_the_one_that_overwrites_is_shut() -> None:
    params = mgu(2).init(KEY, 3)
    assert with_forget_bias(params, 2.0).b.tolist() == [-2.0, -2.0, 0.0, 0.0]


def test_the_edge_of_chaos_in_one_call() -> None:
    cell = elman(64, recurrent_init=lambda key, shape, dtype: jax.random.normal(key, shape, dtype) / 8)

    def exponent(key, gain):
        params = with_gain(cell.init(key, 1), gain)
        step = lambda h, x: stream_step(cell, params, h, x)[0]  # noqa: E731
        h0 = jax.random.normal(key, (64,))
        return lyapunov_spectrum(step, h0, jnp.zeros((300, 1)), num_exponents=1, burn_in=100).exponents[0]

    found = sweep(exponent, KEY, seeds=3, gain=[0.5, 2.0]).results
    np.testing.assert_allclose(found[0], np.log(0.5), atol=0.15)
    assert (found[1] > 0.05).all()


def test_what_cannot_be_swept_is_named() -> None:
    with pytest.raises(ValueError, match="`gain` must be a list of real numbers, got "):
        sweep(lambda key, gain: gain, KEY, gain=[])
    with pytest.raises(ValueError, match="`values` must name at least one thing to sweep"):
        sweep(lambda key: key, KEY)
    with pytest.raises(ValueError, match="`seeds`"):
        sweep(lambda key, gain: gain, KEY, seeds=0, gain=[1.0])
    with pytest.raises(ValueError, match="`params` must have a recurrent kernel `w_h`"):
        with_gain(dense(2).init(KEY, 3), 2.0)
    with pytest.raises(
        ValueError, match=r"`params.w_h` must be \[H, G H\], one square block a gate, got shape \(3, 16\)"
    ):
        with_spectral_radius(lstm(4, projection=3).init(KEY, 2), 0.9)
    with pytest.raises(ValueError, match="`params` must be of a cell with a gate that keeps, got ElmanParams"):
        with_forget_bias(elman(2).init(KEY, 2), 1.0)
