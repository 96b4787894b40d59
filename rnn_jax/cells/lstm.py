"""The LSTM, with the options of its literature."""

from typing import Any, NamedTuple

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
    unit_forget_bias,
)
from rnn_jax.products import MaskedKernel, affine, align, layer_norm, product
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

    def after(params: LSTMParams, carry: LSTMCarry, a: Array) -> LSTMCarry:
        *i, f, g, o = jnp.split(a, len(gates), axis=-1)
        p = [] if params.w_peephole is None else [align(row, carry.c) for row in params.w_peephole]
        f = jax.nn.sigmoid(f + p[-2] * carry.c if p else f)
        i = 1 - f if coupled else jax.nn.sigmoid(i[0] + p[0] * carry.c if p else i[0])
        c = f * carry.c + i * jnp.tanh(g)
        if cell_clip is not None:
            c = jnp.clip(c, -cell_clip, cell_clip)
        o = jax.nn.sigmoid(o + p[-1] * c if p else o)
        inner = c if params.norm is None else _norm(c, params.norm.scale_c, params.norm.shift_c)
        return LSTMCarry(h=o * jnp.tanh(inner), c=c)

    def advance(params: LSTMParams, carry: LSTMCarry, z: Array, dot: Dot) -> LSTMCarry:
        hz = dot(0, carry.h)
        carry = after(params, carry, z + (hz if params.norm is None else _norm(hz, params.norm.scale_h)))
        return LSTMCarry(h=dot(1, carry.h), c=carry.c) if projection else carry

    def without_kernels(params: Any) -> Any:
        return params._replace(w_x=None, w_h=None, b=None, w_projection=None)

    plain = not (peephole or coupled or cell_clip)
    gated = GatedStep(
        lambda params: params.w_h,
        (lambda params, carry, a: _plain(carry, a)[0]) if plain else after,
        lambda carry: carry.h,
        rule=Rule(_plain, _pull_plain) if plain else None,
        part=take_none if plain else without_kernels,
    )
    several = ProductStep(
        lambda params: (params.w_h, params.w_projection) if projection else (params.w_h,),
        advance,
        lambda carry: carry.h,
        without_kernels,
    )
    step = several if projection or layer_norm else gated
    rows = Projection(project, lambda params: params._replace(w_h=None, w_peephole=None, w_projection=None))
    return Cell(init=init, init_carry=init_carry, step=step, project=rows)


_norm = layer_norm  # the option of the constructor has the same name


Gates = tuple[Array, Array, Array, Array]


def _plain(carry: LSTMCarry, a: Array) -> tuple[LSTMCarry, Gates]:
    """The plain LSTM, and its gates apart: XLA makes slow loops of a slice of a slice."""
    i, f, g, o = jnp.split(a, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c = f * carry.c + i * g
    return LSTMCarry(h=o * jnp.tanh(c), c=c), (i, f, g, o)


def _pull_plain(gates: Gates, before: LSTMCarry, after: LSTMCarry, bar: LSTMCarry) -> tuple[LSTMCarry, Array]:
    i, f, g, o = gates
    squashed = jnp.tanh(after.c)
    c_bar = bar.c + bar.h * o * (1 - squashed * squashed)
    by_gates = [g * i * (1 - i), before.c * f * (1 - f), i * (1 - g * g)]
    parts = [slope * c_bar for slope in by_gates]
    a_bar = jnp.concatenate([*parts, bar.h * squashed * o * (1 - o)], axis=-1)
    return LSTMCarry(h=jnp.zeros_like(bar.h), c=f * c_bar), a_bar
