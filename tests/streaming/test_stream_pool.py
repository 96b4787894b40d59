"""Streams in a pool get the numbers that each would get alone, whatever happens beside them."""

import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import MAIN, Case, assert_close, by_hand, make_carry, make_params, make_xs, over
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax import dense, gru, lru, lstm, stack, unroll
from rnn_jax.streaming import StreamPool
from rnn_jax.types import Cell

STACK = Case("stack", stack(lstm(4), lru(3), dense(2)), "", {})


def make_pool(case: Case, params: Any, **options: Any) -> StreamPool:
    settings: dict[str, Any] = {"slots": 3, "row_sizes": (), "chunk_sizes": (2,), "dtype": jnp.float64} | options
    return StreamPool(case.cell, params, input_size=case.input_size, space=case.space, **settings)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@over([*MAIN, STACK])
def test_streams_that_come_at_different_times_get_what_each_gets_alone(case: Case, x64: None) -> None:
    params, xs = make_params(case), np.asarray(make_xs(case, batch=3))
    expected_carry, expected = by_hand(case, params, jnp.asarray(xs))
    pool = make_pool(case, params)
    ys = np.full(expected.shape, np.nan)

    a = pool.join()
    ys[0, 0] = pool.step(a, xs[0, 0])
    b = pool.join()
    ys[0, 1], ys[1, 0] = pool.step([b, a], np.stack([xs[0, 1], xs[1, 0]]))
    c = pool.join()
    chunk = np.full((5, *xs.shape[1:]), np.nan)
    chunk[:5, 0], chunk[:3, 1], chunk[:2, 2] = xs[:5, 2], xs[2:5, 0], xs[1:3, 1]
    out = pool.unroll([c, a, b], chunk, lengths=[5, 3, 2])
    assert (out[3:, 1] == 0).all()
    assert (out[2:, 2] == 0).all()
    ys[:5, 2], ys[2:5, 0], ys[1:3, 1] = out[:5, 0], out[:3, 1], out[:2, 2]
    ys[3:, 1] = pool.unroll(b, xs[3:, 1])
    ys[5, [0, 2]] = pool.step(np.array([a, c]), xs[5, [0, 2]])

    assert_close(ys, np.asarray(expected), rtol=1e-11)
    for row, stream in enumerate((a, b, c)):
        assert_close(pool.snapshot(stream), jax.tree.map(lambda leaf, row=row: leaf[row], expected_carry), rtol=1e-11)


@over([STACK])
def test_any_cut_into_chunks_gives_the_same_numbers(case: Case, x64: None) -> None:
    params, xs = make_params(case), np.asarray(make_xs(case, steps=23, batch=1))[:, 0]
    expected = np.asarray(by_hand(case, params, jnp.asarray(xs)[:, None])[1])[:, 0]
    pool = make_pool(case, params, slots=5, row_sizes=(1, 2), chunk_sizes=(1, 3, 8))
    for cuts in ([23], [1] * 23, [2, 9, 12], [22, 1], [0, 5, 0, 18]):
        stream, ends = pool.join(), np.cumsum(cuts)
        ys = [pool.unroll(stream, xs[end - size : end]) for size, end in zip(cuts, ends, strict=True)]
        assert_close(np.concatenate(ys), expected, rtol=1e-11)
    assert pool.num_compiled <= pool.num_programs == 3 * 3 + 2


