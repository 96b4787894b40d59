"""Beam search finds what brute force finds, and what a slow search of one row finds."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit
from table_model import Setting, assert_found, coverage, every_hypothesis, first_carry, slow_search, table_step

from rnn_jax.cells import gru
from rnn_jax.compose import stack
from rnn_jax.decoding import beam_search, greedy, token_step
from rnn_jax.unroll import unroll

ROWS = np.array([3, 17, 58])
START = np.array([1, 2, 1])
PENALTIES = [(0.0, 0.0), (0.7, 0.0), (3.0, 0.4), (-1.5, 0.0), (-1.5, 2.0), (0.0, -1.0)]


def settings(**options: Any) -> list[Setting]:
    return [Setting(row=int(row), start=int(start), **options) for row, start in zip(ROWS, START, strict=True)]


def search(vocab_size: int, **options: Any) -> Any:
    """`(length_penalty, coverage_penalty, diversity) -> Beams` of all rows, compiled."""

    def run(alpha: Any, beta: Any, cost: Any) -> Any:
        grouped = {"diversity": cost} if options.get("num_groups", 1) > 1 else {}
        return beam_search(
            table_step(vocab_size),
            first_carry(ROWS),
            start=START,
            length_penalty=alpha,
            coverage_penalty=beta,
            coverage=coverage,
            **grouped,
            **options,
        )

    return jit(run)


@pytest.mark.parametrize(
    "options",
    [
        {"end": 0, "num_beams": 31},
        {"end": 2, "num_beams": 40},
        {"end": None, "num_beams": 81},
        {"end": 0, "num_beams": 31, "min_length": 3},
        {"end": 0, "num_beams": 31, "ngram": 1},
        {"end": 0, "num_beams": 31, "ngram": 2},
        {"end": 1, "num_beams": 31, "min_length": 2, "ngram": 2, "prefix": ((2, 2, 0), (2, 2), (1,))},
        {"end": 0, "num_beams": 31, "prefix": ((1, 2, 1, 0), (), (2, 0, 1, 1))},
    ],
    ids=lambda options: "-".join(f"{name}_{value}" for name, value in options.items()),
)
def test_a_beam_as_wide_as_the_tree_finds_every_hypothesis_in_order(options: dict[str, Any], x64: None) -> None:
    prefixes = options.get("prefix", ((), (), ()))
    padded = np.array([[*prefix, -7, -7, -7, -7][:4] for prefix in prefixes]).T
    given = {"no_repeat_ngram" if name == "ngram" else name: value for name, value in options.items()}
    if "prefix" in options:
        given |= {"prefix": padded, "prefix_lengths": np.array([len(prefix) for prefix in prefixes])}
    run = search(3, max_length=4, **given)
    plain = {name: value for name, value in options.items() if name not in ("num_beams", "prefix")}
    for alpha, beta in PENALTIES:
        beams = run(alpha, beta, 0.0)
        for row, setting in enumerate(settings(alpha=alpha, beta=beta, **plain)):
            expected = every_hypothesis(setting._replace(prefix=prefixes[row]))
            assert expected
            assert_found(beams, row, expected, padding=options["end"] or 0)
    assert run._cache_size() == 1


@pytest.mark.parametrize(
    ("beams", "results", "groups", "options"),
    [
        (1, 1, 1, {}),
        (3, 1, 1, {}),
        (3, 3, 1, {}),
        (4, 4, 1, {"ngram": 2, "min_length": 4}),
        (4, 3, 2, {}),
        (6, 6, 3, {"ngram": 1}),
        (3, 2, 3, {"end": None}),
    ],
)
def test_a_narrow_beam_equals_a_slow_search_that_never_stops_early(
    beams: int, results: int, groups: int, options: dict[str, Any], x64: None
) -> None:
    plain = {"end": 0, "max_length": 6, "vocab_size": 5} | options
    given = {"no_repeat_ngram" if name == "ngram" else name: value for name, value in plain.items()}
    size = given.pop("vocab_size")
    run = search(size, num_beams=beams, num_results=results, num_groups=groups, **given)
    for alpha, beta in PENALTIES:
        for cost in (0.0, 0.6, 50.0, -1.0) if groups > 1 else (0.0,):
            found = run(alpha, beta, cost)
            for row, setting in enumerate(settings(alpha=alpha, beta=beta, **plain)):
                assert_found(found, row, slow_search(setting, beams, results, groups, cost))
    assert run._cache_size() == 1


def test_no_penalty_is_the_default_and_fewer_results_are_the_first_of_more() -> None:
    options = {"start": START, "end": 0, "max_length": 6}
    few = jit(lambda: beam_search(table_step(5), first_carry(ROWS), num_beams=4, num_results=2, **options))()
    many = jit(lambda: beam_search(table_step(5), first_carry(ROWS), num_beams=4, **options))()
    assert few.lengths.shape == (3, 2)
    np.testing.assert_array_equal(few.tokens, many.tokens[..., :2])
    np.testing.assert_array_equal(few.scores, many.scores[:, :2])
    np.testing.assert_array_equal(few.scores, few.log_probs)
    for row, setting in enumerate(settings(vocab_size=5, max_length=6)):
        assert tuple(few.tokens[: few.lengths[row, 0], row, 0]) == slow_search(setting, 4, 1)[0].tokens


def test_rows_are_searched_as_if_alone_on_any_batch_axes() -> None:
    options = {"end": 0, "max_length": 6, "num_beams": 3, "length_penalty": 0.7, "no_repeat_ngram": 3}
    rows, start = np.arange(6).reshape(2, 3) * 5, np.array([[1, 2, 3], [4, 1, 2]])
    prefix, lengths = np.arange(12).reshape(2, 2, 3) % 4 + 1, np.array([[0, 1, 2], [2, 1, 0]])
    run = jit(
        lambda rows, start, prefix, lengths: beam_search(
            table_step(5), first_carry(rows), start=start, prefix=prefix, prefix_lengths=lengths, **options
        )
    )
    together = run(rows, start, prefix, lengths)
    assert together.tokens.shape == (6, 2, 3, 3)
    assert together.lengths.shape == together.scores.shape == (2, 3, 3)
    assert len(np.unique(together.lengths)) > 1
    for i, j in np.ndindex(2, 3):
        alone = run(rows[i, j], start[i, j], prefix[:, i, j], lengths[i, j])
        np.testing.assert_array_equal(alone.tokens, together.tokens[:, i, j])
        np.testing.assert_array_equal(alone.lengths, together.lengths[i, j])
        np.testing.assert_allclose(alone.scores, together.scores[i, j], rtol=1e-5)


@pytest.mark.parametrize(("alpha", "results", "steps"), [(0.0, 2, 2), (0.0, 1, 1), (1.0, 2, 3), (-1.0, 2, 2)])
def test_the_search_stops_as_soon_as_nothing_better_can_come(alpha: float, results: int, steps: int) -> None:
    calls = []
    table = jnp.log(jnp.array([[0.9, 0.1], [0.9, 0.1]]))

    def step(carry: Any, last: Any) -> Any:
        calls.append(last)
        return carry, table[last]

    options = {"start": [1, 1], "end": 0, "max_length": 9, "num_beams": 2, "num_results": results}
    with jax.disable_jit():
        beams = beam_search(step, (), length_penalty=alpha, **options)
    lengths = np.array([1, 2])[:results]
    np.testing.assert_array_equal(beams.lengths, [lengths] * 2)
    scores = np.log([0.9, 0.09])[:results] / ((5 + lengths) / 6) ** alpha
    np.testing.assert_allclose(beams.scores, [scores] * 2, rtol=1e-5)
    assert len(calls) == 1 + steps  # the first call is that on shapes


def test_the_search_goes_on_where_the_length_penalty_still_lets_the_next_step_win() -> None:
    table = jnp.log(jnp.array([[1.0, 0.0, 0.0], [0.3, 0.0, 0.7], [1.0, 0.0, 0.0]]))
    step = lambda carry, last: (carry, table[last])  # noqa: E731
    options = {"start": 1, "end": 0, "max_length": 9, "num_beams": 2, "num_results": 1}
    beams = jit(lambda alpha: beam_search(step, (), length_penalty=alpha, **options))(-1.5)
    assert beams.lengths == 2
    np.testing.assert_allclose(beams.scores, np.log([0.7]) * (7 / 6) ** 1.5, rtol=1e-5)


def test_a_dropped_beam_of_another_group_chooses_nothing() -> None:
    table = jnp.log(jnp.array([[0.0, 0.6, 0.4], [0.0, 0.0, 0.0], [0.6, 0.0, 0.4]]))
    step = lambda carry, last: (carry, table[last])  # noqa: E731
    options = {"start": 0, "end": None, "max_length": 2, "num_beams": 2, "num_groups": 2, "diversity": 9.0}
    beams = jit(lambda: beam_search(step, (), **options))()
    np.testing.assert_array_equal(beams.tokens.T, [[2, 0], [0, 0]])
    np.testing.assert_allclose(beams.scores, [np.log(0.24), -np.inf], rtol=1e-5)


def test_one_beam_is_greedy_where_nothing_ends_and_never_less_likely_where_it_ends() -> None:
    step, carry = table_step(5), first_carry(ROWS)
    run = jit(lambda end=None: greedy(step, carry, start=START, end=end, max_length=6), static_argnums=0)
    beam = jit(
        lambda end=None: beam_search(step, carry, start=START, end=end, max_length=6, num_beams=1), static_argnums=0
    )
    np.testing.assert_array_equal(beam().tokens[..., 0], run().tokens)
    np.testing.assert_allclose(beam().log_probs[..., 0], run().log_probs, rtol=1e-5)
    assert (beam(0).log_probs[..., 0] >= run(0).log_probs - 1e-5).all()


def test_a_hypothesis_is_worth_what_teacher_forcing_gives_it() -> None:
    cell = stack(gru(6), gru(5))
    params = jax.tree.map(lambda leaf: 3 * leaf, cell.init(jax.random.key(0), 4))
    embedding = jax.random.normal(jax.random.key(1), (5, 4))
    carry = jax.tree.map(lambda leaf: leaf + jnp.arange(2.0)[:, None], cell.init_carry(params, (2,)))
    start = np.array([1, 3])
    beams = jit(
        lambda: beam_search(token_step(cell, params, embedding), carry, start=start, end=0, max_length=6, num_beams=4)
    )()
    tokens = beams.tokens.reshape(6, -1)
    read = jnp.concatenate([jnp.repeat(start, 4)[None], tokens[:-1]])
    tiled = jax.tree.map(lambda leaf: jnp.repeat(leaf, 4, axis=0), carry)
    _, logits = jit(lambda: unroll(cell, params, embedding[read], tiled))()
    log_probs = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(tokens)[..., None], -1)[..., 0]
    real = np.arange(6)[:, None] < np.asarray(beams.lengths).reshape(-1)
    np.testing.assert_allclose((log_probs * real).sum(0), beams.log_probs.reshape(-1), rtol=1e-5, atol=1e-5)
    assert len(np.unique(beams.lengths)) > 1
    assert (np.diff(beams.scores, axis=-1) <= 0).all()


def test_diversity_makes_groups_choose_other_tokens_and_is_no_part_of_the_score(x64: None) -> None:
    run = search(5, end=None, max_length=3, num_beams=3, num_groups=3)
    alike, apart = run(0.0, 0.0, 0.0), run(0.0, 0.0, 1e4)
    assert (alike.tokens == alike.tokens[..., :1]).all()
    for t, row in np.ndindex(3, 3):
        assert len(set(apart.tokens[t, row].tolist())) == 3
    np.testing.assert_array_equal(apart.scores, apart.log_probs)


def test_beams_that_may_not_go_on_are_dropped_and_endings_remain(x64: None) -> None:
    run = search(3, end=0, max_length=6, num_beams=4, no_repeat_ngram=1)
    beams = run(0.0, 0.0, 0.0)  # at most two tokens and an end
    assert (beams.lengths[:, 0] > 0).all()
    assert (beams.lengths <= 3).all()
    nothing = search(3, end=None, max_length=6, num_beams=4, no_repeat_ngram=1)(0.0, 0.0, 0.0)
    assert (nothing.scores == -np.inf).all()
    assert (nothing.log_probs == -np.inf).all()
    assert (nothing.lengths == 0).all()
    assert (nothing.tokens == 0).all()


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_what_is_not_a_number_counts_as_impossible(bad: float) -> None:
    table = np.log(np.array([[0.3, 0.3, 0.4], [0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], np.float32))
    table[1, 2] = table[2, 1] = bad
    dead = np.full((3, 3), bad, np.float32)
    run = jit(
        lambda tables: beam_search(
            lambda rows, last: (rows, tables[rows, last]),
            jnp.arange(2),
            start=[1, 1],
            end=0,
            max_length=5,
            num_beams=3,
            min_length=2,
        )
    )
    beams = run(np.stack([table, dead]))
    assert (beams.scores[1] == -np.inf).all()
    assert (beams.lengths[1] == 0).all()
    assert np.isfinite(beams.scores[0]).all()
    pairs = [(1, *np.asarray(beams.tokens)[:length, 0, n]) for n, length in enumerate(beams.lengths[0])]
    assert not [line for line in pairs for pair in itertools.pairwise(line) if pair in [(1, 2), (2, 1)]]


def test_no_steps_and_one_token() -> None:
    options = {"start": START, "num_beams": 2, "end": 0}
    beams = beam_search(table_step(5), first_carry(ROWS), max_length=0, **options)
    assert beams.tokens.shape == (0, 3, 2)
    np.testing.assert_array_equal(beams.scores, [[0.0, -np.inf]] * 3)
    np.testing.assert_array_equal(beams.log_probs, beams.scores)
    np.testing.assert_array_equal(beams.lengths, 0)
    step = lambda carry, last: (carry, jnp.zeros((*last.shape, 1)))  # noqa: E731
    one = beam_search(step, (), start=[0, 0], end=0, max_length=4, num_beams=3, min_length=1)
    np.testing.assert_array_equal(one.lengths, [[1, 0, 0]] * 2)
    np.testing.assert_array_equal(one.scores, [[0.0, -np.inf, -np.inf]] * 2)


def test_an_uncovered_source_costs_much_and_nothing_turns_nan() -> None:
    step = lambda carry, last: (carry, jnp.zeros((*last.shape, 2)))  # noqa: E731
    run = jit(
        lambda beta: beam_search(
            step,
            jnp.array([[0.0, 1.0], [jnp.nan, 2.0]]),
            start=[0, 0],
            end=None,
            max_length=1,
            num_beams=2,
            coverage=lambda seen: seen,
            coverage_penalty=beta,
        )
    )
    floor = np.log(np.finfo(np.float32).tiny)
    for beta in (0.0, 0.5):
        np.testing.assert_allclose(run(beta).scores, np.log(0.5) + beta * floor + np.zeros((2, 2)), rtol=1e-6)
