"""Every strategy gives the numbers and gradients of the plain scan, whatever else is asked for."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from cases import LINEAR, MAIN, Case, assert_close, everything, make_carry, make_params, make_xs, over, run
from test_lengths_masks_resets import SCENES, real_steps, spoil

from rnn_jax.cells import gru, lru
from rnn_jax.unroll import Associative, Auto, Chunked, Scan, unroll, unroll_carries

BY_NAME = {case.name: case for case in MAIN}
SCENE = SCENES["all"]


def compare(case: Case, method: Any, reverse: bool) -> None:
    """Values and gradients with lengths, mask, resets, a carry and NaN in the padding."""
    params = make_params(case)
    xs, carry = spoil(make_xs(case), real_steps(SCENE)), make_carry(case, params)
    scanned = everything(case.cell, params, xs, carry, reverse=reverse, method=Scan(), **SCENE)
    got = everything(case.cell, params, xs, carry, reverse=reverse, method=method, **SCENE)
    assert_close(got, scanned, rtol=1e-9)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", ["lstm", "lru", "conv_lstm"])
def test_chunks_that_do_not_divide_the_steps_equal_the_scan(name: str, reverse: bool, x64: None) -> None:
    compare(BY_NAME[name], Chunked(4), reverse)


@pytest.mark.parametrize(
    "method",
    [Chunked(3), Chunked(2, remat=False), Chunked(4, remat=False), Chunked(10), Chunked(1), Scan(unroll=2)],
    ids=repr,
)
def test_every_size_of_chunks_and_unrolling_equals_the_scan(method: Any, x64: None) -> None:
    compare(BY_NAME["gru"], method, reverse=False)


@over([case for case in LINEAR if case in MAIN])
def test_the_associative_scan_equals_the_scan(case: Case, x64: None) -> None:
    compare(case, Associative(), reverse=False)


@pytest.mark.parametrize("name", ["lru", "min_gru"])
def test_the_associative_scan_walks_backwards_as_well(name: str, x64: None) -> None:
    compare(BY_NAME[name], Associative(), reverse=True)


@over(MAIN)
def test_chunks_equal_the_scan_for_every_carry(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    assert_close(run(case.cell, params, xs, method=Chunked(4)), run(case.cell, params, xs), rtol=1e-11)


@over([case for case in LINEAR if case not in MAIN])
def test_the_associative_scan_equals_the_scan_for_the_options_as_well(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    assert_close(run(case.cell, params, xs, method=Associative()), run(case.cell, params, xs), rtol=1e-9)


@pytest.mark.parametrize("method", [Chunked(4), Associative(), Auto()], ids=repr)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_every_strategy_keeps_the_same_carries(method: Any, reverse: bool, x64: None) -> None:
    case = BY_NAME["min_gru"]
    params, xs = make_params(case), make_xs(case)
    carry = make_carry(case, params)
    scanned = unroll_carries(case.cell, params, xs, carry, reverse=reverse, method=Scan(), **SCENE)
    got = unroll_carries(case.cell, params, xs, carry, reverse=reverse, method=method, **SCENE)
    assert_close(got, scanned, rtol=1e-9)
    empty = unroll_carries(case.cell, params, xs[:0], carry, reverse=reverse, method=method)
    assert_close(empty[0], carry, rtol=0)
    assert empty[1].shape == (0, *scanned[1].shape[1:])
    assert empty[2].shape == (0, *scanned[2].shape[1:])


def test_auto_is_a_loop_on_a_cpu_and_for_linear_cells_parallel_elsewhere(x64: None) -> None:
    for name in ("lru", "gru"):
        case = BY_NAME[name]
        params, xs = make_params(case), make_xs(case)

        def loops(method: Any, platform: str, cell: Any = case.cell, params: Any = params, xs: Any = xs) -> int:
            program = jax.jit(lambda params: unroll(cell, params, xs, method=method))
            return jax.export.export(program, platforms=[platform])(params).mlir_module().count("stablehlo.while")

        for platform in ("cpu", "cuda", "tpu"):
            assert loops(Scan(), platform) == 1
            assert loops(Auto(), platform) == int(name == "gru" or platform == "cpu")


def test_a_cell_that_is_not_linear_cannot_be_scanned_associatively() -> None:
    cell = gru(4)
    params = cell.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"`method` Associative\(\) needs a LinearCell.*Use Newton\(\), Scan\(\)"):
        unroll(cell, params, jnp.zeros((5, 2, 3)), method=Associative())


def test_chunks_need_far_less_memory_for_a_gradient_over_many_steps() -> None:
    cell, steps = gru(32), 1024
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 4))
    xs = jax.ShapeDtypeStruct((steps, 2, 4), jnp.float32)

    def bytes_for(method: Any) -> int:
        def loss(params: Any, xs: Any) -> Any:
            carry, _ = unroll(cell, params, xs, method=method)
            return carry.sum()

        return jax.jit(jax.grad(loss)).lower(params, xs).compile().memory_analysis().temp_size_in_bytes

    scan, chunked = bytes_for(Scan()), bytes_for(Chunked(32))
    assert chunked < scan / 4, (chunked, scan)


def test_strategies_are_values() -> None:
    assert Chunked(4) == Chunked(4)
    assert hash(Chunked(4)) == hash(Chunked(4))
    assert Chunked(4) != Chunked(4, remat=False)
    assert Scan() == Scan(unroll=None) != Scan(unroll=1)
    assert Auto() == Auto()
    assert Associative() != Auto()
    cell, traces = lru(4), []

    def count(cell: Any, method: Any, params: Any, xs: Any) -> Any:
        traces.append(method)
        return unroll(cell, params, xs, method=method)[1]

    compiled = jax.jit(count, static_argnums=(0, 1))
    params, xs = cell.init(jax.random.key(0), 3), jnp.ones((4, 1, 3))
    for _ in range(2):
        compiled(lru(4), Chunked(2), params, xs)
    assert len(traces) == 1


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="`size` must be an integer of at least 1, got int 0"):
        Chunked(0)
    with pytest.raises(ValueError, match=r"`size` must be an integer of at least 1, got float 2\.5"):
        Chunked(2.5)
    with pytest.raises(ValueError, match="`unroll` must be an integer of at least 1, got bool True"):
        Scan(unroll=True)
