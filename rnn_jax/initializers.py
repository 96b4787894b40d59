"""Initial values: kernels, biases by the role of their gate, and the spectra of linear cells.

A kernel initialiser is `(key, shape, dtype) -> array`, the protocol of `jax.nn.initializers`; a cell applies it
to each gate on its own (`per_gate`), so an orthogonal recurrent kernel is orthogonal gate by gate, not as one fused
matrix (whose gates would have spectral radii of about 0.5). A bias initialiser is
`(key, gates, size, dtype) -> [len(gates) * size]` and knows what each gate does with the memory.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.types import Array

__all__ = [
    "Gate",
    "chrono",
    "forget_bias",
    "glorot_uniform",
    "henaff",
    "hippo_legs",
    "identity",
    "lecun_normal",
    "normal",
    "orthogonal",
    "per_gate",
    "ring",
    "uniform",
    "unit_forget_bias",
    "zero_bias",
]

KernelInit = Callable[..., Array]


class Gate(NamedTuple):
    """A block of the fused gate axis.

    Attributes:
        name: its letter in the equations.
        role: "keep" if a high value keeps the memory, "write" if it overwrites it, else "".
    """

    name: str
    role: Literal["keep", "write", ""] = ""


BiasInit = Callable[..., Array]


def per_gate(init: KernelInit, key: Array, rows: int | tuple[int, ...], columns: int, gates: int = 1) -> Array:
    """Draws `gates` independent kernels [rows, columns] side by side: [rows, gates * columns].

    `rows` may be several axes, `(*window, I)` for a convolution.

    Example:
        >>> w = per_gate(orthogonal, jax.random.key(0), 4, 4, gates=3)
        >>> bool(jnp.allclose(w[:, 4:8] @ w[:, 4:8].T, jnp.eye(4), atol=1e-5))
        True
    """
    shape = (*rows, columns) if isinstance(rows, tuple) else (rows, columns)
    return jnp.concatenate([init(k, shape, float) for k in jax.random.split(key, gates)], axis=-1)


def orthogonal(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    """Uniform (Haar) orthogonal matrix, or orthonormal rows or columns if it is not square (Saxe et al. 2013)."""

    @jax.custom_batching.sequential_vmap
    def one(key: Array) -> Array:
        # Two batches of factorisations at once can wait for each other for ever, on a CPU of few cores and jax < 0.11.
        return jax.nn.initializers.orthogonal()(key, shape, dtype)

    return one(key)


def lecun_normal(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    """Truncated normal with variance 1 / fan-in: the default of input kernels."""
    if 0 in shape:  # a cell without inputs
        return jnp.zeros(shape, dtype)
    return jax.nn.initializers.lecun_normal()(key, shape, dtype)


def glorot_uniform(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    """Uniform with variance 2 / (fan-in + fan-out) (Glorot & Bengio 2010)."""
    return jax.nn.initializers.glorot_uniform()(key, shape, dtype)


@functools.cache
def normal(stddev: float) -> KernelInit:
    """Normal with mean 0 and the given standard deviation."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
        return jax.random.normal(key, shape, dtype) * stddev

    return init


@functools.cache
def uniform(low: float, high: float) -> KernelInit:
    """Uniform on [low, high)."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
        return jax.random.uniform(key, shape, dtype, low, high)

    return init


@functools.cache
def identity(scale: float = 1.0) -> KernelInit:
    """`scale` times the identity matrix (Le, Jaitly & Hinton 2015, arXiv:1504.00941)."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
        del key
        return scale * jnp.eye(shape[0], shape[1], dtype=dtype)

    return init


def zero_bias(key: Array, gates: tuple[Gate, ...], size: int, dtype: Any = float) -> Array:
    """Zeros for every gate."""
    del key
    return jnp.zeros(len(gates) * size, dtype)


@functools.cache
def forget_bias(value: float) -> BiasInit:
    """`value` for the gates that keep the memory, zeros elsewhere.

    A cell with no gate that keeps, only one that overwrites (MGU, whose f is an update gate), gets `-value` there.

    References:
        Jozefowicz, Zaremba & Sutskever, An empirical exploration of recurrent network architectures, 2015.
    """

    def init(key: Array, gates: tuple[Gate, ...], size: int, dtype: Any = float) -> Array:
        del key
        keeps = any(gate.role == "keep" for gate in gates)
        signs = {"keep": 1.0, "write": 0.0 if keeps else -1.0, "": 0.0}
        return jnp.concatenate([jnp.full(size, value * signs[gate.role], dtype) for gate in gates])

    return init


unit_forget_bias = forget_bias(1.0)
"""1 for the gates that keep the memory: the default of the LSTM."""


