"""Lyapunov spectra against closed forms and a float64 NumPy loop."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma

from rnn_jax import elman, gru, lru, lstm, stack, stream_step
from rnn_jax.analysis import flossing_penalty, kaplan_yorke_dimension, lyapunov_spectrum
from rnn_jax.analysis.vectors import as_vector

pytestmark = pytest.mark.usefixtures("x64")


def test_a_linear_map_has_the_moduli_of_its_eigenvalues() -> None:
    w = np.random.default_rng(0).normal(size=(5, 5)) / 4
    spectrum = jax.jit(lambda w: lyapunov_spectrum(lambda h: w @ h, jnp.ones(5), num_steps=4000, burn_in=200))(w)
    expected = np.sort(np.log(np.abs(np.linalg.eigvals(w))))[::-1]
    np.testing.assert_allclose(spectrum.exponents, expected, atol=2e-3)
    assert bool(spectrum.finite)


def test_random_matrices_have_newmans_exponents() -> None:
    size, gain, steps = 8, 0.7, 6000
    w = jax.random.normal(jax.random.key(0), (steps, size, size)) * gain / math.sqrt(size)
    spectrum = jax.jit(lambda w: lyapunov_spectrum(lambda h, w: w @ h, jnp.ones(size), w))(w)
    order = np.arange(1, size + 1)
    expected = math.log(gain) + (math.log(2 / size) + digamma((size - order + 1) / 2)) / 2
    assert (np.abs(spectrum.exponents - expected) < 4 * np.asarray(spectrum.errors) + 1e-3).all()
    np.testing.assert_allclose(spectrum.exponents, expected, atol=0.03)


def test_henon_contracts_as_its_determinant() -> None:
    def henon(h):
        x, y = h
        return jnp.stack([1 - 1.4 * x**2 + y, 0.3 * x])

    spectrum = jax.jit(lambda h: lyapunov_spectrum(henon, h, num_steps=20_000, burn_in=100))(jnp.array([0.1, 0.1]))
    assert float(spectrum.exponents.sum()) == pytest.approx(math.log(0.3), abs=1e-9)
    assert float(spectrum.exponents[0]) == pytest.approx(0.419, abs=0.01)
    assert float(kaplan_yorke_dimension(spectrum.exponents)) == pytest.approx(1.26, abs=0.01)


@pytest.mark.parametrize(
    "cell",
    [elman(3), gru(3), lstm(3), lru(2), stack(gru(2), lstm(2))],
    ids=["elman", "gru", "lstm", "lru", "stack"],
)
def test_cells_agree_with_a_loop(cell) -> None:
    rng = np.random.default_rng(1)
    xs = jnp.asarray(rng.normal(size=(60, 2)))
    params = jax.tree.map(
        lambda leaf: leaf.astype(jnp.complex128 if jnp.iscomplexobj(leaf) else jnp.float64),
        cell.init(jax.random.key(2), 2),
    )
    carry = jax.tree.map(
        lambda leaf: leaf.astype(jnp.complex128 if jnp.iscomplexobj(leaf) else jnp.float64),
        cell.init_carry(params, ()),
    )

    def step(h, x):
        return stream_step(cell, params, h, x)[0]

    spectrum = jax.jit(lambda carry, xs: lyapunov_spectrum(step, carry, xs, burn_in=10))(carry, xs)
    v, back = as_vector(carry)
    jacobian = jax.jit(jax.jacfwd(lambda v, x: as_vector(step(back(v), x))[0]))
    advance = jax.jit(lambda v, x: as_vector(step(back(v), x))[0])
    q = np.linalg.qr(np.asarray(jax.random.normal(jax.random.key(0), (len(v), len(v)))))[0]
    growth, determinants = [], []
    for x in xs:
        j = np.asarray(jacobian(v, x))
        q, r = np.linalg.qr(j @ q)
        growth.append(np.log(np.abs(np.diagonal(r))))
        determinants.append(np.linalg.slogdet(j)[1])
        v = advance(v, x)
    np.testing.assert_allclose(spectrum.growth, growth[10:], atol=1e-8)
    assert float(spectrum.exponents.sum()) == pytest.approx(np.mean(determinants[10:]), rel=1e-9)
    for one, other in zip(jax.tree.leaves(spectrum.carry), jax.tree.leaves(back(v)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_fewer_exponents_are_the_largest_ones() -> None:
    w = jnp.diag(jnp.array([0.9, 0.5, 0.2])) + jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    spectrum = lyapunov_spectrum(lambda h: w @ h, jnp.ones(3), num_steps=3000, burn_in=100, num_exponents=2)
    np.testing.assert_allclose(spectrum.exponents, np.log([0.9, 0.5]), atol=2e-3)


def test_the_flossing_penalty_has_the_gradient_of_finite_differences() -> None:
    w = jnp.asarray(np.random.default_rng(3).normal(size=(4, 4)) / 2)

    def penalty(w):
        return flossing_penalty(lambda h: jnp.tanh(w @ h), jnp.linspace(0.1, 0.4, 4), num_steps=6, num_exponents=2)

    gradient = jax.jit(jax.grad(penalty))(w)
    value = jax.jit(penalty)
    for place in [(0, 0), (1, 3), (3, 2)]:
        shift = jnp.zeros((4, 4)).at[place].set(1e-6)
        slope = (value(w + shift) - value(w - shift)) / 2e-6
        assert float(gradient[place]) == pytest.approx(float(slope), rel=1e-5)


def test_what_has_no_exponents_says_so() -> None:
    blown = lyapunov_spectrum(lambda h: h * h * 10, jnp.full(2, 3.0), num_steps=50)
    assert not bool(blown.finite)
    assert np.isnan(blown.exponents).all()
    lost = lyapunov_spectrum(lambda h: jnp.stack([h[1], jnp.zeros(())]), jnp.ones(2), num_steps=20)
    assert (np.asarray(lost.exponents) == -np.inf).all()  # nilpotent: everything is forgotten
    short = lyapunov_spectrum(lambda h: h / 2, jnp.ones(2), num_steps=5)
    assert np.isnan(short.errors).all()


def test_bad_arguments_are_named() -> None:
    for match, options in (
        ("either `xs` or `num_steps` must be given, got none", {}),
        ("either `xs` or `num_steps` must be given, got both", {"xs": jnp.ones((3, 1)), "num_steps": 3}),
        ("`num_exponents` must be in .1, 2., the size of the carry, got 3", {"num_steps": 3, "num_exponents": 3}),
        ("`xs` must have one number of steps above `burn_in` = 3", {"xs": jnp.ones((3, 1)), "burn_in": 3}),
    ):
        with pytest.raises(ValueError, match=match):
            lyapunov_spectrum(lambda h, *x: h, jnp.ones(2), **options)
    with pytest.raises(ValueError, match="`carry` must be a tree of floating arrays"):
        lyapunov_spectrum(lambda h: h, jnp.ones(2, int), num_steps=3)
