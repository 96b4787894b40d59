"""AntisymmetricRNN: an ordinary differential equation on the edge of stability."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import Gate, KernelInit, lecun_normal
from rnn_jax.products import affine, recurrent
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class AntisymmetricParams(NamedTuple):
    """Parameters of `antisymmetric`; w_h is worked out by `prepare`, it is not trained itself."""

    w_x: Array  # [I, H]
    w: Array  # [H, H], free
    b: Array  # [H]
    w_h: Array | None = None  # [H, H]

    GATES = (Gate("h"),)


@constructor
def antisymmetric(
    hidden_size: int,
    *,
    step_size: float = 0.1,
    diffusion: float = 0.01,
    kernel_init: KernelInit = lecun_normal,
    recurrent_init: KernelInit = lecun_normal,
) -> Cell:
    """The antisymmetric network: one Euler step of a system whose eigenvalues lie close to the imaginary axis.

        W_h = W - W^T - diffusion I
        h' = h + step_size tanh(x W_x + h W_h + b)

    Args:
        hidden_size: H.
        step_size: the step of Euler's method (the paper's epsilon).
        diffusion: the damping (the paper's gamma).
        kernel_init: initialiser of W_x.
        recurrent_init: initialiser of the free W.

    Returns:
        A cell with carry h [B, H] and output h.

    References:
        Chang, Chen, Haber & Chi, AntisymmetricRNN: a dynamical system view on recurrent neural networks, 2019,
        arXiv:1902.09689.
    """
    checks.positive("hidden_size", hidden_size)

    def init(key: Array, input_size: int) -> AntisymmetricParams:
        x_key, h_key = jax.random.split(key)
        return AntisymmetricParams(
            w_x=kernel_init(x_key, (input_size, hidden_size), float),
            w=recurrent_init(h_key, (hidden_size, hidden_size), float),
            b=jnp.zeros(hidden_size),
        )

    def init_carry(params: AntisymmetricParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))

    def recurrent_kernel(params: AntisymmetricParams) -> Array:
        if params.w_h is not None:
            return params.w_h
        return params.w - params.w.T - diffusion * jnp.eye(hidden_size, dtype=params.w.dtype)

    def prepare(params: AntisymmetricParams) -> AntisymmetricParams:
        return params._replace(w_h=recurrent_kernel(params))

    def project(params: AntisymmetricParams, xs: Array) -> Array:
        return affine(xs, params.w_x, params.b)

    def step(params: AntisymmetricParams, carry: Array, z: Array) -> tuple[Array, Array]:
        drive = z.astype(carry.dtype) + recurrent(carry, recurrent_kernel(params), z.dtype)
        h = carry + step_size * jnp.tanh(drive)
        return h, h.astype(z.dtype)

    return Cell(init=init, init_carry=init_carry, step=step, project=project, prepare=prepare)
