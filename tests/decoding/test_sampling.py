"""Greedy decoding and sampling: against Python loops, and against exact distributions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit
from scipy import stats
from table_model import Setting, first_carry, may_come, read, table_step

from rnn_jax.cells import gru, lru
from rnn_jax.decoding import Decoded, filter_logits, greedy, sample, token_step
from rnn_jax.unroll import stream_step

ROWS, START = np.array([3, 17, 58, 40]), np.array([1, 2, 1, 4])


def slow_greedy(setting: Setting) -> tuple[tuple[int, ...], float]:
    tokens: tuple[int, ...] = ()
    total = 0.0
    while len(tokens) < setting.max_length and setting.end not in tokens:
        log_probs, _ = read(setting.row, setting.start, tokens, setting.vocab_size)
        allowed = [v for v in range(setting.vocab_size) if may_come(setting, tokens, v)]
        token = max(allowed, key=lambda v, log_probs=log_probs: log_probs[v])
        tokens, total = (*tokens, token), total + log_probs[token]
    return tokens, total


@pytest.mark.parametrize(
    ("options", "prefixes"),
    [
        ({"end": 0}, ((), (), (), ())),
        ({"end": None}, ((), (), (), ())),
        ({"end": 2, "min_length": 5}, ((), (), (), ())),
        ({"end": 3, "min_length": 4}, ((1, 3), (), (4, 4, 4), (0, 0))),
    ],
)
def test_greedy_equals_a_loop_over_each_row(options: dict[str, Any], prefixes: Any, x64: None) -> None:
    prefix = np.array([[*one, 99, 99, 99][:3] for one in prefixes]).T
    given = {"start": START, "max_length": 7, "prefix": prefix, "prefix_lengths": [len(one) for one in prefixes]}
    decoded = jit(lambda: greedy(table_step(5), first_carry(ROWS), **given, **options))()
    assert decoded.tokens.dtype == decoded.lengths.dtype == jnp.int32
    assert decoded.log_probs.dtype == jnp.float64
    for row in range(4):
        setting = Setting(int(ROWS[row]), int(START[row]), 5, max_length=7, prefix=prefixes[row], **options)
        tokens, log_prob = slow_greedy(setting)
        assert tuple(decoded.tokens[: decoded.lengths[row], row]) == tokens
        assert (decoded.tokens[decoded.lengths[row] :, row] == (options["end"] or 0)).all()
        np.testing.assert_allclose(decoded.log_probs[row], log_prob, rtol=1e-12)


def test_eager_equals_compiled_and_rows_equal_rows_alone_on_any_batch_axes() -> None:
    def run(rows: Any, start: Any) -> Decoded:
        return greedy(table_step(5), first_carry(rows), start=start, end=0, max_length=7)

    together = run(ROWS.reshape(2, 2), START.reshape(2, 2))
    assert together.tokens.shape == (7, 2, 2)
    assert len(np.unique(together.lengths)) > 1
    for i, j in np.ndindex(2, 2):
        alone = jit(run)(ROWS[2 * i + j], START[2 * i + j])
        np.testing.assert_array_equal(alone.tokens, together.tokens[:, i, j])
        np.testing.assert_array_equal(alone.lengths, together.lengths[i, j])
        np.testing.assert_allclose(alone.log_probs, together.log_probs[i, j], rtol=1e-5)


@pytest.mark.parametrize("cell", [gru(5), lru(5)], ids=["cell", "linear"])
def test_token_step_embeds_the_last_token_and_steps_the_cell(cell: Any) -> None:
    params = jax.tree.map(lambda leaf: 2 * leaf, cell.init(jax.random.key(0), 3))
    embedding = jax.random.normal(jax.random.key(1), (6, 3))
    carry = cell.init_carry(params, (2,))
    decoded = jit(lambda: greedy(token_step(cell, params, embedding), carry, start=[5, 2], end=None, max_length=4))()
    last, total = jnp.array([5, 2]), 0.0
    for tokens in decoded.tokens:
        carry, logits = jit(lambda carry, last: stream_step(cell, params, carry, embedding[last]))(carry, last)
        last = logits.argmax(-1)
        np.testing.assert_array_equal(tokens, last)
        total = total + jax.nn.log_softmax(logits).max(-1)
    np.testing.assert_allclose(decoded.log_probs, total, rtol=1e-5)


def test_token_step_prepares_once_and_a_token_without_a_row_gets_stuck() -> None:
    calls = []
    cell = gru(4)
    counted = cell._replace(prepare=lambda params: calls.append(params) or params)
    params = cell.init(jax.random.key(0), 3)
    step = token_step(counted, params, jnp.ones((5, 3)))
    decoded = greedy(step, cell.init_carry(params, (2,)), start=[4, 5], end=None, max_length=2)
    assert len(calls) == 1
    np.testing.assert_array_equal(decoded.lengths, [2, 0])
    assert decoded.log_probs[1] == -np.inf


def test_a_row_without_a_possible_token_gets_stuck_and_says_so() -> None:
    # From 0 on nothing is known, 1 can only end, 2 goes on; 3 ends the row.
    table = np.full((4, 4), -np.inf, np.float32)
    table[0], table[1, 3], table[2] = np.nan, 0.0, [np.nan, 0.0, 1.0, -np.inf]
    run = jit(lambda **more: greedy(lambda c, last: (c, table[last]), (), start=[0, 1, 2], end=3, max_length=3, **more))
    table = jnp.asarray(table)
    decoded = run()
    np.testing.assert_array_equal(decoded.lengths, [0, 1, 3])
    np.testing.assert_array_equal(decoded.tokens.T, [[3, 3, 3], [3, 3, 3], [2, 2, 2]])
    np.testing.assert_allclose(decoded.log_probs, [-np.inf, 0.0, 3 * (1 - np.log(1 + np.e))], rtol=1e-6)
    drawn = jit(
        lambda key: sample(lambda c, last: (c, table[last]), (), key, start=[0, 1, 2], end=3, max_length=3, top_k=1)
    )(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, drawn, decoded)
    early = jit(lambda: greedy(lambda c, last: (c, table[last]), (), start=[1, 2], end=3, max_length=3, min_length=2))()
    np.testing.assert_array_equal(early.lengths, [0, 3])
    assert early.log_probs[0] == -np.inf
    pair = jnp.array([[0.0, 1.0], [-jnp.inf, -jnp.inf]])
    endless = jit(lambda: greedy(lambda c, last: (c, pair[:, ::-1][last]), (), start=[1, 0], end=None, max_length=3))()
    np.testing.assert_array_equal(endless.lengths, [0, 3])  # what follows the padding is no part of a stuck row
    np.testing.assert_array_equal(endless.tokens, 0)


def test_an_infinite_logit_is_certain_and_half_precision_sums_in_float32() -> None:
    table = jnp.array([[0.0, np.inf, 0.0], [np.inf, 1.0, np.inf], [0.0, 0.0, 0.0]], jnp.bfloat16)
    decoded = greedy(lambda carry, last: (carry, table[last]), (), start=0, end=None, max_length=3)
    np.testing.assert_array_equal(decoded.tokens, [1, 0, 1])
    assert decoded.log_probs.dtype == jnp.float32
    np.testing.assert_allclose(decoded.log_probs, np.log(0.5), rtol=1e-6)


def test_no_steps() -> None:
    for decoded in (
        greedy(table_step(5), first_carry(ROWS), start=START, end=0, max_length=0),
        sample(table_step(5), first_carry(ROWS), jax.random.key(0), start=START, end=0, max_length=0),
    ):
        assert decoded.tokens.shape == (0, 4)
        np.testing.assert_array_equal(decoded.lengths, np.zeros(4))
        np.testing.assert_array_equal(decoded.log_probs, np.zeros(4))


def slow_filter(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """Probabilities of the tokens that are kept, from plain sorting."""
    probs = np.exp((logits - logits.max()) / temperature)
    order = sorted(range(len(logits)), key=lambda v: (-logits[v], v))[:top_k]
    kept = np.zeros(len(logits))
    mass = 0.0
    for v in order:
        if top_p is not None and top_p < 1 and mass >= top_p:
            break
        kept[v] = probs[v]
        mass += probs[v] / probs[order].sum()
    return kept / kept.sum()


def test_filters_equal_a_slow_one_and_compile_once_for_all_numbers(x64: None) -> None:
    rng = np.random.default_rng(5)
    tied = rng.integers(-2, 3, size=(6, 7)).astype(float)
    logits = np.concatenate([rng.normal(size=(6, 7)), tied, np.zeros((1, 7))])
    logits[0, 2] = logits[7, 0] = -np.inf
    for top_k in (None, 1, 3, 7):
        run = jit(lambda z, t, p, top_k=top_k: filter_logits(z, t, top_k, p))
        for temperature in (0.3, 1.0, 2.5):
            only_k = filter_logits(logits, temperature, top_k)
            for top_p in (None, 1e-9, 0.3, 0.75, 0.999, 1.0):
                ours = only_k if top_p is None else run(logits, temperature, top_p)
                expected = [slow_filter(row, temperature, top_k, top_p) for row in logits]
                np.testing.assert_allclose(jax.nn.softmax(ours), expected, rtol=1e-10)
                assert (np.isfinite(ours) == (np.array(expected) > 0)).all()
                np.testing.assert_array_equal(ours.max(-1), 0)
        assert run._cache_size() == 1


def test_filters_at_their_limits() -> None:
    logits = jnp.array([[1.0, 3.0, 3.0, jnp.nan], [-1e30, 0.0, 1e-3, jnp.inf], [-jnp.inf] * 4])
    for out in (
        filter_logits(logits, top_p=1e-30),
        filter_logits(logits, top_k=1),
        filter_logits(logits, 1.0, 4, 1e-30),
    ):
        np.testing.assert_array_equal(np.isfinite(out), [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    traced = jit(filter_logits, static_argnums=2)
    np.testing.assert_array_equal(np.isfinite(traced(logits, 0.0)), [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(np.isfinite(traced(logits, 1.0, None, 0.0)).sum(-1), [1, 1, 0])
    sharp = jnp.array([0.0, -80.0])  # in float32 the first has all probability
    assert np.isfinite(filter_logits(sharp, top_p=1.0)).all()
    assert filter_logits(sharp.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, None, None), (1.5, 4, 0.9), (2.0, 3, None)])
def test_samples_have_the_distribution_of_the_filtered_model(temperature: float, top_k: int, top_p: float) -> None:
    rows, row, start = 8192, 17, 2
    decoded = jit(
        lambda key: sample(
            table_step(5),
            first_carry(np.full(rows, row)),
            key,
            start=np.full(rows, start),
            end=0,
            max_length=2,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
    )(jax.random.key(3))
    counts: dict[tuple[int, ...], int] = {}
    tokens, lengths = np.asarray(decoded.tokens), np.asarray(decoded.lengths)
    for n in range(rows):
        line = tuple(tokens[: lengths[n], n].tolist())
        counts[line] = counts.get(line, 0) + 1
    exact: dict[tuple[int, ...], float] = {}
    worth: dict[tuple[int, ...], float] = {}
    first = read(row, start, (), 5)[0]
    for a, p in enumerate(slow_filter(first, temperature, top_k, top_p)):
        if a == 0:
            exact[(0,)], worth[(0,)] = p, first[0]
            continue
        second = read(row, start, (a,), 5)[0]
        for b, q in enumerate(slow_filter(second, temperature, top_k, top_p)):
            exact[a, b], worth[a, b] = p * q, first[a] + second[b]
    assert set(counts) <= {line for line, p in exact.items() if p > 0}
    lines = [line for line, p in exact.items() if p * rows > 5]
    observed = [counts.get(line, 0) for line in lines] + [rows - sum(counts.get(line, 0) for line in lines)]
    expected = [exact[line] * rows for line in lines] + [rows - sum(exact[line] * rows for line in lines)]
    assert len(lines) > 4
    statistic = sum((o - e) ** 2 / max(e, 1.0) for o, e in zip(observed, expected, strict=True))
    assert stats.chi2.sf(statistic, len(lines)) > 1e-3
    np.testing.assert_allclose(
        decoded.log_probs, [worth[tuple(tokens[: lengths[n], n].tolist())] for n in range(rows)], rtol=1e-4
    )


def test_step_t_draws_with_the_key_folded_in_and_numbers_do_not_recompile() -> None:
    key = jax.random.key(11)
    run = jit(
        lambda temperature, top_p: sample(
            table_step(5),
            first_carry(ROWS),
            key,
            start=START,
            end=0,
            max_length=6,
            temperature=temperature,
            top_p=top_p,
            min_length=3,
            prefix=np.array([[1, 0, 2, 4]]),
        )
    )
    step = jit(table_step(5))
    for temperature, top_p in ((1.0, 1.0), (0.5, 0.8)):
        decoded = run(temperature, top_p)
        carry, last, ended = first_carry(ROWS), jnp.asarray(START), np.zeros(4, bool)
        for t in range(6):
            carry, logits = step(carry, last)
            if t == 0:
                last = jnp.array([1, 0, 2, 4])
            else:
                logits = logits.at[:, 0].set(-jnp.inf) if t < 2 else logits
                last = jax.random.categorical(
                    jax.random.fold_in(key, t), filter_logits(logits, temperature, None, top_p)
                )
            last = jnp.where(ended, 0, last)
            np.testing.assert_array_equal(decoded.tokens[t], last)
            ended = ended | (np.asarray(last) == 0)
    assert run._cache_size() == 1
