"""Losses of single steps. They are averaged by `rnn_jax.metrics`, which knows what is padding."""

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.tree import wide
from rnn_jax.types import Array

__all__ = ["token_nll"]


def token_nll(logits: Array, targets: Array, *, smoothing: float | Array = 0.0) -> Array:
    """The negative log-probability of tokens, in nats.

        loss = -(1 - smoothing) log p(target) - smoothing mean_v log p(v)

    Args:
        logits: [..., V].
        targets: integers [...].
        smoothing: weight of the uniform distribution in the target distribution (label smoothing).

    Returns:
        [...], at least float32.

    Raises:
        ValueError: if the shapes do not fit, or targets are not integers.

    Example:
        >>> print(token_nll(jnp.zeros((1, 4)), jnp.array([2])))  # log 4
        [1.3862944]

    References:
        Szegedy et al., Rethinking the inception architecture for computer vision, 2015, arXiv:1512.00567 (smoothing).
    """
    if logits.ndim < 1 or logits.shape[:-1] != targets.shape or not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"`targets` must be integers {logits.shape[:-1]}, got {checks.describe(targets)}")
    log_p = jax.nn.log_softmax(logits.astype(wide(logits.dtype)))
    nll = -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    if isinstance(smoothing, int | float) and smoothing == 0:
        return nll
    return (1 - smoothing) * nll - smoothing * log_p.mean(-1)
