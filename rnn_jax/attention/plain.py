"""A decoder that does not attend: it knows of the source only what its first carry says."""

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks, compose
from rnn_jax.attention.decoder import Decoder, DecoderCarry, DecoderParams, logits
from rnn_jax.caching import cached
from rnn_jax.dropout import keep_mask
from rnn_jax.initializers import lecun_normal
from rnn_jax.products import affine
from rnn_jax.types import Array, Cell, LinearCell, PerStep, as_cell


@cached
def plain_decoder(
    cell: Cell | LinearCell, output_size: int, *, vector_size: int | None = None, dropout: float = 0.0
) -> Decoder:
    """A decoder without attention, to stand where `attention_decoder` stands.

        h_t = cell(x_t)        v_t = tanh(h_t W_c), or h_t        y_t = v_t W_o + b_o

    Args:
        cell: any cell.
        output_size: V, the number of logits.
        vector_size: N, the size of v; None makes v the output of the cell.
        dropout: drops features of v, a new mask at every step, where `cell.perturb` drew one.

    Returns:
        A decoder with `DecoderParams` and `DecoderCarry`, of which only the field `cell` is used. `attend` returns the
        parameters as they are, and `align` is None.

    Example:
        >>> from rnn_jax import gru, unroll
        >>> decoder = plain_decoder(gru(8), 5)
        >>> params = decoder.cell.init(jax.random.key(0), 3)
        >>> unroll(decoder.cell, params, jnp.ones((4, 2, 3)))[1].shape
        (4, 2, 5)

    References:
        Sutskever, Vinyals & Le, Sequence to sequence learning with neural networks, 2014, arXiv:1409.3215.
    """
    checks.is_cell(cell)
    checks.positive("output_size", output_size)
    if vector_size is not None:
        checks.positive("vector_size", vector_size)
    checks.fraction("dropout", dropout)
    inner = as_cell(cell) if isinstance(cell, LinearCell) else cell

    def init(key: Array, input_size: int) -> DecoderParams:
        checks.prng_key(key)
        cell_key, c_key, o_key = jax.random.split(key, 3)
        params = cell.init(cell_key, input_size)
        size = compose.output_size(cell, params, input_size)
        w_c = None if vector_size is None else lecun_normal(c_key, (size, vector_size))
        w_o = lecun_normal(o_key, (vector_size or size, output_size))
        return DecoderParams(cell=params, attention=(), w_c=w_c, w_o=w_o, b_o=jnp.zeros(output_size))

    def init_carry(params: DecoderParams, batch_shape: tuple[int, ...] = ()) -> DecoderCarry:
        return DecoderCarry(cell=inner.init_carry(params.cell, batch_shape), vector=None)

    def project(params: DecoderParams, xs: Array) -> Any:
        return inner.project(params.cell, xs)

    def step(params: DecoderParams, carry: DecoderCarry, z: Any) -> tuple[DecoderCarry, Any]:
        after, h = inner.step(params.cell, carry.cell, z)
        return carry._replace(cell=after), h

    def readout(params: DecoderParams, hs: Any, xs: Array) -> Array:
        h = inner.readout(params.cell, hs, xs)
        return logits(params, h if params.w_c is None else jnp.tanh(affine(h, params.w_c)))

    def prepare(params: DecoderParams) -> DecoderParams:
        return params._replace(cell=inner.prepare(params.cell))

    def perturb(key: Array, params: DecoderParams, shape: tuple[int, ...]) -> DecoderParams:
        cell_key, keep_key = jax.random.split(key)
        keep = PerStep(keep_mask(keep_key, dropout, (*shape[:-1], params.w_o.shape[0]))) if dropout else None
        return params._replace(cell=cell.perturb(cell_key, params.cell, shape), keep=keep)

    def attend(params: DecoderParams, memory: Array, **options: Any) -> DecoderParams:
        del memory, options
        return params

    made = Cell(
        init=init,
        init_carry=init_carry,
        step=step,
        project=project,
        readout=readout,
        prepare=prepare,
        perturb=perturb,
    )
    return Decoder(cell=made, attend=attend, align=None)
