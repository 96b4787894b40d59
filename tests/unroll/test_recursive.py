"""Chunks of chunks equal the scan, compute each step as often as there are levels, and keep what the budget says."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, INPUT, MAIN, Case, assert_close, everything, make_carry, make_params, make_xs, over, run, weigh
from test_lengths_masks_resets import spoil

from rnn_jax.cells import elman, gru, lstm
from rnn_jax.dropout import with_dropout
from rnn_jax.types import Cell
from rnn_jax.unroll import Chunked, Recursive, Scan, unroll, unroll_carries
from rnn_jax.unroll.recursive import CARRIES, chunk_sizes, kept, num_loops

BY_NAME = {case.name: case for case in MAIN}
STEPS = 47
"""A prime number: with a budget of 4 it goes in chunks of 8 in chunks of 2, and leaves steps over at both levels."""

REVERSE = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def scene(steps: int) -> dict[str, Any]:
    """Lengths, a mask and borders at random."""
    rng = np.random.default_rng(steps)
    return {
        "lengths": np.array([steps, steps - 3, 5, 0], np.int32),
        "mask": rng.random((steps, BATCH)) < 0.8,
        "resets": rng.random((steps, BATCH)) < 0.1,
    }


SCENE = scene(STEPS)
REAL = SCENE["mask"] & (np.arange(STEPS)[:, None] < SCENE["lengths"][None])


def test_the_steps_of_these_tests_are_left_over_at_every_level() -> None:
    assert chunk_sizes(STEPS, 4) == (8, 2)
    assert num_loops(STEPS, (8, 2)) == 3


@REVERSE
@pytest.mark.parametrize("name", ["lstm", "lru", "conv_lstm"])
def test_values_and_gradients_equal_the_scan(name: str, reverse: bool, x64: None) -> None:
    case = BY_NAME[name]
    params = make_params(case)
    xs, carry = spoil(make_xs(case, steps=STEPS), REAL), make_carry(case, params)
    expected = everything(case.cell, params, xs, carry, reverse=reverse, method=Scan(), **SCENE)
    got = everything(case.cell, params, xs, carry, reverse=reverse, method=Recursive(4), **SCENE)
    assert_close(got, expected, rtol=1e-10)


@over(MAIN)
def test_every_cell_equals_the_scan(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case, steps=STEPS)
    assert_close(run(case.cell, params, xs, method=Recursive(4)), run(case.cell, params, xs), rtol=1e-11)


@pytest.mark.parametrize(("steps", "levels"), [(5, 2), (7, 2), (8, 2), (97, 3), (101, 3), (509, 5), (512, 5)])
def test_any_number_of_steps_and_levels_equals_the_scan(steps: int, levels: int, x64: None) -> None:
    case = BY_NAME["gru"]
    assert len(chunk_sizes(steps, 4)) == levels - 1
    params = make_params(case)
    xs, carry = make_xs(case, steps=steps), make_carry(case, params)
    expected = everything(case.cell, params, xs, carry, method=Scan())
    assert_close(everything(case.cell, params, xs, carry, method=Recursive(4)), expected, rtol=1e-10)


@REVERSE
def test_it_keeps_the_same_carries(reverse: bool, x64: None) -> None:
    case = BY_NAME["lstm"]
    params = make_params(case)
    xs, carry = spoil(make_xs(case, steps=STEPS), REAL), make_carry(case, params)

    def results(method: Any) -> Any:
        def loss(params: Any, xs: Any, carry: Any) -> Any:
            out = unroll_carries(case.cell, params, xs, carry, reverse=reverse, method=method, **SCENE)
            return weigh(out), out

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, xs, carry)

    assert_close(results(Recursive(4)), results(Scan()), rtol=1e-10)


def test_each_step_gets_its_own_noise_forward_and_backward(x64: None) -> None:
    cell = with_dropout(lstm(4), inputs=0.3, zoneout_h=0.4, zoneout_c=0.2)
    xs = make_xs(BY_NAME["lstm"], steps=STEPS)
    params = cell.perturb(jax.random.key(1), cell.init(jax.random.key(0), INPUT), xs.shape)

    def results(method: Any, reverse: bool) -> Any:
        def loss(trained: Any, xs: Any) -> Any:
            return weigh(unroll(cell, params._replace(cell=trained), xs, reverse=reverse, method=method))

        return jax.value_and_grad(loss, (0, 1))(params.cell, xs)

    for reverse in (False, True):
        assert_close(results(Recursive(4), reverse), results(Scan(), reverse), rtol=1e-10)


def test_without_steps_nothing_happens(x64: None) -> None:
    case = BY_NAME["lstm"]
    params = make_params(case)
    carry = make_carry(case, params)
    after, ys, carries = unroll_carries(case.cell, params, make_xs(case)[:0], carry, method=Recursive(4))
    assert_close(after, carry, rtol=0)
    assert ys.shape == (0, BATCH, 4)
    assert carries.c.shape == (0, BATCH, 4)


@pytest.mark.parametrize("method", [Recursive(4), Chunked(5), Chunked(40)], ids=repr)
def test_an_empty_batch_stays_empty(method: Any) -> None:
    cell = gru(4)
    params = cell.init(jax.random.key(0), INPUT)
    assert unroll(cell, params, jnp.zeros((STEPS, 0, INPUT)), method=method)[1].shape == (STEPS, 0, 4)


def test_other_transformations_work_as_well(x64: None) -> None:
    cell = elman(3)
    params = cell.init(jax.random.key(0), INPUT)
    xs = make_xs(BY_NAME["elman"], steps=STEPS)
    direction = jax.tree.map(jnp.cos, params)

    def results(method: Any) -> Any:
        def loss(params: Any, xs: Any) -> Any:
            return weigh(unroll(cell, params, xs, method=method))

        forward = jax.jvp(lambda p: loss(p, xs), (params,), (direction,))
        second = jax.jvp(lambda p: jax.grad(loss)(p, xs), (params,), (direction,))
        rows = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, jnp.stack([xs, -xs]))
        return forward, second, rows

    got, expected = (jax.jit(results, static_argnums=0)(method) for method in (Recursive(4), Scan()))
    assert_close(got, expected, rtol=1e-10)


def evaluations(steps: int, sizes: tuple[int, ...]) -> int:
    """How often a gradient computes a step: forward, and once for every level of chunks that it lies in."""
    if not sizes:
        return steps
    size, *inner = sizes
    chunks, rest = divmod(steps, size)
    return chunks * (size + evaluations(size, tuple(inner))) + evaluations(rest, tuple(inner))


@pytest.mark.parametrize(
    ("steps", "budget", "most"), [(1000, 30, 2), (997, 30, 2), (1000, 10, 3), (997, 10, 3), (1000, 5, 4), (30, 30, 1)]
)
def test_a_gradient_computes_each_step_once_a_level(steps: int, budget: int, most: int) -> None:
    calls = [0]

    def call(h: Any) -> Any:
        calls[0] += 1
        return h

    @jax.custom_jvp
    def counted(h: Any) -> Any:
        return jax.pure_callback(call, jax.ShapeDtypeStruct(h.shape, h.dtype), h)

    counted.defjvp(lambda primals, tangents: (counted(*primals), *tangents))

    def step(params: Any, carry: Any, z: Any) -> tuple[Any, Any]:
        h = counted(jnp.sin(params * carry + z))
        return h, h

    cell = Cell(
        init=lambda key, size: jnp.ones(size), init_carry=lambda params, shape=(): jnp.zeros((*shape, 1)), step=step
    )

    def loss(params: Any, xs: Any) -> Any:
        return unroll(cell, params, xs, method=Recursive(budget))[0].sum()

    jax.block_until_ready(jax.jit(jax.value_and_grad(loss))(jnp.ones(1), jnp.ones((steps, 1))))
    assert calls[0] == evaluations(steps, chunk_sizes(steps, budget))
    assert (most - 0.15) * steps <= calls[0] <= most * steps


@pytest.fixture
def optimised() -> Iterator[None]:
    """Compiles as users do: memory is what is measured."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize("cell", [gru(64), lstm(64)], ids=["gru", "lstm"])
