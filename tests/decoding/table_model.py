"""A model of random tables whose every leaf of the carry matters, in JAX and in Python; brute force; a slow search."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

PERIOD, SOURCE = 101, 3
RNG = np.random.default_rng(8)
BY_CODE = 1.5 * RNG.normal(size=(PERIOD, 5))
BY_PAIR = RNG.normal(size=(5, 5, 5))
BY_TRACE = RNG.normal(size=(2, 5))
READ = RNG.normal(size=(5, 2))
ATTENTION = RNG.dirichlet(np.ones(SOURCE), size=PERIOD)


class TableCarry(NamedTuple):
    """`code` remembers all tokens and the row, `last` two tokens, `trace` a decaying sum; `covered` is attention."""

    code: Any  # [*batch]
    last: Any  # [*batch, 2]
    more: dict[str, Any]  # trace [*batch, 2], covered [*batch, S]


def first_carry(rows: Any) -> TableCarry:
    """The carry of rows [*batch], integers that tell them apart."""
    rows = jnp.asarray(rows)
    return TableCarry(
        code=rows.astype(jnp.int32),
        last=jnp.zeros((*rows.shape, 2), jnp.int32),
        more={"trace": jnp.zeros((*rows.shape, 2), float), "covered": jnp.zeros((*rows.shape, SOURCE), float)},
    )


def table_step(vocab_size: int) -> Any:
    def step(carry: TableCarry, tokens: Any) -> tuple[TableCarry, Any]:
        by_code, by_pair, by_trace, read_in, attention = (
            jnp.asarray(table, float) for table in (BY_CODE, BY_PAIR, BY_TRACE, READ, ATTENTION)
        )
        code = (carry.code * 7 + tokens + 1) % PERIOD
        last = jnp.stack([carry.last[..., 1], tokens], axis=-1)
        trace = 0.5 * carry.more["trace"] + read_in[tokens]
        logits = by_code[code] + by_pair[last[..., 0], last[..., 1]] + trace @ by_trace
        covered = carry.more["covered"] + attention[code]
        return TableCarry(code, last, {"trace": trace, "covered": covered}), logits[..., :vocab_size]

    return step


def coverage(carry: TableCarry) -> Any:
    return carry.more["covered"]


def read(row: int, start: int, tokens: Sequence[int], vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities after start and these tokens, and the attention spent up to then."""
    code, last, trace, covered = row, (0, 0), np.zeros(2), np.zeros(SOURCE)
    for token in (start, *tokens):
        code = (code * 7 + token + 1) % PERIOD
        last = (last[1], token)
        trace = 0.5 * trace + READ[token]
        covered = covered + ATTENTION[code]
    logits = (BY_CODE[code] + BY_PAIR[last] + trace @ BY_TRACE)[:vocab_size]
    return logits - np.log(np.exp(logits).sum()), covered


class Setting(NamedTuple):
    """What to search for, of one row."""

    row: int
    start: int = 1
    vocab_size: int = 3
    end: int | None = 0
    max_length: int = 4
    alpha: float = 0.0
    beta: float = 0.0
    ngram: int = 0
    min_length: int = 0
    prefix: tuple[int, ...] = ()


class Hypothesis(NamedTuple):
    """A result; the padding of its tokens is left out."""

    score: float
    log_prob: float
    tokens: tuple[int, ...]


def may_come(setting: Setting, before: tuple[int, ...], token: int) -> bool:
    t, n = len(before), setting.ngram
    if t < len(setting.prefix):
        return token == setting.prefix[t]
    if token == setting.end and t + 1 < setting.min_length:
        return False
    grams = [before[i : i + n] for i in range(t - n + 1)] if n else []
    return (*before, token)[t + 1 - n :] not in grams if n else True


def scored(setting: Setting, tokens: tuple[int, ...], log_prob: float) -> Hypothesis:
    _, covered = read(setting.row, setting.start, tokens[:-1], setting.vocab_size)
    term = setting.beta * sum(np.log(min(c, 1.0)) for c in covered)
    return Hypothesis(log_prob / ((5 + len(tokens)) / 6) ** setting.alpha + term, log_prob, tokens)


def every_hypothesis(setting: Setting) -> list[Hypothesis]:
    """Brute force: all that end, and all of max_length that do not; best first."""
    return sorted(_grow(setting, (), 0.0), reverse=True)


def _grow(setting: Setting, tokens: tuple[int, ...], log_prob: float) -> Iterator[Hypothesis]:
    if len(tokens) == setting.max_length or (tokens and tokens[-1] == setting.end):
        yield scored(setting, tokens, log_prob)
        return
    log_probs, _ = read(setting.row, setting.start, tokens, setting.vocab_size)
    for token in range(setting.vocab_size):
        if may_come(setting, tokens, token):
            yield from _grow(setting, (*tokens, token), log_prob + log_probs[token])


def slow_search(setting: Setting, beams: int, results: int, groups: int = 1, cost: float = 0.0) -> list[Hypothesis]:
    """Beam search of one row in plain loops, through all steps: nothing stops early."""
    width = beams // groups
    live: list[list[tuple[float, tuple[int, ...]]]] = [[(0.0, ())] for _ in range(groups)]
    finished: list[list[Hypothesis]] = [[] for _ in range(groups)]
    for _, group in itertools.product(range(setting.max_length), range(groups)):
        chosen = [tokens[-1] for other in live[:group] for _, tokens in other]
        candidates = []
        for log_prob, tokens in live[group]:
            log_probs, _ = read(setting.row, setting.start, tokens, setting.vocab_size)
            for token in range(setting.vocab_size):
                if may_come(setting, tokens, token):
                    total = log_prob + log_probs[token]
                    candidates.append((total - cost * chosen.count(token), total, (*tokens, token)))
        best = sorted(candidates, reverse=True)[: 2 * width]
        finished[group] += [scored(setting, tokens, total) for _, total, tokens in best if tokens[-1] == setting.end]
        live[group] = [(total, tokens) for _, total, tokens in best if tokens[-1] != setting.end][:width]
    found = []
    for group in range(groups):
        unfinished = [scored(setting, tokens, log_prob) for log_prob, tokens in live[group]]
        found += sorted(finished[group] + unfinished, reverse=True)[:width]
    return sorted(found, reverse=True)[:results]


def assert_found(ours: Any, row: Any, expected: list[Hypothesis], padding: int = 0) -> None:
    """The beams of one row are these hypotheses in this order, and then nothing."""
    tokens, lengths, scores, log_probs = (np.asarray(leaf) for leaf in ours)
    tokens = np.moveaxis(tokens, 0, -1)[row]
    for n, (length, line) in enumerate(zip(lengths[row], tokens, strict=True)):
        assert (line[length:] == padding).all()
        if n < len(expected):
            assert tuple(line[:length]) == expected[n].tokens, (n, expected[n])
        else:
            assert (length, scores[row][n], log_probs[row][n]) == (0, -np.inf, -np.inf)
    given = expected[: len(lengths[row])]
    np.testing.assert_allclose(scores[row][: len(given)], [h.score for h in given], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(log_probs[row][: len(given)], [h.log_prob for h in given], rtol=1e-9, atol=1e-9)
