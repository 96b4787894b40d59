"""Output distributions over tokens: a full softmax, one with sampled candidates, and one in clusters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.initializers import lecun_normal
from rnn_jax.losses import token_nll
from rnn_jax.products import affine, align, product
from rnn_jax.tree import wide
from rnn_jax.types import Array, Params

__all__ = ["AdaptiveParams", "SoftmaxParams", "TokenHead", "adaptive_head", "softmax_head"]


class TokenHead(NamedTuple):
    """A distribution over V tokens, given features [..., F].

    Attributes:
        init: `(key, input_size) -> params`.
        nll: `(params, hs [..., F], targets [...], key=None) -> [...]`, in nats, at least float32. With a key, a head
            that may estimate does so, which is for training only.
        log_probs: `(params, hs [..., F]) -> [..., V]`, at least float32.
    """

    init: Callable[[Array, int], Params]
    nll: Callable[..., Array]
    log_probs: Callable[[Params, Array], Array]


class SoftmaxParams(NamedTuple):
    """Parameters of `softmax_head`. Tied to an embedding [V, F], w is its transpose."""

    w: Array  # [F, V]
    b: Array  # [V]


def softmax_head(vocab_size: int, *, num_sampled: int | None = None) -> TokenHead:
    """The softmax over all tokens, in training over the target and sampled tokens if so wished.

        full:     nll = log sum_v exp z_v - z_y
        sampled:  nll = log(exp z_y + sum_{s in S, s != y} exp z_s / (|S| q(s))) - z_y

    One set S of `num_sampled` tokens is drawn for all steps, with replacement, by q(v) = log(1 + 1 / (v + 1)) /
    log(V + 1): ids are to be numbered by falling frequency, as `build_vocabulary` does. The sum over S is right on the
    average, and the product is one with |S| + 1 tokens instead of V. Without a key the loss is the full one.

    Args:
        vocab_size: V.
        num_sampled: |S|; None: always the full softmax.

    Returns:
        a head.

    Raises:
        ValueError: if a number is not positive.

    Example:
        >>> head = softmax_head(3)
        >>> params = SoftmaxParams(w=jnp.zeros((2, 3)), b=jnp.log(jnp.array([1.0, 2.0, 1.0])))
        >>> print(head.nll(params, jnp.zeros((1, 2)), jnp.array([1])))  # log 2
        [0.6931472]

    References:
        Bengio & Senecal, Adaptive importance sampling to accelerate training of a neural probabilistic language model,
        2008; Jean, Cho, Memisevic & Bengio, On using very large target vocabulary for neural machine translation, 2015,
        arXiv:1412.2007.
    """
    checks.positive("vocab_size", vocab_size)
    if num_sampled is not None:
        checks.positive("num_sampled", num_sampled)

    def init(key: Array, input_size: int) -> SoftmaxParams:
        checks.prng_key(key)
        return SoftmaxParams(w=lecun_normal(key, (input_size, vocab_size)), b=jnp.zeros(vocab_size))

    def log_probs(params: SoftmaxParams, hs: Array) -> Array:
        logits = affine(hs, params.w, params.b)
        return jax.nn.log_softmax(logits.astype(wide(logits.dtype)))

    def nll(params: SoftmaxParams, hs: Array, targets: Array, key: Array | None = None) -> Array:
        if num_sampled is None or key is None:
            return token_nll(affine(hs, params.w, params.b), targets)
        u = jax.random.uniform(key, (num_sampled,))
        drawn = jnp.minimum(jnp.exp(u * np.log(vocab_size + 1)).astype(jnp.int32) - 1, vocab_size - 1)
        own = (hs * params.w.T[targets].astype(hs.dtype)).sum(-1) + params.b[targets].astype(hs.dtype)
        others = affine(hs, params.w[:, drawn], params.b[drawn])
        own, others = own.astype(wide(own.dtype)), others.astype(wide(others.dtype))
        q = jnp.log1p(1 / (drawn.astype(jnp.float32) + 1)) / np.float32(np.log(vocab_size + 1))
        others = others - align(jnp.log(np.float32(num_sampled) * q), others)
        others = jnp.where(align(drawn, targets[..., None]) == targets[..., None], -jnp.inf, others)
        return jnp.logaddexp(own, jax.nn.logsumexp(others, axis=-1)) - own

    return TokenHead(init=init, nll=nll, log_probs=log_probs)


class AdaptiveParams(NamedTuple):
    """Parameters of `adaptive_head`."""

    head: Array  # [F, c_0 + K]: the frequent tokens and the K clusters
    down: tuple[Array, ...]  # K times [F, F_k]
    up: tuple[Array, ...]  # K times [F_k, tokens of the cluster]


def adaptive_head(
    vocab_size: int, cutoffs: Sequence[int], *, divide: float = 4.0, capacity: float | None = None
) -> TokenHead:
    """The softmax in clusters: rare tokens share a class, and are told apart from fewer features.

        p(v) = softmax(h W_0)_v                                          v < c_1
        p(v) = softmax(h W_0)_{c_1 + k} softmax(h D_k U_k)_{v - c_k}     c_k <= v < c_{k+1}

    D_k is [F, F / divide^k]. The ids are to be numbered by falling frequency. There are no biases, as in torch's
    `AdaptiveLogSoftmaxWithLoss`.

    Args:
        vocab_size: V.
        cutoffs: c_1 < ... < c_K, each in [1, V): where clusters begin.
        divide: how much smaller the features of each further cluster are.
        capacity: the loss works out a cluster only for so many times as many steps as have it, on the average of a
            uniform share over K + 1; where there are more, for all. It is the same number, in less time: a gradient of
            700 steps over 11,000 tokens as frequent as Zipf says, 256 features and one cutoff at 2,000, takes 52 ms of
            one core at 0.6, 87 ms without, and 170 ms of a full softmax. None: always for all.

    Returns:
        a head.

    Raises:
        ValueError: if the cutoffs do not rise within [1, V), or a number is not positive.

    Example:
        >>> head = adaptive_head(10, [2, 5])
        >>> params = head.init(jax.random.key(0), 8)
        >>> [leaf.shape for leaf in jax.tree.leaves(params)]
        [(8, 4), (8, 2), (8, 1), (2, 3), (1, 5)]
        >>> print(jnp.exp(head.log_probs(params, jnp.ones(8))).sum().round(5))
        1.0

    References:
        Grave, Joulin, Cisse, Grangier & Jegou, Efficient softmax approximation for GPUs, 2017, arXiv:1609.04309.
    """
    checks.positive("vocab_size", vocab_size)
    starts = list(cutoffs)
    if not starts or starts != sorted(set(starts)) or not 1 <= starts[0] or starts[-1] >= vocab_size:
        raise ValueError(f"`cutoffs` must rise within [1, {vocab_size}), got {list(cutoffs)}")
    for name, value in (("divide", divide), ("capacity", capacity)):
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be above 0, got {value}")
    sizes = [end - start for start, end in zip(starts, [*starts[1:], vocab_size], strict=True)]

    def init(key: Array, input_size: int) -> AdaptiveParams:
        checks.prng_key(key)
        keys = jax.random.split(key, 1 + 2 * len(sizes))
        narrow = [max(1, int(input_size // divide ** (index + 1))) for index in range(len(sizes))]
        return AdaptiveParams(
            head=lecun_normal(keys[0], (input_size, starts[0] + len(sizes))),
            down=tuple(lecun_normal(k, (input_size, n)) for k, n in zip(keys[1::2], narrow, strict=True)),
            up=tuple(lecun_normal(k, (n, size)) for k, n, size in zip(keys[2::2], narrow, sizes, strict=True)),
        )

    def cluster(params: AdaptiveParams, index: int, hs: Array) -> Array:
        logits = product(product(hs, params.down[index]), params.up[index])
        return jax.nn.log_softmax(logits.astype(wide(logits.dtype)))

    def top(params: AdaptiveParams, hs: Array) -> Array:
        logits = product(hs, params.head)
        return jax.nn.log_softmax(logits.astype(wide(logits.dtype)))

    def log_probs(params: AdaptiveParams, hs: Array) -> Array:
        first = top(params, hs)
        rest = [first[..., starts[0] + k, None] + cluster(params, k, hs) for k in range(len(sizes))]
        return jnp.concatenate([first[..., : starts[0]], *rest], axis=-1)

    def nll(params: AdaptiveParams, hs: Array, targets: Array, key: Array | None = None) -> Array:
        del key  # nothing is estimated
        if hs.shape[:-1] != targets.shape or not jnp.issubdtype(targets.dtype, jnp.integer):
            raise ValueError(f"`targets` must be integers {hs.shape[:-1]}, got {checks.describe(targets)}")
        flat, ids = hs.reshape(-1, hs.shape[-1]), targets.reshape(-1)
        which = jnp.searchsorted(jnp.asarray(starts), ids, side="right")  # 0: no cluster
        first = jnp.where(which == 0, ids, starts[0] + which - 1)
        log_p = jnp.take_along_axis(top(params, flat), first[:, None], axis=-1)[:, 0]
        room = len(ids) if capacity is None else min(len(ids), int(np.ceil(capacity * len(ids) / (len(sizes) + 1))))
        for k in range(len(sizes)):
            log_p = log_p + _in_cluster(k, params, flat, ids, which == k + 1, room)
        return -log_p.reshape(targets.shape)

    def _in_cluster(k: int, params: AdaptiveParams, hs: Array, ids: Array, mine: Array, room: int) -> Array:
        """log softmax(h D_k U_k) of the tokens [N] of a cluster, 0 elsewhere."""

        def picked(hs: Array, ids: Array) -> Array:
            local = jnp.clip(ids - starts[k], 0, sizes[k] - 1)
            return jnp.take_along_axis(cluster(params, k, hs), local[:, None], axis=-1)[:, 0]

        def everywhere() -> Array:
            return jnp.where(mine, picked(hs, ids), 0)

        def where_it_counts() -> Array:
            (rows,) = jnp.nonzero(mine, size=room, fill_value=len(ids))
            values = picked(hs.at[rows].get(mode="clip"), ids.at[rows].get(mode="clip"))
            return jnp.zeros(len(ids), values.dtype).at[rows].set(values, mode="drop")

        if room == len(ids):
            return everywhere()
        out: Any = jax.lax.cond(mine.sum() <= room, where_it_counts, everywhere)
        return out

    return TokenHead(init=init, nll=nll, log_probs=log_probs)
