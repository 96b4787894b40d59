"""RG-LRU: the gated linear recurrence of Griffin and RecurrentGemma."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import Gate, KernelInit, lecun_normal, per_gate
from rnn_jax.products import affine, align, product
from rnn_jax.tree import wide
from rnn_jax.types import Array, LinearCell

SHARPNESS = 8.0
"""The constant c of the paper."""


class RGLRUParams(NamedTuple):
    """Parameters of `rg_lru`. The fused gate axis holds r (of the recurrence) and i (of the input)."""

    w_in: Array | None  # [I, H] if I != H
    w_x: Array  # [H, 2H]
    b: Array  # [2H]
    decay: Array  # [H]

    GATES = (Gate("r"), Gate("i", "write"))


@constructor
def rg_lru(hidden_size: int, *, kernel_init: KernelInit = lecun_normal) -> LinearCell:
    """The real-gated linear recurrent unit.

        u = x, or x W_in where x does not have H features
        r = sigmoid(u W_r + b_r)        i = sigmoid(u W_i + b_i)
        log a = -8 softplus(decay) r
        h' = a h + sqrt(1 - a^2) (i u)

    Args:
        hidden_size: H.
        kernel_init: initialiser of W_in, W_r and W_i.

    Returns:
        A linear cell with carry h [B, H] and output h.

    Notes:
        Gates are dense; the published models use block-diagonal ones to save weights. The decay starts so that a at
        r = 1 is uniform on [0.9, 0.999]. RecurrentGemma leaves out the factor sqrt(1 - a^2) where a document starts;
        here a reset changes the carry only.

    References:
        De et al., Griffin: mixing gated linear recurrences with local attention, 2024, arXiv:2402.19427.
    """
    checks.positive("hidden_size", hidden_size)

    def init(key: Array, input_size: int) -> RGLRUParams:
        in_key, x_key, decay_key = jax.random.split(key, 3)
        a = jax.random.uniform(decay_key, (hidden_size,), float, 0.9, 0.999)
        project_in = input_size != hidden_size
        return RGLRUParams(
            w_in=kernel_init(in_key, (input_size, hidden_size), float) if project_in else None,
            w_x=per_gate(kernel_init, x_key, hidden_size, hidden_size, 2),
            b=jnp.zeros(2 * hidden_size),
            decay=jnp.log(jnp.expm1(-jnp.log(a) / SHARPNESS)),  # the inverse of softplus
        )

    def init_carry(params: RGLRUParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))

    def elements(params: RGLRUParams, xs: Array) -> tuple[Array, Array]:
        us = xs if params.w_in is None else affine(xs, params.w_in)
        zs = product(us, params.w_x)
        r, i = jnp.split(jax.nn.sigmoid(zs + align(params.b, zs)), 2, axis=-1)
        log_a = -SHARPNESS * jax.nn.softplus(align(params.decay, r)) * r
        # The floor keeps the gradient of the square root finite where a is 1 to the last digit.
        gain = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-12))
        return jnp.exp(log_a), gain * i * us.astype(i.dtype)

    def readout(params: RGLRUParams, hs: Array, xs: Array) -> Array:
        del params
        return hs.astype(xs.dtype)

    return LinearCell(init=init, init_carry=init_carry, elements=elements, readout=readout)
