"""The LSTM, with the options of its literature."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from rnn_jax import checks
from rnn_jax.cells._constructor import constructor
from rnn_jax.gated_step import GatedStep
from rnn_jax.initializers import (
    BiasInit,
    Gate,
    KernelInit,
    lecun_normal,
    orthogonal,
    per_gate,
    unit_forget_bias,
)
from rnn_jax.products import MaskedKernel, affine, align, layer_norm, product, recurrent
from rnn_jax.tree import wide
from rnn_jax.types import Array, Cell


class LSTMNorm(NamedTuple):
    """Gains of the three layer norms of `lstm(layer_norm=True)`, and the shift of the one on c."""

    scale_x: Array  # [4H]
    scale_h: Array  # [4H]
    scale_c: Array  # [H]
    shift_c: Array  # [H]


class LSTMParams(NamedTuple):
    """Parameters of `lstm`. The fused gate axis holds i, f, g, o (coupled: f, g, o). P is the projected size or H."""

    w_x: Array  # [I, 4H]
    w_h: Array | MaskedKernel  # [P, 4H]
    b: Array  # [4H]
    w_peephole: Array | None = None  # [3, H]: i, f, o (coupled [2, H]: f, o)
    w_projection: Array | None = None  # [H, P]
    norm: LSTMNorm | None = None

    GATES = (Gate("i", "write"), Gate("f", "keep"), Gate("g"), Gate("o"))
    COUPLED_GATES = (Gate("f", "keep"), Gate("g"), Gate("o"))


class LSTMCarry(NamedTuple):
    """The carry of `lstm`."""

    h: Array  # [B, P]
    c: Array  # [B, H]


@constructor
def lstm(
    hidden_size: int,
    *,
    peephole: bool = False,
    projection: int | None = None,
    coupled: bool = False,
    layer_norm: bool = False,
    cell_clip: float | None = None,
    kernel_init: KernelInit = lecun_normal,
    recurrent_init: KernelInit = orthogonal,
    bias_init: BiasInit = unit_forget_bias,
) -> Cell:
    """Long short-term memory.

        i = sigmoid(x W_xi + h W_hi + b_i)        f = sigmoid(x W_xf + h W_hf + b_f)
        g = tanh(x W_xg + h W_hg + b_g)           o = sigmoid(x W_xo + h W_ho + b_o)
        c' = f c + i g                            h' = o tanh(c')

    Args:
        hidden_size: H, the size of c, and of h unless it is projected.
        peephole: adds `p_i c` to i, `p_f c` to f and `p_o c'` (the new c) to o, before the sigmoid;
            p starts at zero.
        projection: P; then `h' = (o tanh(c')) W_p` has P features.
        coupled: the input gate is `i = 1 - f`, and its weights are gone.
        layer_norm: normalises `x W_x` and `h W_h` (each over the whole gate axis) and c' inside the last tanh.
        cell_clip: clips c' to [-cell_clip, cell_clip].
        kernel_init: initialiser of W_x, gate by gate.
        recurrent_init: initialiser of W_h, gate by gate.
        bias_init: initialiser of b; by default 1 for f, a value of the bias and never added in the step.

    Returns:
        A cell with carry `LSTMCarry(h, c)` and output h.

    Example:
        >>> cell = lstm(8, projection=5)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> cell.init_carry(params, (2,)).h.shape
        (2, 5)

    Notes:
        Gate order i, f, g, o as in torch, cuDNN and Keras; haiku has i, g, f, o. Recurrent kernels are orthogonal per
        gate as in flax linen.

    References:
        Hochreiter & Schmidhuber, Long short-term memory, 1997; Gers, Schraudolph & Schmidhuber, Learning precise
        timing with LSTM recurrent networks (peepholes), 2002; Sak, Senior & Beaufays (projection), 2014,
        arXiv:1402.1128; Greff et al., LSTM: a search space odyssey (coupled gates), 2015, arXiv:1503.04069;
        Ba, Kiros & Hinton, Layer normalization, 2016, arXiv:1607.06450.
    """
    checks.positive("hidden_size", hidden_size)
    if projection is not None:
        checks.positive("projection", projection)
    if cell_clip is not None and not (isinstance(cell_clip, int | float) and cell_clip > 0):
        raise ValueError(f"`cell_clip` must be a number above 0, got {cell_clip!r}")
    gates = LSTMParams.COUPLED_GATES if coupled else LSTMParams.GATES
    output_size = projection or hidden_size

    def init(key: Array, input_size: int) -> LSTMParams:
        x_key, h_key, b_key, projection_key = jax.random.split(key, 4)
        norm = LSTMNorm(
            scale_x=jnp.ones(len(gates) * hidden_size),
            scale_h=jnp.ones(len(gates) * hidden_size),
            scale_c=jnp.ones(hidden_size),
            shift_c=jnp.zeros(hidden_size),
        )
        return LSTMParams(
            w_x=per_gate(kernel_init, x_key, input_size, hidden_size, len(gates)),
            w_h=per_gate(recurrent_init, h_key, output_size, hidden_size, len(gates)),
            b=bias_init(b_key, gates, hidden_size, float),
            w_peephole=jnp.zeros((len(gates) - 1, hidden_size)) if peephole else None,
            w_projection=lecun_normal(projection_key, (hidden_size, projection)) if projection else None,
            norm=norm if layer_norm else None,
        )

    def init_carry(params: LSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMCarry:
        dtype = wide(params.b.dtype)
        return LSTMCarry(
            h=jnp.zeros((*batch_shape, output_size), dtype), c=jnp.zeros((*batch_shape, hidden_size), dtype)
        )

    def project(params: LSTMParams, xs: Array) -> Array:
        if params.norm is None:
            return affine(xs, params.w_x, params.b)
        zs = _norm(product(xs, params.w_x), params.norm.scale_x)
        return (zs + align(params.b, zs)).astype(xs.dtype)

    def after(params: LSTMParams, carry: LSTMCarry, a: Array) -> tuple[LSTMCarry, Array]:
        *i, f, g, o = jnp.split(a, len(gates), axis=-1)
        p = [] if params.w_peephole is None else [align(row, carry.c) for row in params.w_peephole]
        f = jax.nn.sigmoid(f + p[-2] * carry.c if p else f)
        i = 1 - f if coupled else jax.nn.sigmoid(i[0] + p[0] * carry.c if p else i[0])
        c = f * carry.c + i * jnp.tanh(g)
        if cell_clip is not None:
            c = jnp.clip(c, -cell_clip, cell_clip)
        o = jax.nn.sigmoid(o + p[-1] * c if p else o)
        inner = c if params.norm is None else _norm(c, params.norm.scale_c, params.norm.shift_c)
        h = o * jnp.tanh(inner)
        return LSTMCarry(h=h, c=c), h

    def with_products(params: LSTMParams, carry: LSTMCarry, z: Array) -> tuple[LSTMCarry, Array]:
        hz = recurrent(carry.h, params.w_h, z.dtype)
        if params.norm is not None:
            hz = _norm(hz, params.norm.scale_h)
        carry, h = after(params, carry, z.astype(carry.c.dtype) + hz)
        if params.w_projection is not None:
            h = product(h.astype(z.dtype), params.w_projection).astype(carry.c.dtype)
        return LSTMCarry(h=h, c=carry.c), h.astype(z.dtype)

    plain = not (peephole or coupled or cell_clip)
    gated = GatedStep(
        lambda params: params.w_h,
        (lambda params, carry, a: _plain(carry, a)[0]) if plain else after,
        lambda carry: carry.h,
        linear=_plain if plain else None,
    )
    step = with_products if projection or layer_norm else gated
    return Cell(init=init, init_carry=init_carry, step=step, project=project)


_norm = layer_norm  # the option of the constructor has the same name


def _plain(carry: LSTMCarry, a: Array) -> tuple[tuple[LSTMCarry, Array], Partial]:
    """The plain LSTM and its tangent. All gates go through one sigmoid, of which XLA makes one fast loop."""
    size = carry.c.shape[-1]
    i, f, _, o = jnp.split(lax.optimization_barrier(jax.nn.sigmoid(a)), 4, axis=-1)
    g = lax.optimization_barrier(jnp.tanh(a[..., 2 * size : 3 * size]))
    c = f * carry.c + i * g
    squashed = jnp.tanh(c)
    h = o * squashed
    slopes = [g * i * (1 - i), carry.c * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)]
    tangent = Partial(_plain_tangent, jnp.concatenate(slopes, axis=-1), f, o * (1 - squashed * squashed))
    return (LSTMCarry(h=h, c=c), h), tangent


def _plain_tangent(slopes: Array, f: Array, slope: Array, carry: LSTMCarry, a: Array) -> tuple[LSTMCarry, Array]:
    """Tangents of carry and h; `slopes` are those of c by i, f, g and of h by o, `slope` is that of h by c."""
    by_i, by_f, by_g, by_o = jnp.split(slopes * a, 4, axis=-1)
    c = f * carry.c + (by_i + by_f + by_g)
    h = slope * c + by_o
    return LSTMCarry(h=h, c=c), h
