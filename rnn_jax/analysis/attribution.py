"""What in a sequence an output depends on: gradients by the inputs, integrated gradients, and occlusion."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import checks

__all__ = ["integrated_gradients", "occlusion", "saliency"]

Score = Callable[[jax.Array], jax.Array]
"""`xs [T, ...] -> scalar`, such as the logit of a class."""


def saliency(score: Score, xs: jax.Array, *, times_input: bool = False) -> jax.Array:
    """How an output changes with each input, to first order.

    Args:
      score: see `Score`.
      xs: [T, ..., I].
      times_input: the gradient times the input, summed over its features with their signs.

    Returns:
      [T, ...]: norms of the gradient over the features of each step, or the sums.

    Example:
      >>> saliency(lambda xs: (xs * jnp.array([[3.0, 4.0], [0.0, 1.0]])).sum(), jnp.ones((2, 2))).tolist()
      [5.0, 1.0]

    References:
      Simonyan, Vedaldi & Zisserman, Deep inside convolutional networks, 2014, arXiv:1312.6034.
    """
    gradient = jax.grad(score)(xs)
    return (gradient * xs).sum(-1) if times_input else jnp.linalg.norm(gradient, axis=-1)


def integrated_gradients(score: Score, xs: jax.Array, baseline: Any = None, *, num_points: int = 64) -> jax.Array:
    """What each input adds to an output, between a baseline and the sequence.

        (x - b) int_0^1 dscore/dx (b + a (x - b)) da

    by Gauss-Legendre points, so that the contributions add up to score(xs) - score(baseline) as closely as these
    integrate: check it, and take more points where they do not.

    Args:
      score: see `Score`.
      xs: [T, ..., I].
      baseline: like xs; zeros if None.
      num_points: how many gradients are taken, one after another.

    Returns:
      an array like xs.

    Example:
      >>> contributions = integrated_gradients(lambda xs: (xs**3).sum(), jnp.array([[2.0], [-1.0]]))
      >>> contributions[:, 0].round(3).tolist()
      [8.0, -1.0]

    References:
      Sundararajan, Taly & Yan, Axiomatic attribution for deep networks, 2017, arXiv:1703.01365.
    """
    checks.positive("num_points", num_points)
    start = jnp.zeros_like(xs) if baseline is None else jnp.asarray(baseline, xs.dtype)
    if start.shape != xs.shape:
        raise ValueError(f"`baseline` must have the shape of xs, {xs.shape}, got {start.shape}")
    nodes, weights = np.polynomial.legendre.leggauss(num_points)
    points = jnp.asarray((nodes + 1) / 2, xs.dtype), jnp.asarray(weights / 2, xs.dtype)

    def one(total: jax.Array, point: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        place, weight = point
        return total + weight * jax.grad(score)(start + place * (xs - start)), None

    return (xs - start) * lax.scan(one, jnp.zeros_like(xs), points)[0]


def occlusion(score: Score, xs: jax.Array, replacement: Any = None, *, width: int = 1) -> jax.Array:
    """How much an output falls when steps are covered.

    Args:
      score: see `Score`.
      xs: [T, ..., I].
      replacement: what a covered step holds, [..., I]; zeros if None.
      width: how many steps are covered at once, the one it is about in the middle.

    Returns:
      [T]: score(xs) - score(xs with steps t - (width - 1) // 2 ... covered).

    Example:
      >>> occlusion(lambda xs: (xs * jnp.array([[1.0], [5.0], [2.0]])).sum(), jnp.ones((3, 1))).tolist()
      [1.0, 5.0, 2.0]

    References:
      Zeiler & Fergus, Visualizing and understanding convolutional networks, 2014, arXiv:1311.2901.
    """
    checks.positive("width", width)
    cover = jnp.zeros(xs.shape[1:], xs.dtype) if replacement is None else jnp.asarray(replacement, xs.dtype)
    steps = jnp.arange(len(xs))
    whole = score(xs)

    def one(t: jax.Array) -> jax.Array:
        first = t - (width - 1) // 2
        covered = (steps >= first) & (steps < first + width)
        mask = covered.reshape(-1, *([1] * (xs.ndim - 1)))
        return whole - score(jnp.where(mask, cover[None], xs))

    return lax.map(one, steps)
