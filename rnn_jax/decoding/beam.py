"""Beam search: the K likeliest beginnings live on, side by side, as one more batch axis.

Letters: K beams in G groups of M = K / G, C = 2 M candidates of a group at a step, N results.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks, tree
from rnn_jax.decoding.task import Step, Task, allow, count, make_task, next_log_probs, number
from rnn_jax.products import align
from rnn_jax.types import Array, Carry


class Beams(NamedTuple):
    """What `beam_search` returns, best first. A result that does not exist has score -inf and length 0.

    Attributes:
        tokens: int32 [T, *batch, N], T = max_length; `end` after the end (0 where nothing ends).
        lengths: int32 [*batch, N], the end token included.
        scores: [*batch, N], what the results are ranked by.
        log_probs: [*batch, N], the sum of the model's log-probabilities of these tokens.
    """

    tokens: Array
    lengths: Array
    scores: Array
    log_probs: Array


def beam_search(
    step: Step,
    carry: Carry,
    *,
    start: Any,
    end: int | None,
    max_length: int,
    num_beams: int,
    num_results: int | None = None,
    length_penalty: float | Array = 0.0,
    coverage_penalty: float | Array = 0.0,
    coverage: Callable[[Carry], Array] | None = None,
    no_repeat_ngram: int = 0,
    min_length: int = 0,
    prefix: Any = None,
    prefix_lengths: Any = None,
    num_groups: int = 1,
    diversity: float | Array = 0.0,
) -> Beams:
    """The hypotheses of the highest score that K beams find.

        score(y) = log p(y) / ((5 + |y|) / 6)^length_penalty + coverage_penalty sum_s log(min(coverage_s, 1))

    Each step ranks every continuation of every living beam by its log-probability. Of the best 2 K, those that end
    compete by score with those that ended before, and the best K others live on, so that endings do not take the place
    of living beams. Beams that still live at max_length compete as they are, of that length and without an end token. A
    row stops when nothing it could still find would be among its results: the answer is that of all T steps.

    Beams are one more batch axis: the step gets tokens [*batch, K] and a carry with leaves [*batch, K, ...], whose rows
    it must not mix. One beam is `greedy` where nothing ends; else it may end earlier, where that is likelier.

    Args:
        step, start, end, max_length, min_length: as in `greedy`.
        carry: where to start, leaves [*batch, ...] without beams.
        num_beams: K.
        num_results: N, at most K; by default K.
        length_penalty: above 0 favours long results; 1 is almost the mean. It may be traced.
        coverage_penalty: the weight of what was not attended to. It may be traced.
        coverage: `(carry) -> [*batch, K, S]`, the sum of all attention weights up to now, and 1 where the source is
            padding. Values below the smallest normal number count as that.
        no_repeat_ngram: no sequence of so many tokens comes twice in a hypothesis; 0 allows all.
        prefix, prefix_lengths: as in `greedy`. A prefix goes before every ban, and n-grams may repeat in it.
        num_groups: G, which divides K: diverse beam search. A group searches with K / G beams, after the groups before
            it; each gives its K / G best results, so that the same result may come from several.
        diversity: what a token costs for each beam of the groups before that chose it at this step. It decides which
            beams live, and is no part of log-probabilities and scores. It may be traced.

    Returns:
        `Beams`. A beam in which no token is possible is dropped (as when every n-gram would repeat). Where less than N
        hypotheses are found, as few possible ones or too few beams left, the rest have score -inf and length 0.

    Raises:
        ValueError: names the argument, what was expected and what came.

    Example:
        >>> table = jnp.log(jnp.array([[0.2, 0.2, 0.6], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1]]))  # next given last
        >>> beams = beam_search(
        ...     lambda carry, last: (carry, table[last]), (), start=0, end=0, max_length=5, num_beams=3
        ... )
        >>> print(beams.tokens.T, beams.lengths, jnp.exp(beams.scores).round(3))
        [[2 1 0 0 0]
         [0 0 0 0 0]
         [1 0 0 0 0]] [3 1 2] [0.432 0.2   0.18 ]

    References:
        Wu et al., Google's neural machine translation system, 2016, arXiv:1609.08144 (penalties); Vijayakumar et al.,
        Diverse beam search, 2016, arXiv:1610.02424; Paulus et al., A deep reinforced model for abstractive
        summarization, 2017, arXiv:1705.04304 (n-grams).
    """
    checks.positive("num_beams", num_beams)
    checks.positive("num_groups", num_groups)
    count("no_repeat_ngram", no_repeat_ngram)
    if num_beams % num_groups:
        raise ValueError(f"`num_groups` must divide num_beams={num_beams}, got {num_groups}")
    num_results = num_beams if num_results is None else num_results
    checks.positive("num_results", num_results)
    if num_results > num_beams:
        raise ValueError(f"`num_results` must be at most num_beams={num_beams}, got {num_results}")
    task = make_task(
        step,
        carry,
        start,
        end=end,
        max_length=max_length,
        min_length=min_length,
        prefix=prefix,
        prefix_lengths=prefix_lengths,
        num_beams=num_beams,
    )
    cost = number("diversity", diversity, task.dtype)
    if num_groups == 1 and not _is_zero(diversity):
        raise ValueError("`diversity` needs `num_groups` of at least 2, got 1")
    penalties = _penalties(task, length_penalty, coverage_penalty, coverage)
    *batch, _ = task.start.shape
    groups = (*batch, num_groups, num_beams // num_groups)
    num_kept = min(num_results, groups[-1])

    def more(search: _Search) -> Array:
        return (search.t < max_length) & (search.log_probs > -jnp.inf).any()

    def advance(search: _Search) -> _Search:
        t, carry, last, tokens, log_probs, finished = search
        carry, logits = step(carry, last)
        banned = _repeats(tokens, t, no_repeat_ngram, task.vocab_size) if no_repeat_ngram else None
        gains = allow(task, t, next_log_probs(logits).reshape(*groups, task.vocab_size), banned)
        live, ended = _extend(log_probs[..., None] + gains, task.end, cost)
        uncovered = _gather(penalties.coverage(carry).reshape(groups), ended.parents)
        endings = _Hypotheses(
            tokens=_gather(tokens, ended.parents),  # from t on they hold `end` already
            lengths=jnp.full(ended.parents.shape, t + 1),
            scores=_score(ended.log_probs, penalties.length(t + 1), uncovered),
            log_probs=ended.log_probs,
        )
        finished = _best(num_kept, finished, endings)
        settled = (penalties.bound(live.log_probs.max(-1), t + 1) <= finished.scores.min(-1)).all(-1)
        first = np.arange(num_groups, dtype=np.int32).reshape(-1, 1) * groups[-1]
        beams = (live.parents + align(jnp.asarray(first), live.parents)).reshape(*batch, num_beams)
        return _Search(
            t=t + 1,
            carry=_gather(carry, beams),
            last=live.tokens.reshape(*batch, num_beams),
            tokens=_gather(tokens, live.parents).at[..., t].set(live.tokens),
            log_probs=jnp.where(tree.expand(settled, live.log_probs), -jnp.inf, live.log_probs),
            finished=finished,
        )

    alone = jnp.where(jnp.arange(groups[-1]) == 0, 0.0, -jnp.inf).astype(task.dtype)
    search = _Search(
        t=jnp.int32(0),
        carry=task.carry,
        last=task.start,
        tokens=jnp.full((*groups, max_length), task.padding, jnp.int32),
        log_probs=jnp.broadcast_to(alone, groups),
        finished=_nothing(task, (*groups[:-1], num_kept)),
    )
    if max_length:
        search = jax.lax.while_loop(more, advance, search)
    unfinished = _Hypotheses(
        tokens=search.tokens,
        lengths=jnp.full(groups, max_length, jnp.int32),
        scores=_score(
            search.log_probs,
            penalties.length(jnp.int32(max_length)),
            penalties.coverage(search.carry).reshape(groups),
        ),
        log_probs=search.log_probs,
    )
    of_groups = _best(num_kept, search.finished, unfinished)
    found = _best(num_results, jax.tree.map(lambda leaf: jax.lax.collapse(leaf, len(batch), len(batch) + 2), of_groups))
    return Beams(jnp.moveaxis(found.tokens, -1, 0), found.lengths, found.scores, found.log_probs)


class _Hypotheses(NamedTuple):
    """Complete ones; those that do not exist have score -inf. Leaves [*batch, G, n], tokens [*batch, G, n, T]."""

    tokens: Array
    lengths: Array
    scores: Array
    log_probs: Array


class _Search(NamedTuple):
    """The state of the loop. A beam that does not live has log-probability -inf."""

    t: Array
    carry: Carry  # [*batch, K, ...]
    last: Array  # [*batch, K], what the next step reads
    tokens: Array  # [*batch, G, M, T]
    log_probs: Array  # [*batch, G, M]
    finished: _Hypotheses


class _Picked(NamedTuple):
    """Continuations of beams, [*batch, G, n]: a beam of its group, the token after it, the log-probability of both."""

    parents: Array
    tokens: Array
    log_probs: Array


class _Penalties(NamedTuple):
    """The score beyond the log-probability."""

    length: Callable[[Array], Array]  # what divides the log-probability at a length
    coverage: Callable[[Carry], Array]  # [*batch, K], what is added
    bound: Callable[[Array, Array], Array]  # no score of what goes on from this log-probability and length is higher


def _penalties(
    task: Task, length_penalty: Any, coverage_penalty: Any, coverage: Callable[[Carry], Array] | None
) -> _Penalties:
    alpha = number("length_penalty", length_penalty, task.dtype)
    beta = number("coverage_penalty", coverage_penalty, task.dtype)
    if coverage is None and not _is_zero(coverage_penalty):
        raise ValueError("`coverage_penalty` needs `coverage`, (carry) -> accumulated attention, got None")

    def length(steps: Array) -> Array:
        return ((5 + steps.astype(task.dtype)) / 6) ** alpha

    def cover(carry: Carry) -> Array:
        if coverage is None:
            return jnp.zeros(task.start.shape, task.dtype)
        seen = coverage(carry)
        shape = getattr(seen, "shape", ())
        if len(shape) != task.start.ndim + 1 or shape[:-1] != task.start.shape:
            expected = f"the shape (*batch, K, S) with (*batch, K) = {task.start.shape}"
            raise ValueError(f"`coverage` must return {expected}, got {checks.describe(seen)}")
        seen, least = seen.astype(task.dtype), jnp.finfo(task.dtype).tiny
        return beta * jnp.log(jnp.where(seen > least, jnp.minimum(seen, 1), least)).sum(-1)

    def bound(log_probs: Array, steps: Array) -> Array:
        # Log-probabilities only fall and the coverage term is at most 0; the length term is largest at an extreme.
        largest = jnp.maximum(length(steps + 1), length(jnp.int32(task.max_length)))
        highest = _score(log_probs, largest, jnp.zeros_like(log_probs))
        return highest if coverage is None else jnp.where(beta >= 0, highest, jnp.inf)

    return _Penalties(length, cover, bound)


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def _score(log_probs: Array, divisor: Array, extra: Array) -> Array:
    return jnp.where(log_probs > -jnp.inf, log_probs / divisor + extra, -jnp.inf)


def _extend(totals: Array, end: int, cost: Array) -> tuple[_Picked, _Picked]:
    """Ranks all continuations, group after group.

    Args:
        totals: log-probabilities [*batch, G, M, V] of every continuation of every beam.
        end: the end token.
        cost: what a token costs for each beam of earlier groups that chose it.

    Returns:
        The M that live on [*batch, G, M], and those of the best 2 M [*batch, G, C] that end; the others of each have
        log-probability -inf.
    """
    *batch, num_groups, width, vocab_size = totals.shape
    chosen = jnp.zeros((*batch, 1, vocab_size), totals.dtype)
    live, ended = [], []
    for group in range(num_groups):
        total = totals[..., group, :, :]
        ranks = (total - cost * chosen).reshape(*batch, width * vocab_size)
        ranks, ids = jax.lax.top_k(ranks, min(2 * width, width * vocab_size))
        total = _gather(total.reshape(*batch, width * vocab_size), ids)
        parents, tokens = ids // vocab_size, ids % vocab_size
        ends = tokens == end
        ended.append(_Picked(parents, tokens, jnp.where(ends, total, -jnp.inf)))
        goes_on = _Picked(parents, tokens, jnp.where(ends, -jnp.inf, total))
        live.append(_gather(goes_on, jax.lax.top_k(jnp.where(ends, -jnp.inf, ranks), width)[1]))
        lives = (live[-1].log_probs > -jnp.inf)[..., None]
        counts = jnp.where(lives, jax.nn.one_hot(live[-1].tokens, vocab_size, dtype=totals.dtype), 0)
        chosen = chosen + counts.sum(-2, keepdims=True)
    axis = len(batch)
    stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *picked) for picked in (live, ended)]
    return stacked[0], stacked[1]


def _repeats(tokens: Array, t: Array, n: int, vocab_size: int) -> Array:
    """Which tokens [..., V] at step t would end an n-gram that the tokens [..., T] before t hold already."""
    num_steps = tokens.shape[-1]
    rows = jax.lax.collapse(tokens, 0, tokens.ndim - 1)
    banned = jnp.zeros((len(rows), vocab_size), jnp.int32)
    windows = max(num_steps - n + 1, 0)
    if windows:
        latest = jax.lax.dynamic_slice_in_dim(rows, t - n + 1, n - 1, axis=1)
        same = jnp.broadcast_to(jnp.arange(n - 1, num_steps, dtype=jnp.int32) < t, (len(rows), windows))
        for i in range(n - 1):
            same = same & (rows[:, i : i + windows] == latest[:, i : i + 1])
        banned = banned.at[jnp.arange(len(rows), dtype=jnp.int32)[:, None], rows[:, n - 1 :]].add(
            same.astype(jnp.int32)
        )
    return (banned > 0).reshape(*tokens.shape[:-1], vocab_size)


def _best(num: int, *hypotheses: _Hypotheses) -> _Hypotheses:
    """The `num` of highest score, best first; of equal ones the first, so that `_nothing` stays where nothing came."""
    axis = hypotheses[0].scores.ndim - 1
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), *hypotheses)
    return _gather(joined, jax.lax.top_k(joined.scores, num)[1])


def _nothing(task: Task, shape: tuple[int, ...]) -> _Hypotheses:
    """Hypotheses that do not exist."""
    worst = jnp.full(shape, -jnp.inf, task.dtype)
    tokens = jnp.full((*shape, task.max_length), task.padding, jnp.int32)
    return _Hypotheses(tokens, jnp.zeros(shape, jnp.int32), worst, worst)


def _gather(leaves: Any, ids: Array) -> Any:
    """Takes entries `ids` [..., n] of the axis at that place, of every leaf."""
    return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, tree.expand(ids, leaf), axis=ids.ndim - 1), leaves)
