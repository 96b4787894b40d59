"""Linear recurrences of small matrices, `d_t = A_t d_{t-1} + r_t` from zero, as every iteration of Newton solves one.

Matrices are blocks [T, ..., K, d, d] and vectors [T, ..., K, d]: one block is a dense matrix, blocks of one number are
a diagonal. A CPU goes step by step, other devices compose all steps by an associative scan; the program that is
lowered holds the one for its platform only.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from rnn_jax.types import Array


def solve_blocks(blocks: Array, r: Array) -> Array:
    """All `d_t = A_t d_{t-1} + r_t`, with d before the first step zero.

    Args:
        blocks: A [T, ..., K, d, d].
        r: [T, ..., K, d].

    Returns:
        d [T, ..., K, d].
    """
    return lax.platform_dependent(blocks, r, cpu=step_by_step, default=all_at_once)


def solve_blocks_transposed(blocks: Array, r: Array) -> Array:
    """The transposed system: `d_t = A_{t+1}^T d_{t+1} + r_t`, with d after the last step zero."""
    flipped = jnp.swapaxes(jnp.flip(blocks, 0), -1, -2)
    moved = jnp.concatenate([jnp.zeros_like(flipped[:1]), flipped[:-1]])
    return jnp.flip(solve_blocks(moved, jnp.flip(r, 0)), 0)


def step_by_step(blocks: Array, r: Array) -> Array:
    """`solve_blocks` by a loop."""

    def body(d: Array, one: tuple[Array, Array]) -> tuple[Array, Array]:
        d = apply(one[0], d) + one[1]
        return d, d

    return lax.scan(body, jnp.zeros_like(r[0]), (blocks, r))[1]


def all_at_once(blocks: Array, r: Array) -> Array:
    """`solve_blocks` by an associative scan, in depth log T."""

    def compose(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        return multiply(later[0], earlier[0]), apply(later[0], earlier[1]) + later[1]

    return lax.associative_scan(compose, (blocks, r))[1]


def solve_damped(blocks: Array, r: Array, damping: float) -> Array:
    """The same recurrence as a Kalman filter that observes d = 0 at every step, which holds d back where A explodes.

    The prediction `A d + r` has noise of variance 1, the observation of variance `1 / damping` (ELK).

    Args:
        blocks: A [T, ..., K, d, d].
        r: [T, ..., K, d].
        damping: above 0; towards 0 the filter becomes `solve_blocks`.

    Returns:
        d [T, ..., K, d], the filtered means.
    """
    one_by_one = functools.partial(damped_step_by_step, damping=damping)
    together = functools.partial(damped_all_at_once, damping=damping)
    return lax.platform_dependent(blocks, r, cpu=one_by_one, default=together)


def damped_step_by_step(blocks: Array, r: Array, damping: float) -> Array:
    """`solve_damped` by a loop."""
    eye = _eye(blocks[0])

    def body(before: tuple[Array, Array], one: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        mean, covariance = before
        a, b = one
        predicted = multiply(multiply(a, covariance), _transpose(a)) + eye
        keep = invert(damping * predicted + eye)  # 1 - gain
        mean = apply(keep, apply(a, mean) + b)
        return (mean, multiply(keep, predicted)), mean

    start = (jnp.zeros_like(r[0]), jnp.zeros_like(blocks[0]))
    return lax.scan(body, start, (blocks, r))[1]


class Filtered(NamedTuple):
    """What a run of steps does to a belief: the element of the parallel Kalman filter.

    References:
        Sarkka & Garcia-Fernandez, Temporal parallelization of Bayesian smoothers, 2021, arXiv:1905.13002.
    """

    a: Array
    b: Array
    c: Array
    eta: Array
    j: Array


def damped_all_at_once(blocks: Array, r: Array, damping: float) -> Array:
    """`solve_damped` by an associative scan."""
    eye = _eye(blocks)
    keep, gain = 1 / (1 + damping), damping / (1 + damping)
    turned = _transpose(blocks)
    each = Filtered(
        a=keep * blocks,
        b=keep * r,
        c=jnp.broadcast_to(keep * eye, blocks.shape),
        eta=-gain * apply(turned, r),
        j=gain * multiply(turned, blocks),
    )

    def compose(earlier: Filtered, later: Filtered) -> Filtered:
        forth = multiply(later.a, invert(eye + multiply(earlier.c, later.j)))
        back = multiply(_transpose(earlier.a), invert(eye + multiply(later.j, earlier.c)))
        return Filtered(
            a=multiply(forth, earlier.a),
            b=apply(forth, earlier.b + apply(earlier.c, later.eta)) + later.b,
            c=multiply(multiply(forth, earlier.c), _transpose(later.a)) + later.c,
            eta=apply(back, later.eta - apply(later.j, earlier.b)) + earlier.eta,
            j=multiply(multiply(back, later.j), earlier.a) + earlier.j,
        )

    return lax.associative_scan(compose, each).b


def apply(blocks: Array, vectors: Array) -> Array:
    """Blocks [..., d, d] times vectors [..., d]."""
    if blocks.shape[-1] == 1:
        return blocks[..., 0] * vectors
    return jnp.einsum("...ij,...j->...i", blocks, vectors, precision=lax.Precision.HIGHEST)


def multiply(left: Array, right: Array) -> Array:
    """Blocks times blocks."""
    if left.shape[-1] == 1:
        return left * right
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def invert(blocks: Array) -> Array:
    """The inverse of each block."""
    return 1 / blocks if blocks.shape[-1] == 1 else jnp.linalg.inv(blocks)


def _transpose(blocks: Array) -> Array:
    return jnp.swapaxes(blocks, -1, -2)


def _eye(blocks: Array) -> Array:
    """The identity, of the rank of `blocks`."""
    return lax.expand_dims(jnp.eye(blocks.shape[-1], dtype=blocks.dtype), range(blocks.ndim - 2))
