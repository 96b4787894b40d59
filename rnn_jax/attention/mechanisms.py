"""Mechanisms of attention: additive, dot, general, local, monotonic.

In the equations q is the query, m_s the memory and k_s its key at source step s, e_s an energy, a_s a weight; the
context is `sum_s a_s m_s`. Steps that are not real are as if they were not there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks
from rnn_jax.attention.types import Attention, Memory, check_query, masked_softmax, read, scores, source, source_last
from rnn_jax.caching import cached
from rnn_jax.initializers import lecun_normal
from rnn_jax.products import affine, align, product
from rnn_jax.tree import wide
from rnn_jax.types import Array, Params


class AdditiveParams(NamedTuple):
    """Parameters of `additive`."""

    w_q: Array  # [Q, A]
    w_m: Array  # [E, A]
    v: Array  # [A]
    w_coverage: Array | None = None  # [A]


@cached
def additive(size: int, *, coverage: bool = False) -> Attention:
    """Additive attention.

        k_s = m_s W_m        e_s = v . tanh(q W_q + k_s)        a = softmax(e)

    With coverage, k_s becomes `k_s + c_s w_coverage`, where c is the sum of all weights so far.

    Args:
        size: A, the number of hidden units that compare query and key.
        coverage: remember what was attended to. Its weights start at zero.

    Returns:
        A mechanism whose state is c [*batch, S] with coverage, else ().

    Example:
        >>> attention = additive(8)
        >>> params = attention.init(jax.random.key(0), 3, 4)
        >>> memory = attention.prepare(params, jnp.ones((5, 2, 4)))
        >>> _, context, weights = attention.apply(params, memory, (), jnp.ones((2, 3)))
        >>> context.shape, weights.shape
        ((2, 4), (2, 5))

    References:
        Bahdanau, Cho & Bengio, Neural machine translation by jointly learning to align and translate, 2015,
        arXiv:1409.0473; See, Liu & Manning (coverage), 2017, arXiv:1704.04368.
    """
    checks.positive("size", size)

    def init(key: Array, query_size: int, memory_size: int) -> AdditiveParams:
        q_key, m_key, v_key = _keys(key, query_size, memory_size, 3)
        return AdditiveParams(
            w_q=lecun_normal(q_key, (query_size, size)),
            w_m=lecun_normal(m_key, (memory_size, size)),
            v=lecun_normal(v_key, (size, 1))[:, 0],
            w_coverage=jnp.zeros(size) if coverage else None,
        )

    def energies(params: AdditiveParams, memory: Memory, covered: Any, query: Array) -> Array:
        hidden = _compare(memory, query, params.w_q)
        if params.w_coverage is not None:
            hidden = hidden + covered.astype(hidden.dtype)[..., None] * align(params.w_coverage, hidden)
        return (jnp.tanh(hidden) * align(params.v, hidden)).sum(-1)

    return _softmax_attention(init, _prepare_projected, energies, coverage)


class DotParams(NamedTuple):
    """Parameters of `dot`: none without coverage."""

    w_coverage: Array | None = None  # [Q]


@cached
def dot(*, scaled: bool = False, coverage: bool = False) -> Attention:
    """Dot-product attention; query and memory have equally many features Q.

        e_s = q . m_s, over sqrt(Q) if scaled        a = softmax(e)

    Args:
        scaled: divide by the square root of Q, so that energies do not grow with the size.
        coverage: as in `additive`, m_s as the key.

    Returns:
        A mechanism whose state is c [*batch, S] with coverage, else ().

    References:
        Luong, Pham & Manning, Effective approaches to attention-based neural machine translation, 2015,
        arXiv:1508.04025; Vaswani et al. (scaled), Attention is all you need, 2017, arXiv:1706.03762.
    """

    def init(key: Array, query_size: int, memory_size: int) -> DotParams:
        _keys(key, query_size, memory_size, 1)
        if query_size != memory_size:
            raise ValueError(
                f"`query_size` and `memory_size` must be equal for dot(), got {query_size} and {memory_size}; "
                "general() learns a map between them"
            )
        return DotParams(w_coverage=jnp.zeros(query_size) if coverage else None)

    def prepare(params: DotParams, memory: Array, real: Array | None = None) -> Memory:
        size = None if params.w_coverage is None else params.w_coverage.shape[0]
        memory, real = source(memory, real, size)
        return Memory(keys=memory, values=memory, real=real)

    def energies(params: DotParams, memory: Memory, covered: Any, query: Array) -> Array:
        e = _product_energies(params, memory, covered, query)
        return e * query.shape[-1] ** -0.5 if scaled else e

    return _softmax_attention(init, prepare, energies, coverage)


class GeneralParams(NamedTuple):
    """Parameters of `general`."""

    w_m: Array  # [E, Q]
    w_coverage: Array | None = None  # [Q]


@cached
def general(*, coverage: bool = False) -> Attention:
    """Bilinear attention.

        k_s = m_s W_m        e_s = q . k_s        a = softmax(e)

    Args:
        coverage: as in `additive`.

    Returns:
        A mechanism whose state is c [*batch, S] with coverage, else ().

    References:
        Luong, Pham & Manning, 2015, arXiv:1508.04025.
    """

    def init(key: Array, query_size: int, memory_size: int) -> GeneralParams:
        (m_key,) = _keys(key, query_size, memory_size, 1)
        return GeneralParams(
            w_m=lecun_normal(m_key, (memory_size, query_size)),
            w_coverage=jnp.zeros(query_size) if coverage else None,
        )

    return _softmax_attention(init, _prepare_projected, _product_energies, coverage)


class LocalParams(NamedTuple):
    """Parameters of `local`."""

    w_m: Array  # [E, Q]
    w_p: Array  # [Q, Q]
    v_p: Array  # [Q]


@cached
def local(window: int) -> Attention:
    """Local attention around a predicted position (local-p).

        p = S sigmoid(v_p . tanh(q W_p))        k_s = m_s W_m        e_s = q . k_s
        a_s = softmax(e within |s - p| <= D) exp(-(s - p)^2 / (2 (D / 2)^2))

    S is the number of real source steps of the row and s counts them from 0. The weights do not sum to one, as
    published. No gradient flows through where the window begins and ends, only through the Gaussian.

    Args:
        window: D, in source steps.

    Returns:
        A mechanism without state.

    References:
        Luong, Pham & Manning, 2015, arXiv:1508.04025, section 3.2.
    """
    checks.positive("window", window)

    def init(key: Array, query_size: int, memory_size: int) -> LocalParams:
        m_key, w_key, v_key = _keys(key, query_size, memory_size, 3)
        return LocalParams(
            w_m=lecun_normal(m_key, (memory_size, query_size)),
            w_p=lecun_normal(w_key, (query_size, query_size)),
            v_p=lecun_normal(v_key, (query_size, 1))[:, 0],
        )

    def apply(params: LocalParams, memory: Memory, state: Any, query: Array) -> tuple[Any, Array, Array]:
        e = scores(memory, query)
        hidden = jnp.tanh(product(query, params.w_p))
        where = jax.nn.sigmoid((hidden * align(params.v_p, hidden)).sum(-1, keepdims=True)).astype(e.dtype)
        real = source_last(memory.real, memory, e.ndim)
        count = real.astype(jnp.int32)
        distance = (jnp.cumsum(count, -1) - 1).astype(e.dtype) - count.sum(-1, keepdims=True).astype(e.dtype) * where
        weights = masked_softmax(e, real & (jnp.abs(distance) <= window))
        weights = weights * jnp.exp(-2 * jnp.square(distance / window))
        return state, read(memory, weights, query.dtype), weights

    return Attention(init, _prepare_projected, _no_state, apply)


class MonotonicParams(NamedTuple):
    """Parameters of `monotonic`."""

    w_q: Array  # [Q, A]
    w_m: Array  # [E, A]
    b: Array  # [A]
    v: Array  # [A], of which only the direction counts
    g: Array  # [], the scale of the energies
    r: Array  # [], their offset


@cached
def monotonic(size: int, *, offset: float = -1.0) -> Attention:
    """Monotonic attention in expectation: a head that only moves forwards over the source.

    At query i it stays where it was or moves on, and stops at step j with probability p_ij.

        k_j = m_j W_m        p_ij = sigmoid(g v / |v| . tanh(q_i W_q + k_j + b) + r)
        r_ij = (1 - p_i,j-1) r_i,j-1 + a_i-1,j        a_ij = p_ij r_ij

    where r_ij is the probability that the head gets to j. All j are computed at once by an associative scan, without
    the division by products of `1 - p` that overflows. Weights sum to at most one: the head may pass the end.

    Args:
        size: A, the number of hidden units that compare query and key.
        offset: the initial r, negative so that the head can get far at the start of training.

    Returns:
        A mechanism whose state is the previous a [*batch, S], which starts on the first real step.

    References:
        Raffel et al., Online and linear-time attention by enforcing monotonic alignments, 2017, arXiv:1704.00784.
    """
    checks.positive("size", size)

    def init(key: Array, query_size: int, memory_size: int) -> MonotonicParams:
        q_key, m_key, v_key = _keys(key, query_size, memory_size, 3)
        return MonotonicParams(
            w_q=lecun_normal(q_key, (query_size, size)),
            w_m=lecun_normal(m_key, (memory_size, size)),
            b=jnp.zeros(size),
            v=lecun_normal(v_key, (size, 1))[:, 0],
            g=jnp.asarray(size**-0.5, float),
            r=jnp.asarray(offset, float),
        )

    def init_state(memory: Memory, batch_shape: tuple[int, ...]) -> Array:
        first = memory.real & (jnp.cumsum(memory.real.astype(jnp.int32), 0) == 1)
        first = source_last(first, memory, len(batch_shape) + 1).astype(wide(memory.keys.dtype))
        return jnp.broadcast_to(first, (*batch_shape, first.shape[-1]))

    def apply(params: MonotonicParams, memory: Memory, state: Array, query: Array) -> tuple[Array, Array, Array]:
        hidden = _compare(memory, query, params.w_q)
        hidden = jnp.tanh(hidden + align(params.b, hidden))
        v = params.v.astype(hidden.dtype)
        v = params.g.astype(v.dtype) * v * lax.rsqrt(jnp.square(v).sum())
        e = (hidden * align(v, hidden)).sum(-1) + params.r.astype(v.dtype)
        real = source_last(memory.real, memory, e.ndim)
        stop = jnp.where(real, jax.nn.sigmoid(e), 0)
        move_on = jnp.where(real, jax.nn.sigmoid(-e), 1)
        # What wraps around to the first step multiplies nothing.
        steps = jnp.roll(move_on, 1, axis=-1), state.astype(e.dtype)
        _, reached = lax.associative_scan(_compose, steps, axis=e.ndim - 1)
        weights = stop * reached
        return weights.astype(state.dtype), read(memory, weights, query.dtype), weights

    return Attention(init, _prepare_projected, init_state, apply)


def _compose(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
    """The map r -> a r + b of two steps, one after the other."""
    return later[0] * earlier[0], later[0] * earlier[1] + later[1]


def _softmax_attention(
    init: Callable[[Array, int, int], Params],
    prepare: Callable[..., Memory],
    energies: Callable[[Any, Memory, Any, Array], Array],
    coverage: bool,
) -> Attention:
    """A mechanism whose weights are the softmax of energies, and whose state is the coverage if there is one."""

    def cover(memory: Memory, batch_shape: tuple[int, ...]) -> Array:
        return jnp.zeros((*batch_shape, memory.real.shape[0]), wide(memory.keys.dtype))

    def apply(params: Any, memory: Memory, state: Any, query: Array) -> tuple[Any, Array, Array]:
        e = energies(params, memory, state, query)
        weights = masked_softmax(e, source_last(memory.real, memory, e.ndim))
        state = state + weights.astype(state.dtype) if coverage else state
        return state, read(memory, weights, query.dtype), weights

    return Attention(init, prepare, cover if coverage else _no_state, apply)


def _no_state(memory: Memory, batch_shape: tuple[int, ...]) -> tuple[()]:
    del memory, batch_shape
    return ()


def _keys(key: Array, query_size: int, memory_size: int, count: int) -> Array:
    """Checks the arguments of an `init`, and splits its key."""
    checks.prng_key(key)
    checks.positive("query_size", query_size)
    checks.positive("memory_size", memory_size)
    return jax.random.split(key, count)


def _prepare_projected(params: Any, memory: Array, real: Array | None = None) -> Memory:
    """Keys are the memory times `w_m`."""
    memory, real = source(memory, real, params.w_m.shape[0])
    return Memory(keys=affine(memory, params.w_m), values=memory, real=real)


def _compare(memory: Memory, query: Array, w_q: Array) -> Array:
    """q W_q + k_s for every source step, at least float32: [*batch, *extra, S, A]."""
    check_query(memory, query, w_q.shape[0])
    projected = product(query, w_q)
    dtype = wide(query.dtype, memory.keys.dtype)
    keys = source_last(memory.keys, memory, query.ndim)
    return projected[..., None, :].astype(dtype) + keys.astype(dtype)


def _product_energies(params: Any, memory: Memory, covered: Any, query: Array) -> Array:
    """q . (k_s + c_s w_coverage)."""
    e = scores(memory, query)
    if params.w_coverage is None:
        return e
    return e + product(query, params.w_coverage[:, None]).astype(e.dtype) * covered.astype(e.dtype)
