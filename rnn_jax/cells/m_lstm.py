"""mLSTM: a matrix memory written by outer products and read by queries."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.initializers import Gate, KernelInit, lecun_normal, per_gate
from rnn_jax.products import affine
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class MLSTMParams(NamedTuple):
    """Parameters of `m_lstm`; N heads of D = H / N units."""

    w_qkv: Array  # [I, 3H]: q, k, v
    w_gates: Array  # [I, 2N]: i, f
    b_gates: Array  # [2N]
    w_o: Array  # [I, H]
    b_o: Array  # [H]

    GATES = (Gate("i", "write"), Gate("f", "keep"))


class MLSTMCarry(NamedTuple):
    """The carry of `m_lstm`: the matrix memory, its normaliser and the stabiliser."""

    c: Array  # [B, N, D, D], value by key
    n: Array  # [B, N, D]
    m: Array  # [B, N]


@constructor
def m_lstm(hidden_size: int, *, num_heads: int = 1, kernel_init: KernelInit = lecun_normal) -> Cell:
    """The mLSTM of xLSTM: its gates do not see h.

        q = x W_q        k = x W_k / sqrt(D)        v = x W_v
        C' = sigmoid(f) C + exp(i) v k^T
        n' = sigmoid(f) n + exp(i) k
        h = sigmoid(x W_o + b_o) (C' q) / max(|n' q|, 1)

    for each head, i and f scalars of the head, affine in x; computed with the stabiliser
    `m' = max(log sigmoid(f) + m, i)` taken out of C and n, which leaves h as it is; while n is zero, `m' = i`.

    Args:
        hidden_size: H.
        num_heads: N, a divisor of H.
        kernel_init: initialiser of all kernels.

    Returns:
        A cell with carry `MLSTMCarry(c, n, m)` and output h [B, H].

    Notes:
        The bias of f starts evenly spaced on [3, 6] over the heads as published, the one of i at 0. The norm,
        convolution and projections of the published block are not part of the cell.

    References:
        Beck et al., xLSTM: extended long short-term memory, 2024, arXiv:2405.04517.
    """
    checks.positive("hidden_size", hidden_size)
    head_size = checks.head_size(hidden_size, num_heads)

    def init(key: Array, input_size: int) -> MLSTMParams:
        qkv_key, gates_key, o_key = jax.random.split(key, 3)
        return MLSTMParams(
            w_qkv=per_gate(kernel_init, qkv_key, input_size, hidden_size, 3),
            w_gates=per_gate(kernel_init, gates_key, input_size, num_heads, 2),
            b_gates=jnp.concatenate([jnp.zeros(num_heads), jnp.linspace(3.0, 6.0, num_heads)]),
            w_o=kernel_init(o_key, (input_size, hidden_size), float),
            b_o=jnp.zeros(hidden_size),
        )

    def init_carry(params: MLSTMParams, batch_shape: tuple[int, ...] = ()) -> MLSTMCarry:
        dtype, shape = wide(params.b_o.dtype), (*batch_shape, num_heads)
        return MLSTMCarry(
            c=jnp.zeros((*shape, head_size, head_size), dtype),
            n=jnp.zeros((*shape, head_size), dtype),
            m=jnp.zeros(shape, dtype),
        )

    def project(params: MLSTMParams, xs: Array) -> tuple[Array, ...]:
        q, k, v = (
            part.reshape(*xs.shape[:-1], num_heads, head_size)
            for part in jnp.split(affine(xs, params.w_qkv), 3, axis=-1)
        )
        i, f = jnp.split(affine(xs, params.w_gates, params.b_gates), 2, axis=-1)
        return q, k * head_size**-0.5, v, i, f

    def step(params: MLSTMParams, carry: MLSTMCarry, z: tuple[Array, ...]) -> tuple[MLSTMCarry, Array]:
        del params
        q, k, v, i, f = (part.astype(carry.m.dtype) for part in z)
        log_f = jax.nn.log_sigmoid(f)
        # An empty memory has no scale yet: its stabiliser must not drown the first write.
        m = jnp.where((carry.n == 0).all(-1), i, jnp.maximum(log_f + carry.m, i))
        keep, write = jnp.exp(jnp.minimum(log_f + carry.m - m, 0.0))[..., None], jnp.exp(i - m)[..., None]
        c = keep[..., None] * carry.c + (write * v)[..., :, None] * k[..., None, :]
        n = keep * carry.n + write * k
        # exp(-m) is the 1 of the equations in the scale of the stabiliser; bounded, for its gradient.
        floor = jnp.exp(jnp.minimum(-m, 80.0))
        scale = jnp.maximum(jnp.abs((n * q).sum(-1)), floor)[..., None]
        h = (c * q[..., None, :]).sum(-1) / scale
        return MLSTMCarry(c=c, n=n, m=m), h.reshape(*h.shape[:-2], hidden_size).astype(z[0].dtype)

    def readout(params: MLSTMParams, hs: Array, xs: Array) -> Array:
        return jax.nn.sigmoid(affine(xs, params.w_o, params.b_o)) * hs

    return Cell(init=init, init_carry=init_carry, step=step, project=project, readout=readout)
