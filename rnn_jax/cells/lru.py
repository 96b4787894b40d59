"""The linear recurrent unit: complex diagonal, stable by its parameterisation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import normal, ring
from rnn_jax.products import align, product
from rnn_jax.tree import wide
from rnn_jax.types import Array, LinearCell


class LRUParams(NamedTuple):
    """Parameters of `lru`; complex kernels are kept as real and imaginary parts."""

    nu_log: Array  # [N]
    theta_log: Array  # [N]
    gamma_log: Array  # [N]
    b_re: Array  # [I, N]
    b_im: Array  # [I, N]
    c_re: Array  # [N, H]
    c_im: Array  # [N, H]
    d: Array  # [H] if I == H, else [I, H]


@constructor
def lru(
    hidden_size: int,
    *,
    state_size: int | None = None,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 6.28,
) -> LinearCell:
    """The linear recurrent unit.

        lambda = exp(-exp(nu_log) + i exp(theta_log))
        h' = lambda h + exp(gamma_log) (x B)        h complex [N]
        y = Re(h C) + D x

    Args:
        hidden_size: H, the size of the output.
        state_size: N, the number of complex units; H by default.
        r_min, r_max: the ring on which |lambda| starts. Long memory wants r_min near 1, such as 0.9.
        max_phase: the largest initial phase in radians; small values (pi / 10) for very long sequences.

    Returns:
        A linear cell with carry h [B, N] complex and output y [B, H].

    Notes:
        D is diagonal where the input has H features, as published, and a matrix otherwise. The gain
        `gamma = sqrt(1 - |lambda|^2)` is a trained parameter that starts at that value.

    References:
        Orvieto et al., Resurrecting recurrent neural networks for long sequences, 2023, arXiv:2303.06349.
    """
    checks.positive("hidden_size", hidden_size)
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(f"`r_min` and `r_max` must satisfy 0 <= r_min < r_max <= 1, got {r_min} and {r_max}")
    n = hidden_size if state_size is None else state_size
    checks.positive("state_size", n)

    def init(key: Array, input_size: int) -> LRUParams:
        ring_key, b_key, c_key, d_key = jax.random.split(key, 4)
        nu_log, theta_log = ring(ring_key, n, r_min, r_max, max_phase)
        b = normal((2 * input_size) ** -0.5)(b_key, (2, input_size, n))
        c = normal(n**-0.5)(c_key, (2, n, hidden_size))
        return LRUParams(
            nu_log=nu_log,
            theta_log=theta_log,
            gamma_log=0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu_log))),
            b_re=b[0],
            b_im=b[1],
            c_re=c[0],
            c_im=c[1],
            d=init_skip(d_key, input_size, hidden_size),
        )

    def init_carry(params: LRUParams, batch_shape: tuple[int, ...] = ()) -> Array:
        real = jnp.zeros((*batch_shape, n), wide(params.nu_log.dtype))
        return jax.lax.complex(real, real)

    def elements(params: LRUParams, xs: Array) -> tuple[Array, Array]:
        u_re, u_im = product(xs, params.b_re), product(xs, params.b_im)
        gamma = jnp.exp(align(params.gamma_log, u_re))
        radius = jnp.exp(-jnp.exp(align(params.nu_log, u_re)))
        phase = jnp.exp(align(params.theta_log, u_re))
        a = jax.lax.complex(radius * jnp.cos(phase), radius * jnp.sin(phase))
        return jnp.broadcast_to(a, u_re.shape), jax.lax.complex(gamma * u_re, gamma * u_im)

    def readout(params: LRUParams, hs: Array, xs: Array) -> Array:
        ys = real_product(hs, params.c_re, params.c_im, xs.dtype) + skip(xs, params.d)
        return ys.astype(xs.dtype)

    return LinearCell(init=init, init_carry=init_carry, elements=elements, readout=readout)


def init_skip(key: Array, input_size: int, output_size: int) -> Array:
    """The skip D of a state space layer: a normal diagonal where the sizes agree, else a matrix."""
    if input_size == output_size:
        return normal(1.0)(key, (output_size,))
    return normal(input_size**-0.5)(key, (input_size, output_size))


def skip(xs: Array, d: Array) -> Array:
    """D x: [..., I] -> [..., H], at least float32."""
    if d.ndim == 2:
        return product(xs, d)
    xs = xs.astype(wide(xs.dtype))
    return xs * align(d, xs)


def real_product(hs: Array, c_re: Array, c_im: Array, dtype: jnp.dtype) -> Array:
    """Re(h C) for complex h [..., N], as two real products with operands in `dtype`: [..., H]."""
    return product(hs.real.astype(dtype), c_re) - product(hs.imag.astype(dtype), c_im)
