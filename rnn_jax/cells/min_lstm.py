"""minLSTM: an LSTM whose gates do not see h, so that time can be parallel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import BiasInit, Gate, KernelInit, lecun_normal, per_gate, unit_forget_bias
from rnn_jax.products import align, product
from rnn_jax.tree import wide
from rnn_jax.types import Array, LinearCell


class MinLSTMParams(NamedTuple):
    """Parameters of `min_lstm`. The fused gate axis holds f, i, n."""

    w_x: Array  # [I, 3H]
    b: Array  # [3H]

    GATES = (Gate("f", "keep"), Gate("i", "write"), Gate("n"))


@constructor
def min_lstm(
    hidden_size: int, *, kernel_init: KernelInit = lecun_normal, bias_init: BiasInit = unit_forget_bias
) -> LinearCell:
    """The minimal LSTM, with its gates normalised to sum to one.

        f = sigmoid(x W_f + b_f)        i = sigmoid(x W_i + b_i)        n = x W_n + b_n
        h' = f / (f + i) h + i / (f + i) n

    Args:
        hidden_size: H.
        kernel_init: initialiser of W, gate by gate.
        bias_init: initialiser of b; by default 1 for f.

    Returns:
        A linear cell with carry h [B, H] and output h.

    References:
        Feng et al., Were RNNs all we needed?, 2024, arXiv:2410.01201.
    """
    checks.positive("hidden_size", hidden_size)

    def init(key: Array, input_size: int) -> MinLSTMParams:
        x_key, b_key = jax.random.split(key)
        return MinLSTMParams(
            w_x=per_gate(kernel_init, x_key, input_size, hidden_size, 3),
            b=bias_init(b_key, MinLSTMParams.GATES, hidden_size, float),
        )

    def init_carry(params: MinLSTMParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))

    def elements(params: MinLSTMParams, xs: Array) -> tuple[Array, Array]:
        zs = product(xs, params.w_x)
        f, i, n = jnp.split(zs + align(params.b, zs), 3, axis=-1)
        # f / (f + i) of two sigmoids is a sigmoid itself, and cannot become 0 / 0.
        odds = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)
        return jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds) * n

    def readout(params: MinLSTMParams, hs: Array, xs: Array) -> Array:
        del params
        return hs.astype(xs.dtype)

    return LinearCell(init=init, init_carry=init_carry, elements=elements, readout=readout)
