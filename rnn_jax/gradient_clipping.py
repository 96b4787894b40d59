"""Clipping the gradient on its way back through time, at every step. The forward pass does not change."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.tree import wide
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, as_cell


def with_clipped_gradient(cell: Cell | LinearCell, limit: float, *, by: Literal["norm", "value"] = "norm") -> Cell:
    """A cell whose step clips the gradient that it hands to the step before it.

    Values are those of the cell. In the backward pass the gradient with respect to the carry that a step was given
    (for the first step: the carry that `unroll` was given) is

        g * min(1, limit / |g|)         by="norm", for each row of the batch, over all leaves of its carry
        clip(g, -limit, limit)          by="value", for each number; the real and imaginary part of a complex one

    so that no path through time grows beyond the limit, while what a loss says to the step itself is not clipped. In a
    `stack` every layer is clipped by itself. Space counts as batch (`conv_lstm`).

    Args:
        cell: any cell. A combinator that makes one cell of a stack, such as `with_dropout(stack(...))`, is clipped
            as one; wrap each layer instead. Of an attention decoder wrap the cell inside.
        limit: the largest norm or magnitude, positive.
        by: what is limited.

    Returns:
        A `Cell` with the parameters and the carry of `cell`; for a `LinearCell` that of `as_cell`, because clipping
        is not linear and needs to go step by step.

    Raises:
        ValueError: on an argument that makes no sense.

    Example:
        >>> from rnn_jax import elman, unroll
        >>> cell = elman(1, activation=lambda u: 3 * u)  # its gradient grows with every step
        >>> params = cell.init(jax.random.key(0), 1)._replace(w_h=jnp.ones((1, 1)))
        >>> clipped = with_clipped_gradient(cell, 2.0)
        >>> def final(start, cell):
        ...     return unroll(cell, params, jnp.zeros((4, 1, 1)), start)[0].sum()
        >>> print(*(jax.grad(final)(jnp.ones((1, 1)), one) for one in (cell, clipped)))
        [[81.]] [[2.]]

    Notes:
        To clip the gradient of the parameters, once it is summed over time, chain optax before the optimizer:
        `optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))`, or `optax.clip` by value. `grad_norm` of a
        training step is the norm before that. The two kinds of clipping differ: this one also changes the direction.
        There is no forward-mode derivative (`jax.jvp`) of a clipped cell.

    References:
        Graves, Generating sequences with recurrent neural networks, 2013, arXiv:1308.0850: by value at every step,
        there on the derivative by the inputs of the LSTM's gates rather than by its carry. Pascanu, Mikolov & Bengio,
        On the difficulty of training recurrent neural networks, 2013, arXiv:1211.5063: by the norm, there of the
        gradient of all parameters.
    """
    checks.is_cell(cell)
    if not isinstance(limit, int | float) or isinstance(limit, bool) or not 0 < limit < float("inf"):
        raise ValueError(f"`limit` must be a positive number, got {checks.describe(limit)}")
    checks.one_of("by", by, ("norm", "value"))
    bare = as_cell(cell) if isinstance(cell, LinearCell) else cell

    def step(params: Params, carry: Carry, z: Any) -> tuple[Carry, Any]:
        return bare.step(params, _clipped(bare, params, carry, float(limit), by), z)

    layers = tuple(with_clipped_gradient(layer, limit, by=by) for layer in bare.layers)
    return bare._replace(step=step, layers=layers)


def _clipped(cell: Cell | LinearCell, params: Params, carry: Carry, limit: float, by: str) -> Carry:
    """The carry, with its gradient clipped; that of a stack layer by layer."""
    if isinstance(cell, Cell) and cell.layers:
        layers = zip(cell.layers, params, carry, strict=True)
        return tuple(_clipped(one, one_params, one_carry, limit, by) for one, one_params, one_carry in layers)
    ranks = _row_ranks(cell, params) if by == "norm" else ()
    leaves, structure = jax.tree.flatten(carry)
    if not leaves:
        return carry
    return jax.tree.unflatten(structure, _identity(ranks, limit, by, leaves))


def _row_ranks(cell: Cell | LinearCell, params: Params) -> tuple[int, ...]:
    """How many axes of each leaf of the carry belong to one row."""
    try:
        row = jax.eval_shape(lambda: cell.init_carry(params, ()))
    except ValueError as error:
        raise ValueError(
            "`cell` must have an initial carry for one row to be clipped by the norm; wrap the cell inside a decoder "
            "instead, as in attention_decoder(with_clipped_gradient(cell, limit), ...)"
        ) from error
    return tuple(leaf.ndim for leaf in jax.tree.leaves(row))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _identity(ranks: tuple[int, ...], limit: float, by: str, leaves: list[Array]) -> list[Array]:
    """The leaves as they are. `ranks` says how many of the last axes of each belong to one row (by the norm)."""
    del ranks, limit, by
    return leaves


def _forward(ranks: tuple[int, ...], limit: float, by: str, leaves: list[Array]) -> tuple[list[Array], None]:
    del ranks, limit, by
    return leaves, None


def _backward(ranks: tuple[int, ...], limit: float, by: str, _: None, gradients: list[Array]) -> tuple[list[Array]]:
    inexact = [jnp.issubdtype(g.dtype, jnp.inexact) for g in gradients]  # the gradient of an integer is a float0
    if by == "value":
        return ([_clip(g, limit) if clip else g for g, clip in zip(gradients, inexact, strict=True)],)
    dtype = wide(*(g.dtype for g, clip in zip(gradients, inexact, strict=True) if clip))
    rows = [
        jnp.abs(g).astype(dtype).reshape(*g.shape[: g.ndim - rank], -1)
        for g, rank, clip in zip(gradients, ranks, inexact, strict=True)
        if clip
    ]
    rows = jnp.concatenate(rows, axis=-1)
    largest = rows.max(-1, keepdims=True, initial=0)
    scale = jnp.where(largest > 0, largest, 1)  # the square of what explodes would overflow
    norm = scale[..., 0] * jnp.sqrt(jnp.square(rows / scale).sum(-1))
    factor = limit / jnp.maximum(norm, limit)
    clipped = [
        g * factor.astype(g.dtype).reshape(factor.shape + (1,) * rank) if clip else g
        for g, rank, clip in zip(gradients, ranks, inexact, strict=True)
    ]
    return (clipped,)


def _clip(gradient: Array, limit: float) -> Array:
    if jnp.iscomplexobj(gradient):
        return jax.lax.complex(jnp.clip(gradient.real, -limit, limit), jnp.clip(gradient.imag, -limit, limit))
    return jnp.clip(gradient, -limit, limit)


_identity.defvjp(_forward, _backward)
