"""The convolutional LSTM, over any number of spatial axes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.cells.lstm import LSTMCarry
from rnn_jax.initializers import (
    BiasInit,
    Gate,
    KernelInit,
    lecun_normal,
    orthogonal,
    per_gate,
    unit_forget_bias,
)
from rnn_jax.products import MaskedKernel, align, convolve, unmask
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class ConvLSTMParams(NamedTuple):
    """Parameters of `conv_lstm`. The fused gate axis holds i, f, g, o."""

    w_x: Array  # [*kernel_size, I, 4H]
    w_h: Array | MaskedKernel  # [*kernel_size, H, 4H]
    b: Array  # [4H]

    GATES = (Gate("i", "write"), Gate("f", "keep"), Gate("g"), Gate("o"))


@constructor
def conv_lstm(
    hidden_size: int,
    *,
    kernel_size: tuple[int, ...] = (3, 3),
    kernel_init: KernelInit = lecun_normal,
    recurrent_init: KernelInit = orthogonal,
    bias_init: BiasInit = unit_forget_bias,
) -> Cell:
    """The LSTM with its products replaced by convolutions; "*" keeps the size of the picture (zero padding).

        i = sigmoid(x * W_xi + h * W_hi + b_i)        f = sigmoid(x * W_xf + h * W_hf + b_f)
        g = tanh(x * W_xg + h * W_hg + b_g)           o = sigmoid(x * W_xo + h * W_ho + b_o)
        c' = f c + i g                                h' = o tanh(c')

    Space counts as the last axes of the batch: for video, xs is [T, B, height, width, channels], and
    `init_carry(params, (B, height, width))`. `lengths` [B] and masks [T, B] need not repeat the spatial axes.

    Args:
        hidden_size: H, the number of channels of h.
        kernel_size: the window, one number for each spatial axis: `(3,)` signals, `(3, 3)` video, `(3, 3, 3)` volumes.
        kernel_init: initialiser of W_x, gate by gate.
        recurrent_init: initialiser of W_h, gate by gate.
        bias_init: initialiser of b; by default 1 for f.

    Returns:
        A cell with carry `LSTMCarry(h, c)`, both [B, *space, H], and output h.

    Notes:
        The paper's peepholes are left out, since they would fix the size of the picture.

    References:
        Shi et al., Convolutional LSTM network, 2015, arXiv:1506.04214.
    """
    checks.positive("hidden_size", hidden_size)
    if not isinstance(kernel_size, tuple) or not kernel_size:
        raise ValueError(f"`kernel_size` must be a tuple of one number for each spatial axis, got {kernel_size!r}")
    for size in kernel_size:
        checks.positive("kernel_size", size)

    def init(key: Array, input_size: int) -> ConvLSTMParams:
        x_key, h_key, b_key = jax.random.split(key, 3)
        return ConvLSTMParams(
            w_x=per_gate(kernel_init, x_key, (*kernel_size, input_size), hidden_size, 4),
            w_h=per_gate(recurrent_init, h_key, (*kernel_size, hidden_size), hidden_size, 4),
            b=bias_init(b_key, ConvLSTMParams.GATES, hidden_size, float),
        )

    def init_carry(params: ConvLSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMCarry:
        zeros = jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))
        return LSTMCarry(h=zeros, c=zeros)

    def project(params: ConvLSTMParams, xs: Array) -> Array:
        zs = convolve(xs, params.w_x)
        return zs + align(params.b, zs)

    def step(params: ConvLSTMParams, carry: LSTMCarry, z: Array) -> tuple[LSTMCarry, Array]:
        dtype = carry.h.dtype
        kernel, h_in = unmask(carry.h, params.w_h)
        hz = convolve(h_in.astype(z.dtype), kernel).astype(dtype)
        i, f, g, o = jnp.split(z.astype(dtype) + hz, 4, axis=-1)
        c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return LSTMCarry(h=h, c=c), h.astype(z.dtype)

    return Cell(init=init, init_carry=init_carry, step=step, project=project, spatial_axes=len(kernel_size))
