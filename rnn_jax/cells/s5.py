"""S5: a diagonal state space layer started at HiPPO-LegS."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.cells.lru import init_skip, real_product, skip
from rnn_jax.initializers import hippo_legs, lecun_normal, normal
from rnn_jax.products import align, product
from rnn_jax.tree import wide
from rnn_jax.types import Array, LinearCell


class S5Params(NamedTuple):
    """Parameters of `s5`; complex arrays are kept as real and imaginary parts."""

    lambda_re: Array  # [N]
    lambda_im: Array  # [N]
    log_step: Array  # [N]
    b_re: Array  # [I, N]
    b_im: Array  # [I, N]
    c_re: Array  # [N, H]
    c_im: Array  # [N, H]
    d: Array  # [H] if I == H, else [I, H]


@constructor
def s5(hidden_size: int, *, state_size: int | None = None, dt_min: float = 0.001, dt_max: float = 0.1) -> LinearCell:
    """The simplified state space layer, discretised by zero-order hold.

        Delta = exp(log_step)
        a = exp(Lambda Delta)
        h' = a h + (a - 1) / Lambda (x B)        h complex [N]
        y = 2 Re(h C) + D x

    Each complex unit stands for a conjugate pair, hence the 2.

    Args:
        hidden_size: H, the size of the output.
        state_size: N, the number of complex units (conjugate pairs); H by default.
        dt_min, dt_max: bounds of the initial time steps, log-uniform.

    Returns:
        A linear cell with carry h [B, N] complex and output y [B, H].

    Notes:
        Lambda starts at the eigenvalues of the normal part of HiPPO-LegS of size 2N, and B and C are given in its
        basis of eigenvectors. The real part of Lambda is kept at or below -1e-4, so the layer stays stable. D is
        diagonal where the input has H features, and a matrix otherwise. The activation and norm of the published
        block are not part of the cell.

    References:
        Smith, Warrington & Linderman, Simplified state space layers for sequence modeling, 2023, arXiv:2208.04933.
    """
    checks.positive("hidden_size", hidden_size)
    n = hidden_size if state_size is None else state_size
    checks.positive("state_size", n)
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"`dt_min` and `dt_max` must satisfy 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")

    def init(key: Array, input_size: int) -> S5Params:
        step_key, b_key, c_key, d_key = jax.random.split(key, 4)
        eigenvalues, v = hippo_legs(2 * n)
        real_b = lecun_normal(b_key, (input_size, 2 * n))
        c = normal((2 * n) ** -0.5)(c_key, (2, 2 * n, hidden_size))
        v_re, v_im = (jnp.asarray(part, real_b.dtype) for part in (v.real, v.imag))
        low, high = np.log(dt_min), np.log(dt_max)
        return S5Params(
            lambda_re=jnp.asarray(eigenvalues.real, real_b.dtype),
            lambda_im=jnp.asarray(eigenvalues.imag, real_b.dtype),
            log_step=jax.random.uniform(step_key, (n,), real_b.dtype, low, high),
            b_re=real_b @ v_re,  # the rows of V^H are the conjugates of the columns of V
            b_im=-(real_b @ v_im),
            c_re=v_re.T @ c[0] - v_im.T @ c[1],
            c_im=v_re.T @ c[1] + v_im.T @ c[0],
            d=init_skip(d_key, input_size, hidden_size),
        )

    def init_carry(params: S5Params, batch_shape: tuple[int, ...] = ()) -> Array:
        real = jnp.zeros((*batch_shape, n), wide(params.lambda_re.dtype))
        return jax.lax.complex(real, real)

    def elements(params: S5Params, xs: Array) -> tuple[Array, Array]:
        u_re, u_im = product(xs, params.b_re), product(xs, params.b_im)
        real = jnp.minimum(align(params.lambda_re, u_re), -1e-4)
        imaginary = align(params.lambda_im, u_re)
        dt = jnp.exp(align(params.log_step, u_re))
        eigenvalue = jax.lax.complex(real, imaginary)
        exponent = jax.lax.complex(real * dt, imaginary * dt)
        gain = jnp.expm1(exponent) / eigenvalue
        return jnp.broadcast_to(jnp.exp(exponent), u_re.shape), gain * jax.lax.complex(u_re, u_im)

    def readout(params: S5Params, hs: Array, xs: Array) -> Array:
        ys = 2 * real_product(hs, params.c_re, params.c_im, xs.dtype) + skip(xs, params.d)
        return ys.astype(xs.dtype)

    return LinearCell(init=init, init_carry=init_carry, elements=elements, readout=readout)
