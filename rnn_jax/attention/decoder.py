"""A recurrent decoder that attends to a source: itself an ordinary cell."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks, compose, tree
from rnn_jax.attention.types import Attention, Memory, batch_of, source_last
from rnn_jax.caching import cached
from rnn_jax.dropout import keep_mask
from rnn_jax.initializers import lecun_normal
from rnn_jax.products import affine, product
from rnn_jax.tree import wide
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, PerStep, as_cell
from rnn_jax.unroll.borders import real_steps


class DecoderParams(NamedTuple):
    """Parameters of `attention_decoder`; `memory` is the prepared source of one call, put there by `attend`."""

    cell: Params
    attention: Params
    w_c: Any  # [E + H, N], of [context; h]; None where v is h itself
    w_o: Array  # [N, V]
    b_o: Array  # [V]
    memory: Memory | None = None
    keep: PerStep | None = None  # [T, *batch, N]: 0 or 1 / (1 - rate), drawn by `perturb`


class DecoderCarry(NamedTuple):
    """Carry of `attention_decoder`."""

    cell: Carry
    vector: Any  # [*batch, N], the attentional vector that is fed; [*batch, 0] without input feeding
    attention: Any = None  # the state of the mechanism; None without input feeding
    coverage: Any = None  # [*batch, S], the sum of the weights so far, 1 on padding; None without input feeding


class Decoder(NamedTuple):
    """A decoder with attention.

    Attributes:
        cell: reads x, gives logits: an ordinary cell.
        attend: `(params, memory [S, *batch, E], *, lengths=None, mask=None) -> params` with the prepared source in.
            Call it inside the loss, so that gradients reach the encoder and the keys. `mask`: boolean, True = real.
        align: a cell with the same parameters and carry whose outputs are the attention weights [T, *batch, S]; None
            for a decoder without attention.
    """

    cell: Cell
    attend: Callable[..., DecoderParams]
    align: Any


@cached
def attention_decoder(
    cell: Cell | LinearCell,
    attention: Attention,
    output_size: int,
    *,
    memory_size: int,
    input_feeding: bool = True,
    vector_size: int | None = None,
    dropout: float = 0.0,
) -> Decoder:
    """A decoder that attends to a source after each step of its cell.

        h_t = cell([x_t; v_t-1])        with input feeding, else cell(x_t)
        context_t = attention(query h_t)
        v_t = tanh([context_t; h_t] W_c)        y_t = v_t W_o + b_o

    Without input feeding no step waits for the attention of the one before: it is computed for all steps at once.

    Args:
        cell: any cell; for dropout wrap it before (`with_dropout`).
        attention: a mechanism such as `additive(64)`.
        output_size: V, the number of logits.
        memory_size: E, the number of features of the source.
        input_feeding: feed v_t-1 to the cell, which then knows what was attended to. v_-1 is zero.
        vector_size: N, the size of v; that of h by default.
        dropout: drops features of v before the logits, a new mask at every step, where `cell.perturb` drew one.

    Returns:
        A decoder; its cell has `DecoderParams` and `DecoderCarry`. To start from an encoder's carry, put it into the
        field `cell` of the initial carry; `rnn_jax.attention.bridges` make it fit. Queries of more batch axes than the
        source has, such as beams [B, K], share the source of their row.

    Raises:
        ValueError: for a mechanism with a state without input feeding. The cell raises it where `attend` was not called
            before, or where the batch is not that of the source.

    Example:
        >>> from rnn_jax import gru, unroll
        >>> from rnn_jax.attention import additive
        >>> decoder = attention_decoder(gru(8), additive(8), 5, memory_size=6)
        >>> params = decoder.cell.init(jax.random.key(0), 3)
        >>> memory, xs = jnp.ones((7, 2, 6)), jnp.ones((4, 2, 3))
        >>> attended = decoder.attend(params, memory, lengths=jnp.array([7, 4]))
        >>> unroll(decoder.cell, attended, xs)[1].shape, unroll(decoder.align, attended, xs)[1].shape
        ((4, 2, 5), (4, 2, 7))

    References:
        Luong, Pham & Manning, Effective approaches to attention-based neural machine translation, 2015,
        arXiv:1508.04025.
    """
    checks.is_cell(cell)
    if not isinstance(attention, Attention):
        raise ValueError(f"`attention` must be an Attention such as additive(64), got {checks.describe(attention)}")
    checks.positive("output_size", output_size)
    checks.positive("memory_size", memory_size)
    if vector_size is not None:
        checks.positive("vector_size", vector_size)
    checks.fraction("dropout", dropout)
    if not input_feeding and _has_state(attention):
        raise ValueError(
            "`input_feeding=False` attends for all steps at once and needs an `attention` without state; coverage and "
            "monotonic attention go step by step, with input_feeding=True"
        )
    inner = as_cell(cell) if isinstance(cell, LinearCell) else cell

    def init(key: Array, input_size: int) -> DecoderParams:
        checks.prng_key(key)
        checks.positive("input_size", input_size)
        cell_key, attention_key, c_key, o_key = jax.random.split(key, 4)
        n = vector_size
        if n is None:
            n = compose.output_size(cell, jax.eval_shape(lambda: cell.init(cell_key, input_size)), input_size)
        reads = input_size + n if input_feeding else input_size
        cell_params = cell.init(cell_key, reads)
        h = compose.output_size(cell, cell_params, reads)
        return DecoderParams(
            cell=cell_params,
            attention=attention.init(attention_key, h, memory_size),
            w_c=lecun_normal(c_key, (memory_size + h, n)),
            w_o=lecun_normal(o_key, (n, output_size)),
            b_o=jnp.zeros(output_size),
        )

    def attend(
        params: DecoderParams, memory: Array, *, lengths: Array | None = None, mask: Array | None = None
    ) -> DecoderParams:
        checks.sequence("memory", memory)
        checks.features("memory", memory, memory_size)
        real = real_steps(lengths, mask, memory.shape[0], memory.shape[1:-1])
        return params._replace(memory=attention.prepare(params.attention, memory, real))

    def init_carry(params: DecoderParams, batch_shape: tuple[int, ...] = ()) -> DecoderCarry:
        cell_carry, dtype = inner.init_carry(params.cell, batch_shape), wide(params.w_c.dtype)
        if not input_feeding:
            return DecoderCarry(cell=cell_carry, vector=jnp.zeros((*batch_shape, 0), dtype))
        memory = _memory(params, batch_shape)
        covered = 1 - source_last(memory.real, memory, len(batch_shape) + 1).astype(wide(memory.keys.dtype))
        return DecoderCarry(
            cell=cell_carry,
            vector=jnp.zeros((*batch_shape, params.w_c.shape[-1]), dtype),
            attention=attention.init_state(memory, batch_shape),
            coverage=jnp.broadcast_to(covered, (*batch_shape, covered.shape[-1])),
        )

    def prepare(params: DecoderParams) -> DecoderParams:
        return params._replace(cell=inner.prepare(params.cell))

    def perturb(key: Array, params: DecoderParams, shape: tuple[int, ...]) -> DecoderParams:
        cell_key, keep_key = jax.random.split(key)
        size = params.w_c.shape[-1]
        fed = size if input_feeding else 0
        noisy = cell.perturb(cell_key, params.cell, (*shape[:-1], shape[-1] + fed))
        keep = PerStep(keep_mask(keep_key, dropout, (*shape[:-1], size))) if dropout else None
        return params._replace(cell=noisy, keep=keep)

    outline = Cell(init=init, init_carry=init_carry, step=inner.step, prepare=prepare, perturb=perturb)
    cells = _one_by_one(outline, inner, attention) if input_feeding else _all_at_once(outline, inner, attention)
    return Decoder(cell=cells[0], attend=attend, align=cells[1])


def _one_by_one(outline: Cell, inner: Cell, attention: Attention) -> tuple[Cell, Cell]:
    """With input feeding: the whole step is in the loop, only the logits are not."""

    def project(params: DecoderParams, xs: Array) -> tuple[Array, list[Array]]:
        return xs, tree.per_step(params.cell)

    def advance(params: DecoderParams, carry: DecoderCarry, z: Any) -> tuple[DecoderCarry, Array, Array]:
        x, noise = z
        memory, cell_params = _memory(params, x.shape[:-1]), tree.with_per_step(params.cell, noise)
        x = jnp.concatenate([x, carry.vector.astype(x.dtype)], axis=-1)
        cell_carry, h = inner.step(cell_params, carry.cell, inner.project(cell_params, x))
        h = inner.readout(cell_params, h, x)
        state, context, weights = attention.apply(params.attention, memory, carry.attention, h)
        vector = _combine(params, context, h)
        after = DecoderCarry(
            cell=cell_carry,
            vector=vector.astype(carry.vector.dtype),
            attention=state,
            coverage=carry.coverage + weights.astype(carry.coverage.dtype),
        )
        return after, vector.astype(x.dtype), weights

    def step(params: DecoderParams, carry: DecoderCarry, z: Any) -> tuple[DecoderCarry, Array]:
        after, vector, _ = advance(params, carry, z)
        return after, vector

    def align_step(params: DecoderParams, carry: DecoderCarry, z: Any) -> tuple[DecoderCarry, Array]:
        after, _, weights = advance(params, carry, z)
        return after, weights

    def readout(params: DecoderParams, vectors: Array, xs: Array) -> Array:
        del xs
        return logits(params, vectors)

    cell = outline._replace(project=project, step=step)
    return cell._replace(readout=readout), cell._replace(step=align_step)


class _Emitted(NamedTuple):
    """What a step without input feeding hands to the readout.

    A memory of batch [2] and h of shape [2, 2, H] do not say whether the first axis of h is steps, or the second one
    beams. So every step emits a mark without elements, [0], and a loop stacks T of them to [T, 0]. (There is a loop:
    the carry has a leaf, if only one without features.)
    """

    h: Any
    mark: Array


def _all_at_once(outline: Cell, inner: Cell, attention: Attention) -> tuple[Cell, Cell]:
    """Without input feeding: only the inner step is in the loop, all else is done for all steps at once."""

    def project(params: DecoderParams, xs: Array) -> Any:
        return inner.project(params.cell, xs)

    def step(params: DecoderParams, carry: DecoderCarry, z: Any) -> tuple[DecoderCarry, _Emitted]:
        cell_carry, h = inner.step(params.cell, carry.cell, z)
        return carry._replace(cell=cell_carry), _Emitted(h=h, mark=jnp.zeros(0, bool))

    def look(params: DecoderParams, hs: _Emitted, xs: Array) -> tuple[Array, Array, Array]:
        """h, contexts and weights of every step."""
        num_axes = hs.mark.ndim - 1
        memory = _memory(params, xs.shape[num_axes:-1])

        def one(h: Array) -> tuple[Array, Array]:
            state = attention.init_state(memory, h.shape[:-1])
            return attention.apply(params.attention, memory, state, h)[1:]

        for _ in range(num_axes):
            one = jax.vmap(one)
        h = inner.readout(params.cell, hs.h, xs)
        return h, *one(h)

    def readout(params: DecoderParams, hs: _Emitted, xs: Array) -> Array:
        h, contexts, _ = look(params, hs, xs)
        return logits(params, _combine(params, contexts, h).astype(xs.dtype))

    def align_readout(params: DecoderParams, hs: _Emitted, xs: Array) -> Array:
        return look(params, hs, xs)[2]

    cell = outline._replace(project=project, step=step)
    return cell._replace(readout=readout), cell._replace(readout=align_readout)


def logits(params: DecoderParams, vectors: Array) -> Array:
    """What the attentional vectors say: [..., N] -> [..., V]."""
    if params.keep is not None:
        vectors = vectors * params.keep.value.astype(vectors.dtype)
    return affine(vectors, params.w_o, params.b_o)


def _combine(params: DecoderParams, context: Array, h: Array) -> Array:
    """The attentional vector, at least float32."""
    return jnp.tanh(product(jnp.concatenate([context, h], axis=-1), params.w_c))


def _memory(params: DecoderParams, batch_shape: tuple[int, ...]) -> Memory:
    """The prepared source, checked to be there and to be of this batch."""
    if params.memory is None:
        raise ValueError("`params` hold no memory; call decoder.attend(params, memory) first")
    batch = batch_of(params.memory)
    if batch_shape[: len(batch)] != batch:
        raise ValueError(f"`params` hold a memory of batch {batch}, but xs has batch {batch_shape}")
    return params.memory


def _has_state(attention: Attention) -> bool:
    """Whether a mechanism remembers anything from one query to the next."""
    memory = Memory(keys=jnp.zeros((1, 1)), values=jnp.zeros((1, 1)), real=jnp.ones(1, bool))
    return bool(jax.tree.leaves(jax.eval_shape(lambda: attention.init_state(memory, ()))))
