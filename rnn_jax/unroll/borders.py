"""Lengths, masks and resets as what a loop needs: which steps are real, and before which to start afresh."""

import jax.numpy as jnp
from jax import lax

from rnn_jax import checks
from rnn_jax.tree import expand
from rnn_jax.types import Array


def real_steps(lengths: Array | None, mask: Array | None, num_steps: int, batch_shape: tuple[int, ...]) -> Array | None:
    """Which steps are real: [T, *leading batch axes], or None if all are.

    Args:
        lengths: [*leading batch axes] or None.
        mask: [T, *leading batch axes] or None; with `lengths`, both must hold.
        num_steps: T.
        batch_shape: the batch axes of xs.

    Raises:
        ValueError: on wrong shapes, dtypes or values.
    """
    real = None if mask is None else checks.step_mask("mask", mask, num_steps, batch_shape)
    if lengths is not None:
        lengths = checks.lengths(lengths, num_steps, batch_shape)
        steps = jnp.arange(num_steps, dtype=lengths.dtype)
        within = steps.reshape(-1, *(1,) * lengths.ndim) < lengths[None]
        if real is None:
            real = within
        else:
            rank = max(real.ndim, within.ndim)
            real = _to_rank(real, rank) & _to_rank(within, rank)
    return real


def crossings(resets: Array | None, real: Array | None, reverse: bool) -> Array | None:
    """Before which real steps, in the order of processing, the carry starts afresh.

    A reset at t is a border between t - 1 and t. Walking backwards it is crossed before step t - 1. Steps that are
    not real are passed over, so a border on one of them waits for the next real step.

    Args:
        resets: [T, *leading batch axes] or None.
        real: from `real_steps`.
        reverse: whether time is walked backwards.

    Returns:
        [T, *leading batch axes] or None; indexed by t also when walking backwards.
    """
    if resets is None or (not reverse and real is None):
        return resets
    if reverse:
        resets = jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])[: resets.shape[0]]
    if real is None:
        return resets
    rank = max(resets.ndim, real.ndim)
    resets, real = _to_rank(resets, rank), _to_rank(real, rank)
    # Count borders up to each step, and the largest count that any earlier real step has seen.
    crossed = lax.cumsum(resets.astype(jnp.int32), reverse=reverse)
    crossed, real = jnp.broadcast_arrays(crossed, real)
    seen = lax.cummax(jnp.where(real, crossed, 0), reverse=reverse)
    none = jnp.zeros_like(seen[:1])
    before = jnp.concatenate([seen[1:], none] if reverse else [none, seen[:-1]])[: seen.shape[0]]
    return real & (crossed > before)


def _to_rank(flags: Array, rank: int) -> Array:
    return flags.reshape(flags.shape + (1,) * (rank - flags.ndim))


def blank(real: Array | None, xs: Array) -> Array:
    """xs with zeros where steps are not real."""
    return xs if real is None else jnp.where(expand(real, xs), xs, jnp.zeros((), xs.dtype))
