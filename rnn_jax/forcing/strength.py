"""How strongly to force: estimates of the weight of generalized teacher forcing from Jacobians."""

from typing import Literal

import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.types import Array


def forced_alpha(
    jacobians: Array,
    statistic: Literal["maximum", "geometric_mean", "arithmetic_mean"] = "geometric_mean",
) -> Array:
    """The weight at which forcing just keeps products of Jacobians, and so gradients, from exploding.

        alpha = max(0, 1 - 1 / sigma)

    Forcing scales every Jacobian by `1 - alpha`, so alpha bounds `(1 - alpha) sigma` by 1, where sigma is

        maximum            the largest spectral norm of all
        geometric_mean     the largest over sequences of `(prod_t |J_t|)^(1/T)`, which bounds the norm of the product
        arithmetic_mean    the largest over sequences of `|mean_t J_t|`

    Args:
        jacobians: [T, *batch, H, H], of the unforced step at the data.
        statistic: one of the above; "maximum" forces most.

    Returns:
        A scalar in [0, 1), differentiable in the Jacobians; NaN where they are.

    Raises:
        ValueError: for an unknown statistic, or matrices that are not square.

    Example:
        >>> jacobians = jnp.stack([2.0 * jnp.eye(3), 8.0 * jnp.eye(3)])
        >>> [round(float(forced_alpha(jacobians, s)), 3) for s in ("maximum", "geometric_mean", "arithmetic_mean")]
        [0.875, 0.75, 0.8]

    References:
        Hess et al., Generalized teacher forcing for learning chaotic dynamics, 2023, arXiv:2306.04406; the three are
        `batch_maximum`, `product_upper_bound` and `arithmetic_mean` of github.com/DurstewitzLab/GTF-shPLRNN.
    """
    checks.one_of("statistic", statistic, ("maximum", "geometric_mean", "arithmetic_mean"))
    if jacobians.ndim < 3 or jacobians.shape[-1] != jacobians.shape[-2] or 0 in jacobians.shape:
        raise ValueError(f"`jacobians` must be [T, *batch, H, H] with T and H at least 1, got shape {jacobians.shape}")
    if statistic == "arithmetic_mean":
        sigma = _spectral_norm(jacobians.mean(0)).max()
    elif statistic == "maximum":
        sigma = _spectral_norm(jacobians).max()
    else:
        sigma = jnp.exp(jnp.log(_spectral_norm(jacobians)).mean(0)).max()
    return 1 - 1 / jnp.maximum(sigma, 1)


def anneal_alpha(alpha: Array, estimate: Array, decay: float = 0.999) -> Array:
    """Moves the weight to a new estimate: up at once, down slowly. Training starts at alpha = 1.

        alpha' = max(estimate, decay alpha + (1 - decay) estimate)

    Args:
        alpha: the weight used last, in [0, 1].
        estimate: from `forced_alpha`.
        decay: in [0, 1); the authors re-estimate every 5 steps with 0.999.

    Returns:
        The next weight.

    Example:
        >>> [round(float(anneal_alpha(jnp.float32(0.5), jnp.float32(e), 0.9)), 3) for e in (0.3, 0.7)]
        [0.48, 0.7]
    """
    checks.fraction("decay", decay)
    return jnp.maximum(estimate, decay * alpha + (1 - decay) * estimate)


def _spectral_norm(matrices: Array) -> Array:
    """The largest singular value of [..., H, H]."""
    return jnp.linalg.svd(matrices, compute_uv=False)[..., 0]
