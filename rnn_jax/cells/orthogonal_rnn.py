"""The orthogonal network: its recurrent kernel is exactly orthogonal all through training."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import Gate, KernelInit, henaff, lecun_normal
from rnn_jax.products import affine, align, recurrent
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class OrthogonalParams(NamedTuple):
    """Parameters of `orthogonal_rnn`; w_h is worked out by `prepare`, it is not trained itself."""

    w_x: Array  # [I, H]
    skew: Array  # [H, H], of which the entries above the diagonal count
    b: Array  # [H]
    w_h: Array | None = None  # [H, H]

    GATES = (Gate("h"),)


@constructor
def orthogonal_rnn(
    hidden_size: int,
    *,
    transform: Literal["expm", "cayley"] = "expm",
    kernel_init: KernelInit = lecun_normal,
) -> Cell:
    """The orthogonal network (expRNN, or scoRNN with the Cayley transform), with modReLU units.

        A = U - U^T, U the part of `skew` above the diagonal
        W_h = expm(A), or (I - A/2)^-1 (I + A/2) by the Cayley transform
        u = x W_x + h W_h
        h' = sign(u) relu(|u| + b)

    Args:
        hidden_size: H.
        transform: "expm" reaches every rotation; "cayley" is cheaper, and misses those with eigenvalue -1.
        kernel_init: initialiser of W_x.

    Returns:
        A cell with carry h [B, H] and output h.

    Notes:
        A starts block-diagonal with one rotation a pair of units: angles uniform on [-pi, pi] (Henaff et al. 2016),
        halved for the Cayley transform, which cannot reach pi. W_h is worked out once before the loop. The skew
        parameters want a learning rate about ten times smaller than the others (Lezcano-Casado & Martinez-Rubio).

    References:
        Lezcano-Casado & Martinez-Rubio, Cheap orthogonal constraints in neural networks, 2019, arXiv:1901.08428;
        Helfrich, Willmott & Ye, Orthogonal recurrent neural networks with scaled Cayley transform, 2018,
        arXiv:1707.09520.
    """
    checks.positive("hidden_size", hidden_size)
    checks.one_of("transform", transform, ("expm", "cayley"))

    def init(key: Array, input_size: int) -> OrthogonalParams:
        x_key, skew_key = jax.random.split(key)
        angles = henaff(skew_key, hidden_size)
        return OrthogonalParams(
            w_x=kernel_init(x_key, (input_size, hidden_size), float),
            skew=angles if transform == "expm" else 2 * jnp.tan(angles / 4),
            b=jnp.zeros(hidden_size),
        )

    def init_carry(params: OrthogonalParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))

    def recurrent_kernel(params: OrthogonalParams) -> Array:
        if params.w_h is not None:
            return params.w_h
        upper = jnp.triu(params.skew.astype(wide(params.skew.dtype)), 1)
        a = upper - upper.T
        if transform == "expm":
            return jax.scipy.linalg.expm(a)
        eye = jnp.eye(hidden_size, dtype=a.dtype)
        return jnp.linalg.solve(eye - a / 2, eye + a / 2)

    def prepare(params: OrthogonalParams) -> OrthogonalParams:
        return params._replace(w_h=recurrent_kernel(params))

    def project(params: OrthogonalParams, xs: Array) -> Array:
        return affine(xs, params.w_x)

    def step(params: OrthogonalParams, carry: Array, z: Array) -> tuple[Array, Array]:
        u = z.astype(carry.dtype) + recurrent(carry, recurrent_kernel(params), z.dtype)
        h = jnp.sign(u) * jax.nn.relu(jnp.abs(u) + align(params.b, u))
        return h, h.astype(z.dtype)

    return Cell(init=init, init_carry=init_carry, step=step, project=project, prepare=prepare)