def test_the_budget_is_in_steps_of_the_scan_and_saves_far_more_than_fifty_times(cell: Cell, optimised: None) -> None:
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 4))

    def bytes_for(method: Any, steps: int, cell: Cell = cell) -> int:
        def loss(params: Any, xs: Any) -> Any:
            return sum(leaf.sum() for leaf in jax.tree.leaves(unroll(cell, params, xs, method=method)[0]))

        xs = jax.ShapeDtypeStruct((steps, 8, 4), jnp.float32)
        return jax.jit(jax.grad(loss)).lower(params, xs).compile().memory_analysis().temp_size_in_bytes

    steps, prime = 100_000, 99_991
    plain = cell._replace(step=lambda params, carry, z: cell.step(params, carry, z))  # differentiated by jax
    scan, two, three = (
        bytes_for(Scan(), steps, plain),
        bytes_for(Recursive(250), steps),
        bytes_for(Recursive(50), steps),
    )
    assert two < bytes_for(Scan(), 250, plain) < scan / 300
    assert three < bytes_for(Scan(), 50, plain) < scan / 1500
    copies = 2 * 4 * 8 * 4 * prime  # of xs, without the steps that are left over
    assert bytes_for(Recursive(250), prime) < 1.05 * two + copies < scan / 50
    assert two < bytes_for(Scan(), steps) / 150


