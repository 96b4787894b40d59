"""The Elman network, and its ReLU version started at the identity (IRNN)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.gated_step import GatedStep, Projection, Rule, take_none
from rnn_jax.initializers import Gate, KernelInit, identity, lecun_normal, normal, orthogonal
from rnn_jax.products import MaskedKernel, affine
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class ElmanParams(NamedTuple):
    """Parameters of `elman`."""

    w_x: Array  # [I, H]
    w_h: Array | MaskedKernel  # [H, H]
    b: Array  # [H]

    GATES = (Gate("h"),)


@constructor
def elman(
    hidden_size: int,
    *,
    activation: Callable[[Array], Array] = jnp.tanh,
    kernel_init: KernelInit = lecun_normal,
    recurrent_init: KernelInit = orthogonal,
) -> Cell:
    """The plain recurrent network.

        h' = activation(x W_x + h W_h + b)

    Args:
        hidden_size: H.
        activation: `jnp.tanh`, `jax.nn.relu` or any element-wise function.
        kernel_init: initialiser of W_x.
        recurrent_init: initialiser of W_h.

    Returns:
        A cell with carry h [B, H] and output h.

    Example:
        >>> cell = elman(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> params.w_h.shape
        (8, 8)

    Notes:
        One bias; torch and cuDNN have two, which add up.

    References:
        Elman, Finding structure in time, 1990.
    """
    checks.positive("hidden_size", hidden_size)

    def init(key: Array, input_size: int) -> ElmanParams:
        x_key, h_key = jax.random.split(key)
        return ElmanParams(
            w_x=kernel_init(x_key, (input_size, hidden_size), float),
            w_h=recurrent_init(h_key, (hidden_size, hidden_size), float),
            b=jnp.zeros(hidden_size),
        )

    def init_carry(params: ElmanParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))

    def project(params: ElmanParams, xs: Array) -> Array:
        return affine(xs, params.w_x, params.b)

    rule = Rule(lambda carry, a: (jnp.tanh(a), ()), _pull_tanh) if activation is jnp.tanh else None
    step = GatedStep(lambda params: params.w_h, lambda params, carry, a: activation(a), rule=rule, part=take_none)
    rows = Projection(project, lambda params: params._replace(w_h=None))
    return Cell(init=init, init_carry=init_carry, step=step, project=rows)


def _pull_tanh(kept: Any, before: Array, after: Array, bar: Array) -> tuple[Array, Array]:
    """The gradient of tanh from its value."""
    return jnp.zeros_like(bar), (1 - after * after) * bar


def irnn(hidden_size: int, *, scale: float = 1.0) -> Cell:
    """`elman` with ReLU units whose recurrent kernel starts as `scale` times the identity.

        h' = relu(x W_x + h W_h + b),   W_h = scale I,   W_x ~ N(0, 0.001^2),   b = 0   at the start

    Args:
        hidden_size: H.
        scale: 1 to remember, below 1 to forget at that rate.

    Returns:
        A cell with carry h [B, H] and output h.

    References:
        Le, Jaitly & Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015,
        arXiv:1504.00941.
    """
    return elman(hidden_size, activation=jax.nn.relu, kernel_init=normal(0.001), recurrent_init=identity(scale))