@functools.cache
def chrono(t_max: float) -> BiasInit:
    """Memory times `1 / (1 - sigmoid(b))` spread uniformly between 2 and `t_max` steps.

    Gates that keep the memory start at `b = log U[1, t_max - 1]`, gates that overwrite it at minus the same numbers.

    Args:
        t_max: the longest dependency expected, in steps; above 2.

    Returns:
        A bias initialiser.

    Example:
        >>> b = chrono(100.0)(jax.random.key(0), (Gate("f", "keep"), Gate("i", "write")), 3)
        >>> bool((b[:3] >= 0).all() and (b[:3] == -b[3:]).all())
        True

    References:
        Tallec & Ollivier, Can recurrent neural networks warp time?, 2018, arXiv:1804.11188.
    """
    if not t_max > 2:
        raise ValueError(f"`t_max` must be above 2 steps, got {t_max}")

    def init(key: Array, gates: tuple[Gate, ...], size: int, dtype: Any = float) -> Array:
        times = jnp.log(jax.random.uniform(key, (size,), dtype, 1.0, t_max - 1.0))
        signs = {"keep": 1.0, "write": -1.0, "": 0.0}
        return jnp.concatenate([signs[gate.role] * times for gate in gates])

    return init


def ring(key: Array, size: int, r_min: float, r_max: float, max_phase: float) -> tuple[Array, Array]:
    """Eigenvalues uniform on the ring `r_min <= |lambda| <= r_max` with phases in [0, max_phase].

    Args:
        key: a PRNG key.
        size: the number N of eigenvalues.
        r_min, r_max: the radii, `0 <= r_min < r_max <= 1`.
        max_phase: the largest phase in radians.

    Returns:
        `(nu_log, theta_log)`, each [N], with `lambda = exp(-exp(nu_log) + i exp(theta_log))`.

    References:
        Orvieto et al., Resurrecting recurrent neural networks for long sequences, 2023, arXiv:2303.06349, lemma 3.2.
    """
    radius_key, phase_key = jax.random.split(key)
    dtype = jnp.zeros(0).dtype
    tiny = jnp.finfo(dtype).tiny ** 0.5
    u = jax.random.uniform(radius_key, (size,), dtype, 1e-6, 1.0)
    squared = jnp.minimum(u * (r_max**2 - r_min**2) + r_min**2, 1 - 4 * jnp.finfo(dtype).eps)
    nu_log = jnp.log(-0.5 * jnp.log(squared))
    theta_log = jnp.log(jnp.maximum(max_phase * jax.random.uniform(phase_key, (size,), dtype), tiny))
    return nu_log, theta_log


@functools.cache
def hippo_legs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the normal part of the HiPPO-LegS matrix, in conjugate pairs.

    The matrix is `A[n, k] = -sqrt((2n+1)(2k+1))` below the diagonal and `-(n+1)` on it; its normal part is
    `A + P P^T` with `P[n] = sqrt(n + 1/2)`. Only the half with positive imaginary part is returned.

    Args:
        size: the (even) size of the matrix.

    Returns:
        `(Lambda [size / 2], V [size, size / 2])`, complex NumPy arrays.

    References:
        Gu et al., On the parameterization and initialization of diagonal state space models, 2022, arXiv:2206.11893;
        Smith, Warrington & Linderman, Simplified state space layers, 2023, arXiv:2208.04933.
    """
    checks.positive("size", size)
    if size % 2:
        raise ValueError(f"`size` must be even, got {size}")
    n = np.arange(size, dtype=np.float64)
    root = np.sqrt(2 * n + 1)
    a = -np.tril(np.outer(root, root), -1) - np.diag(n + 1)
    p = np.sqrt(n + 0.5)
    normal_part = a + np.outer(p, p)
    real = np.mean(np.diag(normal_part))
    # normal_part = real I + a skew-symmetric matrix, so -i times the latter is Hermitian.
    imaginary, v = np.linalg.eigh((normal_part - real * np.eye(size)) * -1j)
    keep = np.argsort(imaginary)[size // 2 :]
    return real + 1j * imaginary[keep], v[:, keep]


def henaff(key: Array, size: int) -> Array:
    """Strictly upper entries of a block-diagonal skew-symmetric matrix with angles uniform in [-pi, pi].

    Its exponential rotates each pair of units by one random angle (Henaff, Szlam & LeCun 2016, arXiv:1602.06662).

    Args:
        key: a PRNG key.
        size: H.

    Returns:
        [H, H], non-zero only at `[2k, 2k + 1]`.
    """
    angles = jax.random.uniform(key, (size // 2,), float, -jnp.pi, jnp.pi)
    even = jnp.arange(size // 2) * 2
    return jnp.zeros((size, size), angles.dtype).at[even, even + 1].set(angles)
