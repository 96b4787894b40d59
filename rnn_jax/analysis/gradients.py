"""How far gradients reach: their size at every step, and what the Jacobians between steps do to them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.analysis.vectors import Step, vector_step

__all__ = ["JacobianProducts", "carry_gradients", "forgetting", "jacobian_products", "row_norms"]


def carry_gradients(step: Step, carry: Any, xs: Any, loss: Callable[[Any], jax.Array]) -> Any:
    """Gradients of a loss with respect to the carry at every step, by one backward pass.

        delta_t = dL/dh_t,    L = loss(h_1, ..., h_T)

    through all later steps and what the loss itself says about h_t.

    Args:
      step: `(h, x) -> h`.
      carry: h_0; a tree of floating arrays, with batch axes or without.
      xs: inputs, leaves [T, ...].
      loss: maps carries, leaves [T, ...], to a scalar.

    Returns:
      a tree like the carry, leaves [T + 1, ...]: index t holds dL/dh_t, from h_0 on.

    Example:
      >>> halve = lambda h, x: h / 2 + x
      >>> carry_gradients(halve, jnp.zeros(1), jnp.ones((3, 1)), lambda hs: hs[-1].sum())[:, 0].tolist()
      [0.125, 0.25, 0.5, 1.0]
    """
    num_steps = jax.tree.leaves(xs)[0].shape[0]
    still = jax.tree.map(lambda leaf: jnp.zeros((num_steps + 1, *jnp.shape(leaf)), jnp.result_type(leaf)), carry)

    def shifted(shifts: Any) -> jax.Array:
        def one(h: Any, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
            x, shift = inputs
            h = jax.tree.map(lambda leaf, by: leaf + by, step(h, x), shift)
            return h, h

        first = jax.tree.map(lambda leaf, by: leaf + by[0], carry, shifts)
        return loss(lax.scan(one, first, (xs, jax.tree.map(lambda by: by[1:], shifts)))[1])

    return jax.grad(shifted)(still)


def row_norms(tree: Any, num_axes: int = 1) -> Any:
    """Euclidean norms of each leaf over its axes behind the first `num_axes`.

    Args:
      tree: leaves [T, ...], or [T, B, ...] with `num_axes` = 2 for norms of each row of a batch.
      num_axes: how many axes are kept.

    Returns:
      a tree of real arrays with `num_axes` axes.
    """

    def norm(leaf: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.square(jnp.abs(leaf)).sum(tuple(range(num_axes, leaf.ndim))))

    return jax.tree.map(norm, tree)


class JacobianProducts(NamedTuple):
    """What `jacobian_products` returns; index t is about dh_T/dh_t, from h_0 on, and index T is the identity.

    Attributes:
      log_singular_values: [T + 1, D] ln of its singular values, in falling order.
      log_norm: [T + 1] ln of its Frobenius norm over sqrt(D): 0 if gradients keep their size on the average.
      condition: [T + 1] the largest singular value over the least.
    """

    log_singular_values: jax.Array
    log_norm: jax.Array
    condition: jax.Array


def jacobian_products(step: Step, carry: Any, xs: Any) -> JacobianProducts:
    """How a change at each step reaches the last one: singular values of the products of all Jacobians in between.

        dh_T/dh_t = J_T J_{T-1} ... J_{t+1}

    The product is scaled at every step, so logarithms are right where the numbers themselves would be 0 or infinite;
    within one product float32 resolves seven orders of magnitude. It holds D^2 numbers for each step.

    Args:
      step: `(h, x) -> h`, for one row (no batch axes).
      carry: h_0, a tree of D real numbers in all.
      xs: leaves [T, ...].

    Returns:
      the `JacobianProducts`.

    Example:
      >>> products = jacobian_products(lambda h, x: x * h, jnp.ones(2), jnp.full((3, 2), 0.5))
      >>> jnp.exp(products.log_norm).round(3).tolist()
      [0.125, 0.25, 0.5, 1.0]
    """
    f, v = vector_step(step, carry)

    def forward(v: jax.Array, x: Any) -> tuple[jax.Array, jax.Array]:
        return f(v, x), jax.jacfwd(lambda v: f(v, x))(v)

    _, jacobians = lax.scan(forward, v, xs)
    eye = jnp.eye(len(v), dtype=v.dtype)

    def behind(state: tuple[jax.Array, jax.Array], jacobian: jax.Array) -> tuple[Any, Any]:
        product, scale = state
        product = product @ jacobian
        size = jnp.abs(product).max()
        product = product / jnp.where(size > 0, size, 1)
        scale = scale + jnp.log(size)
        return (product, scale), (product, scale)

    _, (products, scales) = lax.scan(behind, (eye, jnp.zeros((), v.dtype)), jacobians, reverse=True)
    products = jnp.concatenate([products, eye[None]])
    scales = jnp.concatenate([scales, jnp.zeros(1, v.dtype)])
    values = jnp.linalg.svd(products, compute_uv=False)
    norm = jnp.sqrt(jnp.square(values).mean(-1))
    return JacobianProducts(
        log_singular_values=jnp.log(values) + scales[:, None],
        log_norm=jnp.log(norm) + scales,
        condition=values[:, 0] / values[:, -1],
    )


def forgetting(step: Step, carry: Any, other: Any, xs: Any) -> jax.Array:
    """How two starts come together, or do not, under the same inputs.

    Args:
      step: `(h, x) -> h`.
      carry, other: two starts of equal shapes, of one row.
      xs: leaves [T, ...].

    Returns:
      [T + 1] Euclidean distances between the two carries, from the starts on.

    Example:
      >>> forgetting(lambda h, x: h / 2 + x, jnp.zeros(1), jnp.ones(1), jnp.zeros((2, 1))).tolist()
      [1.0, 0.5, 0.25]
    """
    f, a = vector_step(step, carry)
    b = vector_step(step, other)[1]
    if a.shape != b.shape:
        raise ValueError(f"`other` must have as many numbers as `carry`, {len(a)}, got {len(b)}")

    def one(pair: tuple[jax.Array, jax.Array], x: Any) -> tuple[Any, jax.Array]:
        after = (f(pair[0], x), f(pair[1], x))
        return after, jnp.linalg.norm(after[0] - after[1])

    _, distances = lax.scan(one, (a, b), xs)
    return jnp.concatenate([jnp.linalg.norm(a - b)[None], distances])
