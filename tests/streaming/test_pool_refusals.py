"""What a pool cannot do is said by name, and changes nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bidirectional, gru, layer, lstm, with_dropout
from rnn_jax.streaming import StreamPool

CELL = lstm(4)
PARAMS = CELL.init(jax.random.key(0), 3)


def make_pool(**options: Any) -> StreamPool:
    settings: dict[str, Any] = {"slots": 2, "input_size": 3} | options
    return StreamPool(settings.pop("cell", CELL), settings.pop("params", PARAMS), **settings)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cell": bidirectional(gru(4), gru(4))}, "got a Layer, which is given whole sequences.*as in a bidirectional"),
        ({"cell": layer(CELL, reverse=True)}, r"Instead of layer\(cell\), give the cell"),
        ({"cell": lstm}, "`cell` must be a Cell or a LinearCell, got the function lstm; call it first"),
        ({"slots": 0}, "`slots` must be an integer of at least 1, got int 0"),
        ({"input_size": "3"}, "`input_size` must be an integer of at least 1, got str '3'"),
        ({"input_size": 5}, "must fit the cell: `xs` must have 3 features on its last axis"),
        ({"dtype": jnp.int32}, "must fit the cell: `x` must be a floating array"),
        ({"row_sizes": (1, 3)}, "`row_sizes` must be at most 2, got 3"),
        ({"chunk_sizes": (0,)}, "`chunk_sizes` must be an integer of at least 1, got int 0"),
    ],
)
def test_pools_that_cannot_be_made(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_pool(**options)


def test_perturbed_parameters() -> None:
    cell = with_dropout(CELL, inputs=0.5)
    params = cell.perturb(jax.random.key(1), cell.init(jax.random.key(0), 3), (5, 2, 3))
    with pytest.raises(ValueError, match="`params` must not be perturbed"):
        make_pool(cell=cell, params=params)
    cell = with_dropout(CELL, variational=0.5)
    params = cell.perturb(jax.random.key(1), cell.init(jax.random.key(0), 3), (5, 2, 3))
    text = r"same for all streams.*of one step \[3\] they make an output \[2, 4\]"
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match=text):
        make_pool(cell=cell, params=params)


@pytest.fixture(scope="module")
def pool() -> StreamPool:
    pool = make_pool(chunk_sizes=(1, 2))
    pool.warm_up()
    return pool


GONE = "`streams` must have joined this pool and not left it, got "


def test_streams_that_are_not_there(pool: StreamPool) -> None:
    a, b, other = pool.join(), pool.join(), make_pool().join()
    with pytest.raises(ValueError, match="`slots` must be enough for all streams, got one more than 2; one must leave"):
        pool.join()
    pool.leave(a)
    newer = pool.join()
    assert newer != a
    assert len({newer, a, b, other}) == 4
    before = jax.device_get(pool.snapshot(newer)), jax.device_get(pool.snapshot(b))
    x, saved = np.ones(3), pool.snapshot(b)
    for stream in (a, other, -1, 0, 7, 1 << 62):
        calls = [
            lambda stream=stream: pool.step(stream, x),
            lambda stream=stream: pool.step([b, stream], np.ones((2, 3))),
            lambda stream=stream: pool.unroll(stream, x[None]),
            lambda stream=stream: pool.leave(stream),
            lambda stream=stream: pool.reset(stream),
            lambda stream=stream: pool.snapshot(stream),
            lambda stream=stream: pool.restore(stream, saved),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=rf"{GONE}\[{stream}\]"):
                call()
    for bad in ("a", None, 1.5, [b, "a"], {b}):
        with pytest.raises(ValueError, match="`streams` must be one stream or a sequence of streams, got"):
            pool.step(bad, x)
    with pytest.raises(ValueError, match="`streams` must be different from each other"):
        pool.step([b, b], np.ones((2, 3)))
    with pytest.raises(ValueError, match="`stream` must be a single stream, got list"):
        pool.reset([b, newer])
    after = jax.device_get(pool.snapshot(newer)), jax.device_get(pool.snapshot(b))
    assert all((p == q).all() for p, q in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
    assert pool.streams == (b, newer)
    pool.leave(newer)
    pool.leave(b)
    assert pool.streams == ()


def test_inputs_that_do_not_fit(pool: StreamPool) -> None:
    a, b = pool.join(), pool.join()
    for call, text in [
        (lambda: pool.step(a, np.ones(4)), r"`xs` must have the shape \(3,\), got \(4,\)"),
        (lambda: pool.step(a, np.ones((1, 3))), r"`xs` must have the shape \(3,\), got \(1, 3\)"),
        (lambda: pool.step([a, b], np.ones((3, 3))), r"`xs` must have the shape \(2, 3\), got \(3, 3\)"),
        (lambda: pool.step(a, np.ones(3) * 1j), r"`xs` must be real numbers, got complex128 of shape \(3,\)"),
        (lambda: pool.step(a, ["a", "b", "c"]), "`xs` must be real numbers, got <U1"),
        (lambda: pool.unroll(a, np.ones(3)), r"`xs` must have the shape \(3, 3\), got \(3,\)"),
        (lambda: pool.unroll([a, b], np.ones((5, 1, 3))), r"`xs` must have the shape \(5, 2, 3\), got \(5, 1, 3\)"),
        (lambda: pool.unroll([a, b], np.ones((5, 2, 3)), lengths=[1]), "`lengths` must be 2 integers, one for each"),
        (lambda: pool.unroll([a, b], np.ones((5, 2, 3)), lengths=[1.0, 2.0]), "`lengths` must be 2 integers, one"),
        (
            lambda: pool.unroll([a, b], np.ones((5, 2, 3)), lengths=[1, 6]),
            r"must lie in \[0, C\] with C=5, got \[1, 6\]",
        ),
        (lambda: pool.unroll([a, b], np.ones((5, 2, 3)), lengths=[-1, 5]), r"must lie in \[0, C\] with C=5, got"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    assert all((leaf == 0).all() for leaf in jax.tree.leaves((pool.snapshot(a), pool.snapshot(b))))
    assert pool.step([], np.ones((0, 3))).shape == (0, 4)
    assert pool.unroll([], np.ones((5, 0, 3))).shape == (5, 0, 4)
    pool.leave(a)
    pool.leave(b)


def test_carries_that_do_not_fit(pool: StreamPool) -> None:
    stream = pool.join()
    saved = pool.snapshot(stream)
    for carry, text in [
        ((saved.h, saved.c), "`carry` must have the structure"),
        (saved._replace(h=jnp.zeros(5)), r"`carry` must have shape \(4,\) at .h, got \(5,\)"),
        (jax.tree.map(lambda leaf: leaf[None], saved), r"`carry` must have shape \(4,\) at .h, got \(1, 4\)"),
        (saved._replace(c=np.zeros(4)), "`carry` must have the dtypes of the pool, float32, got float64 of shape"),
        (saved._replace(c=[0.0] * 4), "`carry` must have the structure"),
    ]:
        with pytest.raises(ValueError, match=text):
            pool.restore(stream, carry)
        with pytest.raises(ValueError, match=text):
            pool.join(carry)
    assert pool.streams == (stream,)
    pool.leave(stream)
