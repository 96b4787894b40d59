"""The parts of a `ProductStep` that the scan and its gradient are made of."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.gated_step import ProductStep
from rnn_jax.products import recurrent
from rnn_jax.types import Array, Carry, Params
from rnn_jax.unroll.walk import zeros


class Kept(NamedTuple):
    """What a step keeps: z in the dtype of the activations, and all products."""

    z: Array
    products: tuple[Array, ...]


class Rows(NamedTuple):
    """What a step backwards leaves for the products after the loop: gradients by z and by each product u W, and u."""

    z: Array
    products: tuple[Array, ...]
    factors: tuple[Array, ...]


def advance(
    step: ProductStep, params: Params, kernel: tuple[Array, ...], before: Carry, z: Array
) -> tuple[Carry, Kept]:
    """The carry after a step, and what the gradient needs to know of it."""
    products: dict[int, Array] = {}

    def dot(i: int, u: Array) -> Array:
        products[i] = recurrent(u, kernel[i], z.dtype)
        return products[i]

    after = step.advance(params, before, z.astype(step.hidden(before).dtype), dot)
    return after, Kept(z, tuple(products[i] for i in range(len(kernel))))


def transpose(kernel: Array, dtype: Any) -> Array:
    """The kernel that the gradient by u meets, for operands of this dtype."""
    return jnp.swapaxes(kernel.astype(dtype), -1, -2)


def pull(
    step: ProductStep, params: Params, transposed: tuple[Array, ...], before: Carry, kept: Kept, carry_bar: Carry
) -> tuple[Params, Carry, Rows]:
    """Gradients by the parameters and the carry before a step, and those that are for later."""

    def again(params: Params, before: Carry, z: Array, taps: tuple[Array, ...]) -> tuple[Carry, tuple[Array, ...]]:
        factors: dict[int, Array] = {}

        def dot(i: int, u: Array) -> Array:
            factors[i] = u
            return _replay(u, taps[i], transposed[i], kept.products[i])

        after = step.advance(params, before, z, dot)
        return after, tuple(factors[i] for i in range(len(taps)))

    z = kept.z.astype(step.hidden(before).dtype)
    taps = jax.tree.map(lambda leaf: zeros(leaf.shape, leaf.dtype, leaf), kept.products)
    _, back, factors = jax.vjp(again, params, before, z, taps, has_aux=True)
    params_bar, before_bar, z_bar, product_bars = back(carry_bar)
    flat = [side.reshape(*z.shape[:-1], -1) for side in (*product_bars, *factors)]
    return params_bar, before_bar, Rows(z_bar, tuple(flat[: len(taps)]), tuple(flat[len(taps) :]))


@jax.custom_jvp
def _replay(u: Array, tap: Array, transposed: Array, kept: Array) -> Array:
    """The product of u that is known already; its derivative is that of u W + tap."""
    del u, tap, transposed
    return kept


@_replay.defjvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    _, _, transposed, kept = primals
    u, tap, *_ = tangents
    which = "...d,gd->...g" if transposed.ndim == 2 else "...nd,ngd->...ng"
    return kept, jnp.einsum(which, u.astype(transposed.dtype), transposed, preferred_element_type=u.dtype) + tap


def kernel_gradients(kernel: tuple[Array, ...], rows: Rows, dtype: Any) -> tuple[Array, ...]:
    """Gradients by the kernels from rows [rows, features], with operands of products in `dtype`."""

    def one(kernel: Array, u: Array, bar: Array) -> Array:
        u, bar = (side.reshape(len(side), *kernel.shape[:-2], -1) for side in (u, bar))
        return jnp.einsum("r...d,r...g->...dg", u.astype(dtype), bar.astype(dtype), preferred_element_type=u.dtype)

    return tuple(map(one, kernel, rows.factors, rows.products))