@pytest.mark.parametrize("steps", [5, 13, 64, 997, 1000, 4096, 9973, 99_991, 100_000, 999_983, 10**6])
def test_as_few_levels_as_fit_are_taken(steps: int) -> None:
    before = math.inf
    for budget in (8, 10, 16, 32, 64, 250, 1000, 10**4, 10**6):
        sizes = chunk_sizes(steps, budget)
        if not sizes:
            assert steps <= budget
            continue
        levels = len(sizes) + 1
        assert kept(steps, sizes) <= budget < steps
        assert all(size % inner == 0 for size, inner in itertools.pairwise(sizes))
        assert 2 <= sizes[-1] <= sizes[0] < steps
        assert num_loops(steps, sizes) <= levels
        # Nearly the least: m steps and levels - 1 times n carries, n^(levels - 1) m = T, m = n / CARRIES or 2.
        n = (CARRIES * steps) ** (1 / levels)
        least = (levels - 1) * n / CARRIES + n / CARRIES
        if n < 2 * CARRIES:
            least = 2 + (levels - 1) * (steps / 2) ** (1 / (levels - 1)) / CARRIES
        assert kept(steps, sizes) < 1.15 * least + 1
        assert levels <= before
        before = levels


def test_two_more_passes_are_enough_for_a_three_thousandth_of_the_steps() -> None:
    assert chunk_sizes(100_000, 225) == (100,)
    assert chunk_sizes(100_000, 35) == (1000, 10)
    assert chunk_sizes(99_991, 36) == (990, 11)
    assert num_loops(99_991, (990, 11)) == 2


def test_where_all_steps_fit_it_is_the_scan() -> None:
    cell = gru(4)
    params = cell.init(jax.random.key(0), INPUT)

    def text(method: Any) -> str:
        xs = jnp.ones((STEPS, 2, INPUT))
        return jax.jit(lambda params: unroll(cell, params, xs, method=method)).lower(params).as_text()

    assert text(Recursive(STEPS)) == text(Scan()) != text(Recursive(STEPS - 1))


def test_budgets_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="`budget` must be an integer of at least 4, got int 3"):
        Recursive(3)
    with pytest.raises(ValueError, match=r"`budget` must be an integer of at least 4, got float 8\.0"):
        Recursive(8.0)
    cell = gru(4)
    params = cell.init(jax.random.key(0), INPUT)
    with pytest.raises(ValueError, match="`budget` must be at least 6 for T=100000, got 5"):
        jax.eval_shape(lambda: unroll(cell, params, jnp.ones((100_000, INPUT)), method=Recursive(5)))
    assert len(chunk_sizes(100_000, 6)) + 1 == 9
