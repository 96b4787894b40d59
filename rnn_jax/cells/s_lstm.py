"""sLSTM: exponential gates with a normaliser and a stabiliser, recurrent within heads."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.gated_step import Dot, ProductStep, Projection, take_none
from rnn_jax.initializers import (
    BiasInit,
    Gate,
    KernelInit,
    lecun_normal,
    orthogonal,
    per_gate,
    unit_forget_bias,
)
from rnn_jax.products import MaskedKernel, affine
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class SLSTMParams(NamedTuple):
    """Parameters of `s_lstm`. The gate axis holds i, f, g, o; N heads of D = H / N units."""

    w_x: Array  # [I, 4H]
    w_h: Array | MaskedKernel  # [N, D, 4D]
    b: Array  # [4H]

    GATES = (Gate("i", "write"), Gate("f", "keep"), Gate("g"), Gate("o"))


class SLSTMCarry(NamedTuple):
    """The carry of `s_lstm`: h, the memory c, its normaliser n and the stabiliser m, each [B, H]."""

    h: Array
    c: Array
    n: Array
    m: Array


@constructor
def s_lstm(
    hidden_size: int,
    *,
    num_heads: int = 1,
    kernel_init: KernelInit = lecun_normal,
    recurrent_init: KernelInit = orthogonal,
    bias_init: BiasInit = unit_forget_bias,
) -> Cell:
    """The sLSTM of xLSTM.

        i, f, g, o pre-activations = x W_x + h W_h + b        (W_h joins units of the same head only)
        c' = sigmoid(f) c + exp(i) tanh(g)
        n' = sigmoid(f) n + exp(i)
        h' = sigmoid(o) c' / n'

    computed with the stabiliser `m' = max(log sigmoid(f) + m, i)` taken out of c and n, which leaves h as it is; while
    n is zero, `m' = i`.

    Args:
        hidden_size: H.
        num_heads: N, a divisor of H.
        kernel_init: initialiser of W_x, gate by gate.
        recurrent_init: initialiser of W_h, head by head and gate by gate.
        bias_init: initialiser of b; by default 1 for f.

    Returns:
        A cell with carry `SLSTMCarry(h, c, n, m)` and output h.

    Notes:
        The paper's g is called z. The group norm and projections of the published block are not part of the cell.

    References:
        Beck et al., xLSTM: extended long short-term memory, 2024, arXiv:2405.04517.
    """
    checks.positive("hidden_size", hidden_size)
    head_size = checks.head_size(hidden_size, num_heads)

    def init(key: Array, input_size: int) -> SLSTMParams:
        x_key, h_key, b_key = jax.random.split(key, 3)
        heads = [per_gate(recurrent_init, k, head_size, head_size, 4) for k in jax.random.split(h_key, num_heads)]
        return SLSTMParams(
            w_x=per_gate(kernel_init, x_key, input_size, hidden_size, 4),
            w_h=jnp.stack(heads),
            b=bias_init(b_key, SLSTMParams.GATES, hidden_size, float),
        )

    def init_carry(params: SLSTMParams, batch_shape: tuple[int, ...] = ()) -> SLSTMCarry:
        zeros = jnp.zeros((*batch_shape, hidden_size), wide(params.b.dtype))
        return SLSTMCarry(h=zeros, c=zeros, n=zeros, m=zeros)

    def project(params: SLSTMParams, xs: Array) -> Array:
        return affine(xs, params.w_x, params.b)

    def advance(params: None, carry: SLSTMCarry, z: Array, dot: Dot) -> SLSTMCarry:
        hz = dot(0, carry.h.reshape(*carry.h.shape[:-1], num_heads, head_size))
        hz = jnp.swapaxes(hz.reshape(*hz.shape[:-1], 4, head_size), -3, -2).reshape(z.shape)
        i, f, g, o = jnp.split(z + hz, 4, axis=-1)
        log_f = jax.nn.log_sigmoid(f)
        # An empty memory has no scale yet: its stabiliser must not drown the first write.
        m = jnp.where(carry.n == 0, i, jnp.maximum(log_f + carry.m, i))
        keep, write = jnp.exp(jnp.minimum(log_f + carry.m - m, 0.0)), jnp.exp(i - m)
        c = keep * carry.c + write * jnp.tanh(g)
        n = keep * carry.n + write
        h = jax.nn.sigmoid(o) * c / jnp.maximum(n, jnp.finfo(z.dtype).tiny)
        return SLSTMCarry(h=h, c=c, n=n, m=m)

    step = ProductStep(lambda params: (params.w_h,), advance, lambda carry: carry.h, take_none)
    rows = Projection(project, lambda params: params._replace(w_h=None))
    return Cell(init=init, init_carry=init_carry, step=step, project=rows)
