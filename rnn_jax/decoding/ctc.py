"""Decoding of connectionist temporal classification: the labels of the likeliest path, and the likeliest labels.

A path has one token a step; it stands for the labels that are left when repeats are made one and blanks are taken out.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.decoding.beam import Beams
from rnn_jax.decoding.sampling import Decoded
from rnn_jax.decoding.task import next_log_probs
from rnn_jax.types import Array


def ctc_greedy(logits: Array, *, lengths: Any = None, blank: int = 0) -> Decoded:
    """The labels of the likeliest path: the likeliest token at every step, of equally likely ones the first.

    Args:
        logits: [T, *batch, V], floating; NaN counts as -inf.
        lengths: [*batch] or its leading axes, how many steps are real; None: all.
        blank: the token that is no label.

    Returns:
        `Decoded`: labels [T, *batch], `blank` after their end, how many they are [*batch], and the log-probability of
        that one path [*batch], which is at most that of the labels.

    Raises:
        ValueError: names the argument, what was expected and what came.

    Example:
        >>> logits = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]]))
        >>> decoded = ctc_greedy(logits)
        >>> print(decoded.tokens[: decoded.lengths], f"{jnp.exp(decoded.log_probs):.2f}")
        [1 2] 0.16
    """
    return _greedy(logits, _checked(logits, lengths, blank), blank)


def ctc_beam_search(
    logits: Array,
    *,
    num_beams: int,
    num_results: int | None = None,
    max_length: int | None = None,
    lengths: Any = None,
    blank: int = 0,
) -> Beams:
    """The likeliest labels that K beams find: prefix beam search, which adds up the paths of the same labels.

    After each step it keeps the K likeliest beginnings of labels, each with the probability of all its paths that end
    in a blank and of those that end in its last label. It is exact where K holds every beginning.

    Args:
        logits: [T, *batch, V], floating; NaN counts as -inf.
        num_beams: K.
        num_results: N, at most K; by default K.
        max_length: M, the most labels a result may have; by default T.
        lengths: [*batch] or its leading axes, how many steps are real; None: all.
        blank: the token that is no label.

    Returns:
        `Beams`: labels [M, *batch, N], best first, `blank` after their end; `log_probs` and `scores` are the same, the
        log of the sum of those paths that lived in the beams, at most the log-probability of the labels.

    Raises:
        ValueError: names the argument, what was expected and what came.

    Example:
        >>> logits = jnp.log(jnp.array([[0.6, 0.4], [0.6, 0.4]]))
        >>> print(ctc_greedy(logits).lengths, f"{jnp.exp(ctc_greedy(logits).log_probs):.2f}")  # two blanks
        0 0.36
        >>> beams = ctc_beam_search(logits, num_beams=2)
        >>> print(beams.tokens[0], beams.lengths, f"{jnp.exp(beams.log_probs[0]):.2f}")  # 1 1, 1 blank, blank 1
        [1 0] [1 0] 0.64

    References:
        Graves et al., Connectionist temporal classification, ICML 2006 (prefix search); Hannun et al., First-pass
        large vocabulary continuous speech recognition, 2014, arXiv:1408.2873 (beams).
    """
    checks.positive("num_beams", num_beams)
    num_results = num_beams if num_results is None else num_results
    checks.positive("num_results", num_results)
    if num_results > num_beams:
        raise ValueError(f"`num_results` must be at most num_beams={num_beams}, got {num_results}")
    max_length = max(len(logits), 1) if max_length is None else max_length
    checks.positive("max_length", max_length)
    return _search(logits, _checked(logits, lengths, blank), num_beams, num_results, max_length, blank)


@partial(jax.jit, static_argnames="blank")
def _greedy(logits: Array, lengths: Array, blank: int) -> Decoded:
    log_p, real = _log_probs(logits, lengths)
    best = jnp.argmax(log_p, axis=-1).astype(jnp.int32)
    before = jnp.concatenate([jnp.full_like(best[:1], blank), best[:-1]])
    said = real & (best != blank) & (best != before)
    order = jnp.argsort(~said, axis=0, stable=True)
    counts = said.sum(0, dtype=jnp.int32)
    tokens = jnp.take_along_axis(best, order, axis=0)
    kept = jnp.take_along_axis(said, order, axis=0)
    return Decoded(
        tokens=jnp.where(kept, tokens, blank),
        lengths=counts,
        log_probs=jnp.where(real, log_p.max(-1), 0).sum(0),
    )


@partial(jax.jit, static_argnames=("num_beams", "num_results", "max_length", "blank"))
def _search(logits: Array, lengths: Array, num_beams: int, num_results: int, max_length: int, blank: int) -> Beams:
    log_p, real = _log_probs(logits, lengths)
    num_steps, *batch, num_tokens = log_p.shape

    def one_row(log_p: Array, real: Array) -> _Prefixes:
        start = _Prefixes(
            tokens=jnp.full((num_beams, max_length), blank, jnp.int32),
            lengths=jnp.zeros(num_beams, jnp.int32),
            in_blank=jnp.where(jnp.arange(num_beams) == 0, 0.0, -jnp.inf).astype(log_p.dtype),
            in_label=jnp.full(num_beams, -jnp.inf, log_p.dtype),
        )

        def step(prefixes: _Prefixes, inputs: tuple[Array, Array]) -> tuple[_Prefixes, None]:
            log_p, real = inputs
            after = _advance(prefixes, log_p, blank)
            return jax.tree.map(lambda new, old: jnp.where(real, new, old), after, prefixes), None

        last, _ = jax.lax.scan(step, start, (log_p, real))
        return last

    rows = jax.vmap(one_row, in_axes=1)(log_p.reshape(num_steps, -1, num_tokens), real.reshape(num_steps, -1))
    log_probs, order = jax.lax.top_k(rows.total(), num_results)
    found = log_probs > -jnp.inf
    lengths = jnp.where(found, jnp.take_along_axis(rows.lengths, order, axis=1), 0)
    tokens = jnp.take_along_axis(rows.tokens, order[..., None], axis=1)
    tokens = jnp.where(found[..., None], tokens, blank)
    log_probs, lengths = (leaf.reshape(*batch, num_results) for leaf in (log_probs, lengths))
    tokens = jnp.moveaxis(tokens, -1, 0).reshape(max_length, *batch, num_results)
    return Beams(tokens, lengths, log_probs, log_probs)


class _Prefixes(NamedTuple):
    """K beginnings of labels of one row; those that do not exist have log-probability -inf."""

    tokens: Array  # [K, M], blank after the end
    lengths: Array  # [K]
    in_blank: Array  # [K], log-probability of the paths that end in a blank
    in_label: Array  # [K], of those that end in the last label

    def total(self) -> Array:
        return jnp.logaddexp(self.in_blank, self.in_label)


def _advance(prefixes: _Prefixes, log_p: Array, blank: int) -> _Prefixes:
    """One step, log_p [V]: every beginning stays or gets a label more, and the K likeliest live on."""
    tokens, lengths, in_blank, in_label = prefixes
    (num_beams, max_length), num_tokens = tokens.shape, log_p.shape[0]
    total, ids = prefixes.total(), jnp.arange(num_tokens, dtype=jnp.int32)
    last = jnp.where(lengths > 0, _pick(tokens, lengths - 1), blank)

    # A label after itself is a new one only after a blank; otherwise it is still the same.
    before = jnp.where(last[:, None] == ids[None], in_blank[:, None], total[:, None])
    possible = (ids != blank)[None] & (lengths < max_length)[:, None]
    longer = jnp.where(possible, before + log_p[None], -jnp.inf)
    # A beginning that lives already as another one's continuation gets its paths instead of coming twice.
    reached = _continuations(prefixes, last) & (total > -jnp.inf)[None]
    gained = jnp.where(reached, longer[:, last], -jnp.inf).max(0)
    twice = (reached[..., None] & (last[:, None] == ids[None])[None]).any(1)
    longer = jnp.where(twice, -jnp.inf, longer)
    stay_label = jnp.logaddexp(jnp.where(lengths > 0, in_label + log_p[last], -jnp.inf), gained)
    stay_blank = total + log_p[blank]

    candidates = jnp.concatenate([jnp.logaddexp(stay_blank, stay_label), longer.reshape(-1)])
    _, chosen = jax.lax.top_k(candidates, num_beams)
    grows = chosen >= num_beams
    parents = jnp.where(grows, (chosen - num_beams) // num_tokens, chosen)
    label = ((chosen - num_beams) % num_tokens).astype(jnp.int32)
    at_end = grows[:, None] & (jnp.arange(max_length, dtype=jnp.int32)[None] == lengths[parents][:, None])
    return _Prefixes(
        tokens=jnp.where(at_end, label[:, None], tokens[parents]),
        lengths=lengths[parents] + grows.astype(jnp.int32),
        in_blank=jnp.where(grows, -jnp.inf, stay_blank[parents]),
        in_label=jnp.where(grows, candidates[chosen], stay_label[parents]),
    )


def _continuations(prefixes: _Prefixes, last: Array) -> Array:
    """[K, K] bool: where beginning j is beginning i with one label more, the last one of j."""
    tokens, lengths = prefixes.tokens, prefixes.lengths
    places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, None]
    with_last = jnp.where(places == lengths[:, None, None], last[None, :, None], tokens[:, None])
    return (with_last == tokens[None]).all(-1) & (lengths[:, None] + 1 == lengths[None])


def _pick(tokens: Array, places: Array) -> Array:
    """tokens[k, places[k]], and anything where a place is negative."""
    return jnp.take_along_axis(tokens, jnp.maximum(places, 0)[:, None], axis=1)[:, 0]


def _checked(logits: Array, lengths: Any, blank: int) -> Array:
    """The lengths [*batch or its leading axes]."""
    checks.sequence("logits", logits)
    num_steps, *batch, num_tokens = logits.shape
    if not isinstance(blank, int) or not 0 <= blank < num_tokens:
        raise ValueError(f"`blank` must be a token in [0, {num_tokens}), got {checks.describe(blank)}")
    return checks.lengths(num_steps if lengths is None else lengths, num_steps, tuple(batch))


def _log_probs(logits: Array, lengths: Array) -> tuple[Array, Array]:
    """Log-probabilities [T, *batch, V], and which steps are real [T, *batch]."""
    num_steps, *batch, _ = logits.shape
    steps = jnp.arange(num_steps, dtype=lengths.dtype).reshape(-1, *[1] * lengths.ndim)
    real = (steps < lengths[None]).reshape(num_steps, *lengths.shape, *[1] * (len(batch) - lengths.ndim))
    return next_log_probs(logits), jnp.broadcast_to(real, (num_steps, *batch))
