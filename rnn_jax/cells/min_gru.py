"""minGRU: a GRU whose gate does not see h, so that time can be parallel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import BiasInit, Gate, KernelInit, lecun_normal, per_gate, zero_bias
from rnn_jax.products import align, product
from rnn_jax.tree import wide
from rnn_jax.types import Array, LinearCell


class MinGRUParams(NamedTuple):
    """Parameters of `min_gru`. The fused gate axis holds z, n."""

    w_x: Array  # [I, 2H]
    b: Array  # [2H]

    GATES = (Gate("z", "write"), Gate("n"))


@constructor
def min_gru(hidden_size: int, *, kernel_init: KernelInit = lecun_normal, bias_init: BiasInit = zero_bias) -> LinearCell:
    """The minimal GRU.

        z = sigmoid(x W_z + b_z)
        n = x W_n + b_n
        h' = (1 - z) h + z n

    Args:
        hidden_size: H.
        kernel_init: initialiser of W, gate by gate.
        bias_init: initialiser of b; z overwrites the memory.

    Returns:
        A linear cell with carry h [B, H] and output h.

    Notes:
        The form of section 3.1 of the paper. Its appendix also has a variant in log space with a positive n.

    References:
        Feng et al., Were RNNs all we needed?, 2024, arXiv:2410.01201.
    """
    checks.positive("hidden_size", hidden_size)

    def init(key: Array, input_size: int) -> MinGRUParams:
        x_key, b_key = jax.random.split(key)
        return MinGRUParams(
            w_x=per_gate(kernel_init, x_key, input_size, hidden_size, 2),
            b=bias_init(b_key, MinGRUParams.GATES, hidden_size, float),
        )

    def init_carry(params: MinGRUParams, batch_shape: tuple[int, ...] = ()) -> Array:
        return jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))

    def elements(params: MinGRUParams, xs: Array) -> tuple[Array, Array]:
        zs = product(xs, params.w_x)
        z, n = jnp.split(zs + align(params.b, zs), 2, axis=-1)
        return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * n

    def readout(params: MinGRUParams, hs: Array, xs: Array) -> Array:
        del params
        return hs.astype(xs.dtype)

    return LinearCell(init=init, init_carry=init_carry, elements=elements, readout=readout)
