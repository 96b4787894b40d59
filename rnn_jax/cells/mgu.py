"""The minimal gated unit: a GRU with one gate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.gated_step import Dot, ProductStep, Projection, take_none
from rnn_jax.initializers import (
    BiasInit,
    Gate,
    KernelInit,
    lecun_normal,
    orthogonal,
    per_gate,
    unit_forget_bias,
)
from rnn_jax.products import MaskedKernel, affine, columns
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class MGUParams(NamedTuple):
    """Parameters of `mgu`. The fused gate axis holds f, n."""

    w_x: Array  # [I, 2H]
    w_h: Array | MaskedKernel  # [H, 2H]
    b: Array  # [2H]

    GATES = (Gate("f", "write"), Gate("n"))


@constructor
def mgu(
    hidden_size: int,
    *,
    kernel_init: KernelInit = lecun_normal,
    recurrent_init: KernelInit = orthogonal,
    bias_init: BiasInit = unit_forget_bias,
) -> Cell:
    """The minimal gated unit; its f is an update gate, so a low f keeps the memory.

        f = sigmoid(x W_xf + h W_hf + b_f)
        n = tanh(x W_xn + (f h) W_hn + b_n)
        h' = (1 - f) h + f n

    Args:
        hidden_size: H.
        kernel_init: initialiser of W_x, gate by gate.
        recurrent_init: initialiser of W_h, gate by gate.
        bias_init: initialiser of b; by default -1 for f, which keeps.

    Returns:
        A cell with carry h [B, H] and output h.

    References:
        Zhou, Wu, Zhang & Zhou, Minimal gated unit for recurrent neural networks, 2016, arXiv:1603.09420.
    """
    checks.positive("hidden_size", hidden_size)

    def init(key: Array, input_size: int) -> MGUParams:
        x_key, h_key, b_key = jax.random.split(key, 3)
        return MGUParams(
            w_x=per_gate(kernel_init, x_key, input_size, hidden_size, 2),
            w_h=per_gate(recurrent_init, h_key, hidden_size, hidden_size, 2),
            b=bias_init(b_key, MGUParams.GATES, hidden_size, float),
        )

    def init_carry(params: MGUParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))

    def project(params: MGUParams, xs: Array) -> Array:
        return affine(xs, params.w_x, params.b)

    def advance(params: None, carry: Array, z: Array, dot: Dot) -> Array:
        z_f, z_n = jnp.split(z, 2, axis=-1)
        f = jax.nn.sigmoid(z_f + dot(0, carry))
        return (1 - f) * carry + f * jnp.tanh(z_n + dot(1, f * carry))

    def kernels(params: MGUParams) -> tuple[Array | MaskedKernel, ...]:
        return columns(params.w_h, 0, hidden_size), columns(params.w_h, hidden_size)

    rows = Projection(project, lambda params: params._replace(w_h=None))
    return Cell(init=init, init_carry=init_carry, step=ProductStep(kernels, advance, part=take_none), project=rows)
