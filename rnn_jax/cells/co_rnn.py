"""coRNN: coupled damped oscillators."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import Gate, KernelInit, lecun_normal
from rnn_jax.products import MaskedKernel, affine, recurrent
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class CoRNNParams(NamedTuple):
    """Parameters of `co_rnn`."""

    w_x: Array  # [I, H]
    w_h: Array | MaskedKernel  # [H, H], from the positions
    w_v: Array  # [H, H], from the velocities
    b: Array  # [H]

    GATES = (Gate("h"),)


class CoRNNCarry(NamedTuple):
    """The carry of `co_rnn`: positions h and velocities v, each [B, H]."""

    h: Array
    v: Array


@constructor
def co_rnn(
    hidden_size: int,
    *,
    dt: float = 0.042,
    gamma: float = 2.7,
    epsilon: float = 4.7,
    kernel_init: KernelInit = lecun_normal,
    recurrent_init: KernelInit = lecun_normal,
) -> Cell:
    """The coupled oscillatory network: a second-order system whose gradients neither explode nor vanish fast.

        v' = v + dt (tanh(x W_x + h W_h + v W_v + b) - gamma h - epsilon v)
        h' = h + dt v'

    Args:
        hidden_size: H.
        dt: the time step; gradients are bounded for small dt.
        gamma: the frequency.
        epsilon: the damping.
        kernel_init: initialiser of W_x.
        recurrent_init: initialiser of W_h and W_v.

    Returns:
        A cell with carry `CoRNNCarry(h, v)` and output h.

    Notes:
        dt, gamma and epsilon default to the authors' values for sequential MNIST; they are tuned for each task.

    References:
        Rusch & Mishra, Coupled oscillatory recurrent neural network, 2021, arXiv:2010.00951.
    """
    checks.positive("hidden_size", hidden_size)

    def init(key: Array, input_size: int) -> CoRNNParams:
        x_key, h_key, v_key = jax.random.split(key, 3)
        return CoRNNParams(
            w_x=kernel_init(x_key, (input_size, hidden_size), float),
            w_h=recurrent_init(h_key, (hidden_size, hidden_size), float),
            w_v=recurrent_init(v_key, (hidden_size, hidden_size), float),
            b=jnp.zeros(hidden_size),
        )

    def init_carry(params: CoRNNParams, batch_shape: tuple[int, ...] = ()) -> CoRNNCarry:
        zeros = jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))
        return CoRNNCarry(h=zeros, v=zeros)

    def project(params: CoRNNParams, xs: Array) -> Array:
        return affine(xs, params.w_x, params.b)

    def step(params: CoRNNParams, carry: CoRNNCarry, z: Array) -> tuple[CoRNNCarry, Array]:
        h, v = carry
        force = z.astype(h.dtype) + recurrent(h, params.w_h, z.dtype) + recurrent(v, params.w_v, z.dtype)
        v = v + dt * (jnp.tanh(force) - gamma * h - epsilon * v)
        h = h + dt * v
        return CoRNNCarry(h=h, v=v), h.astype(z.dtype)

    return Cell(init=init, init_carry=init_carry, step=step, project=project)