def test_streams_that_are_not_stepped_keep_their_carry_bit_for_bit() -> None:
    cell = stack(gru(4), lstm(3))
    pool = StreamPool(cell, cell.init(jax.random.key(0), 2), slots=9, input_size=2, chunk_sizes=(1, 4))
    streams = [pool.join() for _ in range(8)]
    rng = np.random.default_rng(0)
    pool.unroll(streams, rng.normal(size=(6, 8, 2)))
    before = {stream: bits(pool.snapshot(stream)) for stream in streams}
    pool.step(streams[2], rng.normal(size=2))
    pool.step(streams[3:5], rng.normal(size=(2, 2)))
    pool.unroll(streams[2:5], rng.normal(size=(5, 3, 2)), lengths=[5, 3, 0])
    pool.reset(streams[5])
    pool.restore(streams[6], pool.snapshot(streams[0]))
    pool.leave(streams[7])
    joined = pool.join()
    assert bits(pool.snapshot(joined)) == bits(pool.snapshot(streams[5]))
    for stream in streams[:2]:
        assert bits(pool.snapshot(stream)) == before[stream]
    assert bits(pool.snapshot(streams[6])) == before[streams[0]]
    assert all(bits(pool.snapshot(stream)) != before[stream] for stream in streams[2:6])


def test_nan_stays_in_its_stream_until_it_is_reset() -> None:
    cell = stack(lstm(4), lru(3), dense(2))
    params = cell.init(jax.random.key(0), 2)
    pool = StreamPool(cell, params, slots=4, input_size=2, row_sizes=(1, 2), chunk_sizes=(1, 4))
    xs = np.random.default_rng(0).normal(size=(8, 3, 2)).astype(np.float32)
    expected = np.asarray(unroll(cell, params, xs)[1])
    streams = [pool.join() for _ in range(3)]
    bad = xs.copy()
    bad[1:, 2] = np.nan
    ys = [pool.step(streams, bad[0]), pool.step(streams, bad[1]), *pool.unroll(streams, bad[2:7])]
    last = pool.step(streams, bad[7])
    ys = np.stack([*ys, last])
    np.testing.assert_allclose(ys[:, :2], expected[:, :2], rtol=1e-4, atol=1e-6)
    assert np.isnan(ys[1:, 2]).all()
    assert np.isnan(pool.step(streams[2], xs[0, 2])).all()  # it remembers
    pool.reset(streams[2])
    np.testing.assert_allclose(pool.unroll(streams[2], xs[:, 2]), expected[:, 2], rtol=1e-4, atol=1e-6)
    pool.unroll(streams[1], np.full((3, 2), np.nan))
    pool.leave(streams[1])
    np.testing.assert_allclose(pool.unroll(pool.join(), xs[:, 1]), expected[:, 1], rtol=1e-4, atol=1e-6)


@over([STACK])
def test_a_snapshot_goes_on_anywhere(case: Case, x64: None) -> None:
    params, xs = make_params(case), np.asarray(make_xs(case, batch=1))[:, 0]
    expected = np.asarray(by_hand(case, params, jnp.asarray(xs)[:, None])[1])[:, 0]
    pool, other = make_pool(case, params), make_pool(case, params, slots=2, row_sizes=(1,))
    stream = pool.join()
    pool.unroll(stream, xs[:3])
    saved = pool.snapshot(stream)
    on_host = jax.device_get(saved)
    assert_close(pool.unroll(stream, xs[3:]), expected[3:], rtol=1e-11)
    assert_close(other.unroll(other.join(on_host), xs[3:]), expected[3:], rtol=1e-11)
    assert_close(np.asarray(unroll(case.cell, params, xs[3:], saved)[1]), expected[3:], rtol=1e-11)
    pool.restore(stream, on_host)
    assert_close(pool.unroll(stream, xs[3:]), expected[3:], rtol=1e-11)
    carry, _ = unroll(case.cell, params, jnp.asarray(xs[:4]))
    assert_close(other.unroll(other.join(carry), xs[4:]), expected[4:], rtol=1e-11)


def test_a_stream_starts_at_a_carry_that_is_not_that_of_the_cell(x64: None) -> None:
    case = next(case for case in MAIN if case.name == "lstm")
    params, xs = make_params(case), make_xs(case, batch=1)
    carry = make_carry(case, params, batch=1)
    pool = make_pool(case, params)
    stream = pool.join(jax.tree.map(lambda leaf: leaf[0], carry))
    expected = by_hand(case, params, xs, carry)[1]
    assert_close(pool.unroll(stream, np.asarray(xs)[:, 0]), np.asarray(expected)[:, 0], rtol=1e-11)


