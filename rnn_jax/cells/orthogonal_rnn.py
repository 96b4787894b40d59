"""The orthogonal network: its recurrent kernel is exactly orthogonal all through training."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.gated_step import GatedStep, Projection
from rnn_jax.initializers import Gate, KernelInit, henaff, lecun_normal
from rnn_jax.products import affine, align
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
        transform: "expm" reaches every rotation, and is made of products; "cayley" solves a linear system, which takes
            longer, and misses rotations with eigenvalue -1.
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
            return exponential(a)
        eye = jnp.eye(hidden_size, dtype=a.dtype)
        return jnp.linalg.solve(eye - a / 2, eye + a / 2)

    def prepare(params: OrthogonalParams) -> OrthogonalParams:
        return params._replace(w_h=recurrent_kernel(params))

    def project(params: OrthogonalParams, xs: Array) -> Array:
        return affine(xs, params.w_x)

    def after(params: OrthogonalParams, carry: Array, u: Array) -> Array:
        return jnp.sign(u) * jax.nn.relu(jnp.abs(u) + align(params.b, u))

    step = GatedStep(recurrent_kernel, after, part=lambda params: params._replace(w_x=None, skew=None, w_h=None))
    rows = Projection(project, lambda params: params._replace(skew=None, b=None, w_h=None))
    return Cell(init=init, init_carry=init_carry, step=step, project=rows, prepare=prepare)


def exponential(a: Array) -> Array:
    """The exponential of a matrix by products alone: a Taylor polynomial, scaled and squared.

    That of jax solves a linear system, whose gradient takes a hundred times longer on a CPU.

    Args:
        a: [H, H], with a 1-norm up to 2,048, of which no rotation is in need.

    Returns:
        [H, H], accurate to rounding, which every doubling of a norm above 1/2 doubles; NaN where the norm is larger.

    References:
        Moler & Van Loan, Nineteen dubious ways to compute the exponential of a matrix, 2003, method 3.
    """

    def times(x: Array, y: Array) -> Array:
        return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)

    norm = lax.stop_gradient(jnp.abs(a).sum(0).max())
    squarings = jnp.clip(jnp.ceil(jnp.log2(2 * norm)), 0, NUM_SQUARINGS)
    x = a * jnp.exp2(-squarings)  # norm at most 1/2: what follows the 15th power is below 1e-18
    powers = [jnp.eye(len(a), dtype=a.dtype), x]
    for _ in range(2):
        powers.append(times(powers[-1], x))
    fourth, out = times(powers[-1], x), jnp.zeros_like(a)
    for first in (12, 8, 4, 0):
        block = sum((powers[i] * (1 / math.factorial(first + i)) for i in range(4)), jnp.zeros_like(a))
        out = block + times(fourth, out)
    numbers = jnp.arange(NUM_SQUARINGS, dtype=norm.dtype)
    out = lax.scan(lambda e, number: (jnp.where(number < squarings, times(e, e), e), None), out, numbers)[0]
    return jnp.where(norm <= 2.0 ** (NUM_SQUARINGS - 1), out, jnp.nan)


NUM_SQUARINGS = 12
