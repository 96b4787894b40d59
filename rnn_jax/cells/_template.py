"""A cell to copy: leaky tanh units with learned time constants.

To add a cell: copy this file to `cells/NAME.py`, change the equations, and add one row to `CELLS` in
`cells/__init__.py`. The property tests then run over it; they ask for its oracle, a float64 NumPy loop of the same
name in `tests/oracles.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import Gate, KernelInit, lecun_normal, orthogonal
from rnn_jax.products import MaskedKernel, affine, align, recurrent
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class LeakyParams(NamedTuple):
    """Parameters of `leaky`. A recurrent kernel called `w_h` is what dropout combinators act on."""

    w_x: Array  # [I, H]
    w_h: Array | MaskedKernel  # [H, H]
    b: Array  # [H]
    rate: Array  # [H]

    GATES = (Gate("h"),)


@constructor  # caches the cell and checks the arguments of its init
def leaky(hidden_size: int, *, kernel_init: KernelInit = lecun_normal, recurrent_init: KernelInit = orthogonal) -> Cell:
    """Leaky units: the equations come first, and the oracle in the tests must follow them.

        alpha = sigmoid(rate)
        h' = (1 - alpha) h + alpha tanh(x W_x + h W_h + b)

    Args:
        hidden_size: H.
        kernel_init: initialiser of W_x.
        recurrent_init: initialiser of W_h.

    Returns:
        A cell with carry h [B, H] and output h.

    References:
        Jaeger et al., Optimization and applications of echo state networks with leaky-integrator neurons, 2007.
    """
    checks.positive("hidden_size", hidden_size)

    def init(key: Array, input_size: int) -> LeakyParams:
        x_key, h_key = jax.random.split(key)
        return LeakyParams(
            w_x=kernel_init(x_key, (input_size, hidden_size), float),
            w_h=recurrent_init(h_key, (hidden_size, hidden_size), float),
            b=jnp.zeros(hidden_size),
            rate=jnp.zeros(hidden_size),
        )

    def init_carry(params: LeakyParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))  # at least float32

    def project(params: LeakyParams, xs: Array) -> Array:
        return affine(xs, params.w_x, params.b)  # all that needs no carry, for all steps at once

    def step(params: LeakyParams, carry: Array, z: Array) -> tuple[Array, Array]:
        alpha = jax.nn.sigmoid(align(params.rate, carry))  # element-wise work has the dtype of the carry
        drive = z.astype(carry.dtype) + recurrent(carry, params.w_h, z.dtype)
        h = (1 - alpha) * carry + alpha * jnp.tanh(drive)
        return h, h.astype(z.dtype)  # the output has the dtype of z

    return Cell(init=init, init_carry=init_carry, step=step, project=project)
