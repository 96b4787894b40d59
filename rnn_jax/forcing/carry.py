"""Forcing of the state itself: sparse and generalized teacher forcing of dynamical systems."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.forcing.masks import unit_weights
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, as_cell


def mix_carry(carry: Array, target: Array, weight: Array) -> Array:
    """Pulls the observed features of a state towards the data.

        carry[..., :N] = (1 - weight) carry[..., :N] + weight target

    Args:
        carry: [*batch, H], whose first N features are what is observed.
        target: [*batch, N]. Where weight is 0 it may hold anything, NaN too: data may be missing.
        weight: [*batch, 1], in [0, 1].

    Returns:
        [*batch, H].
    """
    size = target.shape[-1]
    if not hasattr(carry, "shape") or carry.shape[-1] < size:
        raise ValueError(
            f"`carry` must be an array with at least {size} features for mix_carry, got {checks.describe(carry)}; pass "
            "a `mix` of your own for other carries"
        )
    seen = blend(target.astype(carry.dtype), carry[..., :size], weight.astype(carry.dtype))
    return jnp.concatenate([seen, carry[..., size:]], axis=-1)


def blend(truth: Array, own: Array, weight: Array) -> Array:
    """`weight truth + (1 - weight) own`; at weight 0 and 1 one of the two exactly, whatever the other holds."""
    some = weight != 0
    truth, own = jnp.where(some, truth, 0), jnp.where(weight != 1, own, 0)
    return weight * truth + (1 - weight) * own


def with_forced_carry(
    cell: Cell | LinearCell,
    target_size: int,
    mix: Callable[[Carry, Array, Array], Carry] = mix_carry,
) -> Cell:
    """A cell whose state is pulled towards data before each step: `carry' = step(mix(carry, target, weight), x)`.

    Forcing of the state is then a plain `unroll`, with any strategy, lengths and resets, over
    `forced_carry_inputs(targets, mask, start=...)`. A constant weight alpha is generalized teacher forcing, a weight 1
    every tau steps sparse teacher forcing, 0 runs freely.

    Args:
        cell: any cell.
        target_size: N, the number of observed features.
        mix: `(carry, target [*batch, N], weight [*batch, 1]) -> carry`.

    Returns:
        A cell with the parameters and the carry of `cell`, reading xs [T, *batch, N + 1 + I]: target, weight, x.

    Example:
        >>> import jax
        >>> from rnn_jax import elman, unroll
        >>> cell = with_forced_carry(elman(5), 3)
        >>> params = cell.init(jax.random.key(0), 4)  # 3 targets, a weight, no other input
        >>> data = jnp.ones((6, 2, 3))
        >>> unroll(cell, params, forced_carry_inputs(data, 0.1, start=data[0]))[1].shape
        (6, 2, 5)

    References:
        Hess et al., Generalized teacher forcing for learning chaotic dynamics, 2023, arXiv:2306.04406;
        Mikhaeil et al., 2022, arXiv:2110.07238.
    """
    checks.is_cell(cell)
    checks.positive("target_size", target_size)
    inner = as_cell(cell) if isinstance(cell, LinearCell) else cell
    extra = target_size + 1

    def rest(xs: Array) -> Array:
        if xs.shape[-1] < extra:
            raise ValueError(f"`xs` must have at least {extra} features (target and weight), got {xs.shape[-1]}")
        return xs[..., extra:]

    def init(key: Array, input_size: int) -> Params:
        if input_size < extra:
            raise ValueError(f"`input_size` must be at least {extra} (target and weight), got {input_size}")
        return inner.init(key, input_size - extra)

    def project(params: Params, xs: Array) -> Any:
        return inner.project(params, rest(xs)), xs[..., :extra]

    def step(params: Params, carry: Carry, z: Any) -> tuple[Carry, Any]:
        z, forcing = z
        carry = mix(carry, forcing[..., :-1], forcing[..., -1:])
        return inner.step(params, carry, z)

    def readout(params: Params, hs: Any, xs: Array) -> Array:
        return inner.readout(params, hs, rest(xs))

    def perturb(key: Array, params: Params, shape: tuple[int, ...]) -> Params:
        return inner.perturb(key, params, (*shape[:-1], shape[-1] - extra))

    return inner._replace(init=init, project=project, step=step, readout=readout, perturb=perturb, layers=())


def forced_carry_inputs(targets: Array, mask: float | Array, *, start: Array, inputs: Array | None = None) -> Array:
    """What `with_forced_carry` reads: at step t the data of step t - 1 and its weight.

    Args:
        targets: [T, *batch, N], floating: what the outputs should be.
        mask: weights in [0, 1] with the leading axes of [T, *batch]. That of step 0 counts as 1.
        start: [*batch, N] or [N], the data before the first step.
        inputs: [T, *batch, K] or None, further inputs.

    Returns:
        [T, *batch, N + 1 + K].

    Raises:
        ValueError: for shapes that do not fit, and weights that are known and lie outside [0, 1].
    """
    checks.sequence("targets", targets)
    targets = jnp.asarray(targets)
    shape = targets.shape[:-1]
    weights = unit_weights("mask", mask, shape).astype(targets.dtype)
    weights = jnp.broadcast_to(weights, shape).at[:1].set(1)[..., None]
    parts = [shift(targets, start), weights]
    if inputs is not None:
        if inputs.shape[:-1] != shape:
            raise ValueError(f"`inputs` must be [T, *batch, K] with {shape}, got shape {inputs.shape}")
        parts.append(inputs.astype(targets.dtype))
    return jnp.concatenate(parts, axis=-1)


def shift(xs: Array, start: Array) -> Array:
    """xs one step later, `start` first: [start, xs[0], ..., xs[T - 2]]."""
    start, shape = jnp.asarray(start).astype(xs.dtype), xs.shape[1:]
    if start.ndim > len(shape) or start.shape != shape[len(shape) - start.ndim :]:
        raise ValueError(f"`start` must have shape {shape} or its last axes, got {start.shape}")
    first = jnp.broadcast_to(start.reshape((1,) * (xs.ndim - start.ndim) + start.shape), (1, *shape))
    return jnp.concatenate([first, xs[:-1]])[: xs.shape[0]]