def test_parameters_are_prepared_once_and_not_in_every_program() -> None:
    prepared = []

    def prepare(params: Any) -> Any:
        if "twice" not in params:
            prepared.append(1)
            params = params | {"twice": 2 * params["w"]}
        return params

    def step(params: Any, carry: Any, z: Any) -> Any:
        carry = carry + z @ prepare(params)["twice"]
        return carry, carry

    cell = Cell(
        init=lambda key, input_size: {"w": jnp.ones((input_size, 2))},
        init_carry=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 2)),
        step=step,
        prepare=prepare,
    )
    pool = StreamPool(cell, cell.init(None, 3), slots=4, input_size=3, chunk_sizes=(1, 2))
    pool.warm_up()
    np.testing.assert_allclose(pool.unroll(pool.join(), np.ones((3, 3)))[:, 0], [6, 12, 18])
    assert len(prepared) == 1


def test_several_threads_take_turns() -> None:
    cell = gru(4)
    params = cell.init(jax.random.key(0), 2)
    pool = StreamPool(cell, params, slots=4, input_size=2, row_sizes=(1,))
    pool.warm_up()
    xs = np.random.default_rng(0).normal(size=(200, 4, 2)).astype(np.float32)
    ys: dict[int, np.ndarray] = {}

    def serve(number: int) -> None:
        stream = pool.join()
        ys[number] = np.stack([pool.step(stream, x) for x in xs[:, number]])

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = np.asarray(unroll(cell, params, xs)[1])
    for number in range(4):
        np.testing.assert_allclose(ys[number], expected[:, number], rtol=1e-4, atol=1e-5)


def test_a_pool_lives_on_one_device() -> None:
    cell = gru(4)
    params = cell.init(jax.random.key(0), 2)
    devices = jax.devices()[2:4]
    everywhere = jax.device_put(params, NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec()))
    pool = StreamPool(cell, everywhere, slots=2, input_size=2)
    stream = pool.join()
    y = pool.step(stream, np.ones(2))
    assert pool.snapshot(stream).devices() == {devices[0]}
    elsewhere = StreamPool(cell, params, slots=2, input_size=2)
    moved = elsewhere.join(pool.snapshot(stream))
    assert elsewhere.snapshot(moved).devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(elsewhere.snapshot(moved), y)
    np.testing.assert_allclose(y, unroll(cell, params, jnp.ones((1, 2)))[1][0], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_outputs_have_the_dtype_of_the_inputs_and_carries_are_wide(dtype: Any) -> None:
    cell = lstm(4)
    pool = StreamPool(cell, cell.init(jax.random.key(0), 2), slots=2, input_size=2, dtype=dtype)
    stream = pool.join()
    assert pool.step(stream, np.ones(2)).dtype == dtype
    assert pool.unroll(stream, np.ones((3, 2), np.int32)).dtype == dtype
    assert pool.snapshot(stream).c.dtype == jnp.float32


@pytest.fixture
def optimised() -> Iterator[None]:
    """Compiles as users do."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize(
    "cell", [lstm(8), gru(8), lru(8), stack(lstm(8), gru(8), lru(8))], ids=["lstm", "gru", "lru", "stack"]
)
@pytest.mark.parametrize("key", [(1, 1), (1, 4), (4, 1)], ids=str)
def test_carries_are_updated_in_place(cell: Any, key: tuple[int, int], optimised: None) -> None:
    pool = StreamPool(cell, cell.init(jax.random.key(0), 2), slots=5000, input_size=2)
    memory = pool._program(key).memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(pool._carry))
    assert memory.alias_size_in_bytes >= size
    assert memory.temp_size_in_bytes < size / 20
    stream = pool.join()
    old = jax.tree.leaves(pool._carry)
    pool.step(stream, np.ones(2))
    assert all(leaf.is_deleted() for leaf in old)
