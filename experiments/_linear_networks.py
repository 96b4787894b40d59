"""Linear networks against what closed forms say of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import lru, stream_step
from rnn_jax.analysis import jacobian_products, lyapunov_spectrum
from rnn_jax.initializers import normal, orthogonal, ring

__all__ = ["Spectra", "exact_checks", "linear_spectra", "ring_gains"]

RING = (0.9, 0.99)
"""The radii that |lambda| lies between."""
GATES = {"gru": 3, "lstm": 4}


Spectra = dict[str, tuple[np.ndarray, np.ndarray]]
"""By name: exponents [N] of a linear network in falling order, and their closed form at (i + 1/2) / N."""


def ring_gains(size: int, num_steps: int, key: jax.Array) -> jax.Array:
    """How much larger the state of a linear recurrent unit is than what is put in, under white noise.

    Args:
        size: number N of eigenvalues on the ring.
        num_steps: of the input, the first quarter of which does not count.
        key: draws the unit and its input.

    Returns:
        E|h|^2 / E|B x|^2 [2]: without the normalisation of its input, and with it.
    """
    cell = lru(1, state_size=size, r_min=RING[0], r_max=RING[1])
    own_key, input_key = jax.random.split(key)
    params = cell.init(own_key, 16)
    plain = params._replace(gamma_log=jnp.zeros_like(params.gamma_log))
    xs = jax.random.normal(input_key, (num_steps, 8, 16))

    def gain(gamma_log: jax.Array) -> jax.Array:
        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            h = stream_step(cell, params._replace(gamma_log=gamma_log), h, x)[0]
            return h, jnp.stack([jnp.square(jnp.abs(one)).mean() for one in (h, cell.elements(plain, x)[1])])

        out, into = jax.lax.scan(step, cell.init_carry(params, (8,)), xs)[1][num_steps // 4 :].mean(0)
        return out / into

    return jax.lax.map(gain, jnp.stack([plain.gamma_log, params.gamma_log]))


def linear_spectra(size: int, num_steps: int, key: jax.Array) -> tuple[Spectra, dict[str, np.ndarray]]:
    """Exponents of linear networks h' = W h and what they are to be.

    Args:
        size: N, even.
        num_steps: that count, after as many that do not.
        key: draws the networks.

    Returns:
        The spectra, and by name ln |eigenvalues| of W [N], in falling order.
    """
    place = (np.arange(size) + 0.5) / size
    low, high = (radius**2 for radius in RING)
    forms = {
        "Gaussian": np.log(1 - place) / 2,
        "orthogonal": np.zeros(size),
        "ring": np.log(high - place * (high - low)) / 2,
    }

    @jax.jit
    def measure(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(key, 3)
        nu_log, theta_log = ring(keys[2], size // 2, *RING, 2 * jnp.pi)
        radius, phase = jnp.exp(-jnp.exp(nu_log)), jnp.exp(theta_log)
        re, im = radius * jnp.cos(phase), radius * jnp.sin(phase)
        turns = jnp.stack([re, -im, im, re], axis=-1).reshape(-1, 2, 2)
        kernels = jnp.stack(
            [
                normal(size**-0.5)(keys[0], (size, size)),
                orthogonal(keys[1], (size, size)),
                jax.scipy.linalg.block_diag(*turns),
            ]
        )

        def spectrum(w: jax.Array) -> jax.Array:
            return lyapunov_spectrum(lambda h: w @ h, jnp.ones(size), num_steps=num_steps, burn_in=num_steps).exponents

        return kernels, jax.lax.map(spectrum, kernels)

    kernels, exponents = (np.asarray(one) for one in measure(key))
    falling = lambda values: np.sort(values)[::-1]  # noqa: E731
    eigenvalues = {name: falling(np.log(np.abs(np.linalg.eigvals(w)))) for name, w in zip(forms, kernels, strict=True)}
    return {name: (falling(one), form) for (name, form), one in zip(forms.items(), exponents, strict=True)}, eigenvalues


def exact_checks(size: int, num_steps: int, key: jax.Array) -> tuple[dict[str, Any], Spectra]:
    """What closed forms say, measured.

    Args:
        size: units of linear networks; the ring has 256 times as many, fused kernels 4 times.
        num_steps: of each measurement.
        key: draws the networks.

    Returns:
        Metrics, and the spectra.
    """
    spectra, eigenvalues = linear_spectra(size, num_steps, key)

    @jax.jit
    def measure(key: jax.Array) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
        w = orthogonal(key, (size, size))
        products = jacobian_products(lambda h, x: w @ h, jnp.ones(size), jnp.zeros(max(1, num_steps // 5)))
        fused = [orthogonal(key, (4 * size, 4 * size * gates)) for gates in GATES.values()]
        return jnp.abs(products.log_singular_values).max(), ring_gains(256 * size, num_steps, key), fused

    largest, (plain, normalised), fused = measure(key)
    metrics = {
        "ring_gain": float(plain),
        "ring_gain_normalised": float(normalised),
        "orthogonal_largest_log": float(largest),
        "spectra_largest_error": max(float(np.abs(spectra[name][0] - eigenvalues[name]).max()) for name in spectra),
    }
    for (name, gates), kernel in zip(GATES.items(), fused, strict=True):
        radii = [np.abs(np.linalg.eigvals(block)).max() for block in np.split(np.asarray(kernel), gates, axis=1)]
        metrics[f"radius_fused_{name}"] = float(np.mean(radii))
    return metrics, spectra
