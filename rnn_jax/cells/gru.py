"""The gated recurrent unit, with the reset gate after or before the recurrent product."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.gated_step import Dot, GatedStep, ProductStep, Projection, Rule, take_none
from rnn_jax.initializers import (
    BiasInit,
    Gate,
    KernelInit,
    lecun_normal,
    orthogonal,
    per_gate,
    zero_bias,
)
from rnn_jax.products import MaskedKernel, affine, align, columns
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class GRUParams(NamedTuple):
    """Parameters of `gru`. The fused gate axis holds r, z, n."""

    w_x: Array  # [I, 3H]
    w_h: Array | MaskedKernel  # [H, 3H]
    b: Array  # [3H]
    b_hn: Array | None = None  # [H], only with the reset after the product

    GATES = (Gate("r"), Gate("z", "keep"), Gate("n"))


@constructor
def gru(
    hidden_size: int,
    *,
    reset: Literal["after", "before"] = "after",
    kernel_init: KernelInit = lecun_normal,
    recurrent_init: KernelInit = orthogonal,
    bias_init: BiasInit = zero_bias,
) -> Cell:
    """The gated recurrent unit.

        r = sigmoid(x W_xr + h W_hr + b_r)        z = sigmoid(x W_xz + h W_hz + b_z)
        n = tanh(x W_xn + b_n + r (h W_hn + b_hn))      with reset="after", the form of cuDNN
        n = tanh(x W_xn + b_n + (r h) W_hn)             with reset="before", the form of the paper
        h' = (1 - z) n + z h

    Args:
        hidden_size: H.
        reset: whether r acts after or before the recurrent product of n; the two are different functions.
        kernel_init: initialiser of W_x, gate by gate.
        recurrent_init: initialiser of W_h, gate by gate.
        bias_init: initialiser of b; z keeps the memory.

    Returns:
        A cell with carry h [B, H] and output h.

    Example:
        >>> cell = gru(8)
        >>> cell.init(jax.random.key(0), 3).w_h.shape
        (8, 24)

    Notes:
        As torch, cuDNN and flax linen. flax nnx has no b_hn; haiku resets before the product and swaps z and 1 - z.

    References:
        Cho et al., Learning phrase representations using RNN encoder-decoder, 2014, arXiv:1406.1078.
    """
    checks.positive("hidden_size", hidden_size)
    checks.one_of("reset", reset, ("after", "before"))

    def init(key: Array, input_size: int) -> GRUParams:
        x_key, h_key, b_key = jax.random.split(key, 3)
        return GRUParams(
            w_x=per_gate(kernel_init, x_key, input_size, hidden_size, 3),
            w_h=per_gate(recurrent_init, h_key, hidden_size, hidden_size, 3),
            b=bias_init(b_key, GRUParams.GATES, hidden_size, float),
            b_hn=jnp.zeros(hidden_size) if reset == "after" else None,
        )

    def init_carry(params: GRUParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))

    def project(params: GRUParams, xs: Array) -> Array:
        return affine(xs, params.w_x, params.b)

    def reset_before(params: None, carry: Array, z: Array, dot: Dot) -> Array:
        gates = jax.nn.sigmoid(z[..., : 2 * hidden_size] + dot(0, carry))
        reset_gate, update = jnp.split(gates, 2, axis=-1)
        n = jnp.tanh(z[..., 2 * hidden_size :] + dot(1, reset_gate * carry))
        return (1 - update) * n + update * carry

    def two_kernels(params: GRUParams) -> tuple[Array | MaskedKernel, ...]:
        return columns(params.w_h, 0, 2 * hidden_size), columns(params.w_h, 2 * hidden_size)

    def side_by_side(params: GRUParams, z: Array, hz: Array) -> tuple[Array, Array, Array]:
        (z_gates, z_n), (h_gates, h_n) = (jnp.split(part, [2 * hidden_size], axis=-1) for part in (z, hz))
        return z_gates + h_gates, z_n, h_n if params.b_hn is None else h_n + align(params.b_hn, h_n)

    gated = GatedStep(
        lambda params: params.w_h,
        lambda params, carry, a: _reset_after(carry, a)[0],
        gates=side_by_side,
        rule=Rule(_reset_after, _pull_reset_after),
        part=lambda params: params._replace(w_x=None, w_h=None, b=None),
    )
    step = ProductStep(two_kernels, reset_before, part=take_none) if reset == "before" else gated
    rows = Projection(project, lambda params: params._replace(w_h=None, b_hn=None))
    return Cell(init=init, init_carry=init_carry, step=step, project=rows)


def _reset_after(carry: Array, a: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """The step with the reset after the product; it keeps both gates, n, and the part of n that r acts on."""
    r, z = (jax.nn.sigmoid(gate) for gate in jnp.split(a[0], 2, axis=-1))
    n = jnp.tanh(a[1] + r * a[2])
    return (1 - z) * n + z * carry, (r, z, n, a[2])


def _pull_reset_after(
    kept: tuple[Array, Array, Array, Array], before: Array, after: Array, bar: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    r, z, n, h_n = kept
    by_n = bar * (1 - z) * (1 - n * n)
    by_gates = [by_n * h_n * r * (1 - r), bar * (before - n) * z * (1 - z)]
    return bar * z, (jnp.concatenate(by_gates, axis=-1), by_n, by_n * r)
