"""What a measurement makes of many initialisations and first states, all in one program."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.products import MaskedKernel

__all__ = ["Sweep", "sweep", "with_forget_bias", "with_gain", "with_spectral_radius"]


class Sweep(NamedTuple):
    """What `sweep` has measured.

    Attributes:
        axes: `{name: values [n]}`, in the order of the axes of `results`.
        results: what the measurement returned, leaves [n, ..., seeds, ...].
    """

    axes: dict[str, np.ndarray]
    results: Any


def sweep(measure: Callable[..., Any], key: jax.Array, *, seeds: int = 3, **values: Sequence[float]) -> Sweep:
    """Takes a measurement at every combination of values with every seed, in one vmapped program.

    Args:
        measure: `(key, **one value of each) -> tree of arrays`. The key makes the network, its first state and its
            inputs; the values are traced scalars, such as a gain for `with_gain`, a bias for `with_forget_bias`, or the
            standard deviation of a first state. A fixed shape serves all: numbers of units or steps cannot be swept.
        key: of which each seed has its own; the same seeds meet every combination.
        seeds: how many.
        **values: the values of each name.

    Returns:
        The axes, and results with one axis for each name, then one for the seeds.

    Raises:
        ValueError: a name without values, values that are no real numbers, or no seeds.

    Example:
        >>> from rnn_jax import elman, unroll
        >>> cell = elman(16)
        >>> def size(key, gain, noise):
        ...     params = with_gain(cell.init(key, 1), gain)
        ...     h0 = noise * jax.random.normal(key, (16,))
        ...     return jnp.linalg.norm(unroll(cell, params, jnp.zeros((50, 1)), h0)[0])
        >>> found = sweep(size, jax.random.key(0), gain=[0.5, 1.5], noise=[0.0, 0.1, 1.0])
        >>> found.results.shape, bool((found.results[0] < 1e-9).all()), bool((found.results[1, 1:] > 1).all())
        ((2, 3, 3), True, True)
    """
    checks.prng_key(key)
    checks.positive("seeds", seeds)
    if not values:
        raise ValueError("`values` must name at least one thing to sweep, got none")
    axes = {name: np.asarray(given) for name, given in values.items()}
    for name, given in axes.items():
        if given.ndim != 1 or not len(given) or given.dtype.kind not in "iuf":
            raise ValueError(f"`{name}` must be a list of real numbers, got {values[name]!r}")
    settings = [jnp.array(column, float) for column in zip(*itertools.product(*axes.values()), strict=True)]

    def one(number: jax.Array, settings: list[jax.Array]) -> Any:
        return measure(jax.random.fold_in(key, number), **dict(zip(axes, settings, strict=True)))

    run = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))
    found = run(jnp.arange(seeds), settings)
    shape = tuple(len(given) for given in axes.values())
    return Sweep(axes, jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*shape, *leaf.shape[1:]), found))


def with_gain(params: Any, gain: jax.Array | float) -> Any:
    """Parameters whose recurrent kernel is `gain` times as large.

    Args:
        params: of a cell with a kernel `w_h`.
        gain: a number, which may be traced.

    Returns:
        New parameters.

    Raises:
        ValueError: there is no kernel `w_h`.

    Example:
        >>> from rnn_jax import elman
        >>> params = elman(4).init(jax.random.key(0), 1)
        >>> bool(jnp.allclose(with_gain(params, 2.0).w_h, 2 * params.w_h))
        True
    """
    kernel = _kernel(params)
    return params._replace(w_h=kernel * jnp.asarray(gain, kernel.dtype))


def with_spectral_radius(params: Any, radius: jax.Array | float) -> Any:
    """Parameters whose recurrent kernel has this spectral radius in every gate's block.

    Args:
        params: of a cell with a kernel `w_h` [H, G H].
        radius: of the block of each gate; a number, which may be traced.

    Returns:
        New parameters.

    Raises:
        ValueError: there is no kernel `w_h`, or it is not made of square blocks (a projection).

    Example:
        >>> from rnn_jax import gru
        >>> params = with_spectral_radius(gru(4).init(jax.random.key(0), 1), 0.9)
        >>> [round(float(np.abs(np.linalg.eigvals(block)).max()), 4) for block in np.split(params.w_h, 3, axis=1)]
        [0.9, 0.9, 0.9]

    Notes:
        The radius of a block A is the limit of `|A^k|^(1/k)` (Gelfand), here with k = 2^20 by squaring: products only,
        so that it is the same program on every device and under `vmap`.
    """
    kernel = _kernel(params)
    size, columns = kernel.shape
    if columns % size:
        raise ValueError(f"`params.w_h` must be [H, G H], one square block a gate, got shape {kernel.shape}")
    blocks = kernel.reshape(size, columns // size, size).swapaxes(0, 1)
    scales = jnp.asarray(radius, kernel.dtype) / _spectral_radius(blocks)
    return params._replace(w_h=(blocks * scales[:, None, None]).swapaxes(0, 1).reshape(kernel.shape))


def _spectral_radius(blocks: jax.Array, squarings: int = 20) -> jax.Array:
    """The largest absolute value of the eigenvalues of each block [G, H, H]."""

    def square(_: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        powers, log_scale = state  # A^k = powers exp(log_scale)
        powers = powers @ powers
        size = jnp.linalg.norm(powers, axis=(-2, -1))
        return powers / size[:, None, None], 2 * log_scale + jnp.log(size)

    start = jnp.linalg.norm(blocks, axis=(-2, -1))
    state = (blocks / start[:, None, None], jnp.log(start))
    return jnp.exp(jax.lax.fori_loop(0, squarings, square, state)[1] / 2**squarings)


def with_forget_bias(params: Any, bias: jax.Array | float) -> Any:
    """Parameters in which the bias of the gates that keep the memory has one value: f of an LSTM, z of a GRU.

    Args:
        params: of a cell with gates.
        bias: a number, which may be traced. A gate that overwrites, of a cell where none keeps, gets `-bias` (MGU).

    Returns:
        New parameters.

    Raises:
        ValueError: the cell has no such gate.

    Example:
        >>> from rnn_jax import lstm
        >>> with_forget_bias(lstm(2).init(jax.random.key(0), 1), 3.0).b.tolist()
        [0.0, 0.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0]
    """
    gates, b = getattr(params, "GATES", ()), getattr(params, "b", None)
    roles = {gate.role for gate in gates}
    role, sign = ("keep", 1) if "keep" in roles else ("write", -1)
    if b is None or role not in roles:
        raise ValueError(f"`params` must be of a cell with a gate that keeps, got {type(params).__name__}")
    if hasattr(params, "COUPLED_GATES"):
        kernel = _kernel(params) if params.w_projection is None else params.w_projection
        gates = gates if len(b) == len(gates) * len(kernel) else params.COUPLED_GATES
    blocks = b.reshape(len(gates), -1)
    chosen = np.array([gate.role == role for gate in gates])[:, None]
    return params._replace(b=jnp.where(chosen, jnp.asarray(sign * bias, b.dtype), blocks).reshape(b.shape))


def _kernel(params: Any) -> jax.Array:
    kernel = getattr(params, "w_h", None)
    if kernel is None or isinstance(kernel, MaskedKernel):
        raise ValueError(f"`params` must have a recurrent kernel `w_h` without a mask, got {type(params).__name__}")
    return kernel
