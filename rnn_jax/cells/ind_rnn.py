"""IndRNN: every unit sees only its own past."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import Gate, KernelInit, lecun_normal, uniform
from rnn_jax.products import MaskedKernel, affine, align, unmask
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class IndRNNParams(NamedTuple):
    """Parameters of `ind_rnn`; w_h is the diagonal of the recurrent kernel."""

    w_x: Array  # [I, H]
    w_h: Array | MaskedKernel  # [H]
    b: Array  # [H]

    GATES = (Gate("h"),)


@constructor
def ind_rnn(
    hidden_size: int,
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
    kernel_init: KernelInit = lecun_normal,
    recurrent_init: KernelInit = uniform(0.0, 1.0),
) -> Cell:
    """The independently recurrent network.

        h' = activation(x W_x + w_h * h + b)        (w_h a vector, element-wise product)

    Args:
        hidden_size: H.
        activation: ReLU as in the paper, or any element-wise function.
        kernel_init: initialiser of W_x.
        recurrent_init: initialiser of w_h [H]. The paper keeps |w_h| below `gamma ** (1 / T)`, gamma the largest
            tolerated growth over T steps, and starts the last layer at [0, that bound] or close below it.

    Returns:
        A cell with carry h [B, H] and output h.

    References:
        Li, Li, Cook, Zhu & Gao, Independently recurrent neural network, 2018, arXiv:1803.04831.
    """
    checks.positive("hidden_size", hidden_size)

    def init(key: Array, input_size: int) -> IndRNNParams:
        x_key, h_key = jax.random.split(key)
        return IndRNNParams(
            w_x=kernel_init(x_key, (input_size, hidden_size), float),
            w_h=recurrent_init(h_key, (hidden_size,), float),
            b=jnp.zeros(hidden_size),
        )

    def init_carry(params: IndRNNParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))

    def project(params: IndRNNParams, xs: Array) -> Array:
        return affine(xs, params.w_x, params.b)

    def step(params: IndRNNParams, carry: Array, z: Array) -> tuple[Array, Array]:
        kernel, h_in = unmask(carry, params.w_h)
        h = activation(z.astype(carry.dtype) + align(kernel, carry) * h_in)
        return h, h.astype(z.dtype)

    return Cell(init=init, init_carry=init_carry, step=step, project=project)
