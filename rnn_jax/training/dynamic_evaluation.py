"""Dynamic evaluation: a model that goes on learning from what it has just been judged on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.metrics import Mean, mean_value, merge

__all__ = ["dynamic_evaluation", "gradient_rms"]

Judge = Callable[[Any, Any, Any], tuple[Any, Mean]]
"""`(params, carry, window) -> (carry, Mean)`, such as `partial(window_nll, model)`."""


def gradient_rms(judge: Judge, params: Any, carry: Any, windows: Any) -> Any:
    """Root mean squares of the gradients of windows, as `dynamic_evaluation` takes them.

    Args:
      judge: see `Judge`.
      params: where the gradients are taken.
      carry: that of the first window; it is handed on.
      windows: windows of training data, stacked: leaves [S, ...].

    Returns:
      a tree like params.
    """

    def one(state: Any, window: Any) -> tuple[Any, None]:
        carry, squares = state
        grads, carry, _ = _gradient(judge, params, carry, window)
        return (carry, jax.tree.map(lambda total, g: total + jnp.square(g), squares, grads)), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    (_, squares), _ = lax.scan(one, (carry, zeros), windows)
    num = jax.tree.leaves(windows)[0].shape[0]
    return jax.tree.map(lambda total: jnp.sqrt(total / num), squares)


def dynamic_evaluation(
    judge: Judge,
    params: Any,
    carry: Any,
    windows: Any,
    *,
    learning_rate: float | jax.Array,
    decay: float | jax.Array = 0.0,
    rms: Any = None,
    epsilon: float = 1e-5,
) -> tuple[Mean, Any]:
    """Judges windows in turn, each by parameters that were updated on those before it.

        SGD:  theta <- theta - learning_rate g + decay (theta_0 - theta)
        RMS:  theta <- theta - learning_rate g / (rms + epsilon) + min(decay rms / mean(rms), 1) (theta_0 - theta)

    g is the gradient of the mean of a window. A window is judged before it is learned from, so this is a fair measure
    of a model that is allowed to adapt; what it costs is a gradient for each window, one after another.

    Args:
      judge: see `Judge`.
      params: theta_0, as trained.
      carry: that of the first window.
      windows: what is judged, stacked: leaves [S, ...].
      learning_rate: may be traced.
      decay: how fast the parameters go back to theta_0; may be traced.
      rms: from `gradient_rms` over training data, or None: SGD.
      epsilon: keeps updates finite where rms is small.

    Returns:
      The `Mean` of all windows, and the last parameters.

    References:
      Krause, Kahembwe, Murray & Renals, Dynamic evaluation of neural sequence models, 2018, arXiv:1709.07432.
    """
    if rms is None:
        steps = jax.tree.map(lambda _: learning_rate, params)
        decays = jax.tree.map(lambda _: decay, params)
    else:
        leaves = jax.tree.leaves(rms)
        mean = sum(leaf.sum() for leaf in leaves) / sum(leaf.size for leaf in leaves)
        steps = jax.tree.map(lambda one: learning_rate / (one + epsilon), rms)
        decays = jax.tree.map(lambda one: jnp.minimum(decay * one / mean, 1.0), rms)

    def one(state: Any, window: Any) -> tuple[Any, None]:
        now, carry, total = state
        grads, carry, pair = _gradient(judge, now, carry, window)
        now = jax.tree.map(lambda p, g, p0, s, d: p - s * g + d * (p0 - p), now, grads, params, steps, decays)
        return (now, carry, merge(total, pair)), None

    zero = jnp.zeros(())
    (last, _, total), _ = lax.scan(one, (params, carry, Mean(zero, zero)), windows)
    return total, last


def _gradient(judge: Judge, params: Any, carry: Any, window: Any) -> tuple[Any, Any, Mean]:
    """The gradient of the mean of a window, the next carry, and the pair."""

    def loss(params: Any) -> tuple[jax.Array, tuple[Any, Mean]]:
        after, pair = judge(params, carry, window)
        return mean_value(pair), (after, pair)

    grads, (after, pair) = jax.grad(loss, has_aux=True)(params)
    return grads, after, pair
