"""A server's day: ten thousand random events, no compilation, and the right numbers at the end."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest
from jax import monitoring

from rnn_jax import dense, lstm, stack, unroll
from rnn_jax.streaming import StreamPool

SLOTS, EVENTS = 24, 10_000
KINDS = ("step", "steps", "chunk", "chunks", "join", "leave", "reset", "snapshot", "restore")


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """The compilations of XLA, and what jax traces, while a test runs."""
    seen: list[str] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event.startswith("/jax/core/compile/"):
            seen.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    yield seen
    monitoring.unregister_event_duration_listener(listen)


def test_ten_thousand_events_compile_nothing_and_every_stream_has_the_numbers_of_unroll(
    compilations: list[str],
) -> None:
    cell = stack(lstm(6), dense(2))
    params = cell.init(jax.random.key(0), 3)
    pool = StreamPool(cell, params, slots=SLOTS, input_size=3, chunk_sizes=(1, 2, 8))
    pool.warm_up()
    assert pool.num_compiled == pool.num_programs == 4 * 3 + 2
    rng = np.random.default_rng(0)
    given: dict[int, list[np.ndarray]] = {}  # all that a stream has read since its carry was the initial one
    got: dict[int, list[np.ndarray]] = {}
    saved: list[tuple[object, list[np.ndarray], list[np.ndarray]]] = []
    counts = dict.fromkeys(KINDS, 0)
    finished = []

    def pick(most: int) -> list[int]:
        return rng.choice(list(given), size=rng.integers(1, min(most, len(given)) + 1), replace=False).tolist()

    def keep(streams: list[int], xs: np.ndarray, ys: np.ndarray, lengths: np.ndarray) -> None:
        for row, (stream, length) in enumerate(zip(streams, lengths, strict=True)):
            given[stream].extend(xs[:length, row])
            got[stream].extend(ys[:length, row])

    compilations.clear()
    for _ in range(EVENTS):
        kind = "join" if not given else str(rng.choice(KINDS))
        if kind == "join" and len(given) == SLOTS:
            kind = "leave"
        counts[kind] += 1
        if kind == "join":
            index = int(rng.integers(len(saved))) if saved and rng.random() < 0.3 else None
            carry, xs, ys = (None, [], []) if index is None else saved[index]
            stream = pool.join(carry)
            given[stream], got[stream] = [*xs], [*ys]
        elif kind == "leave":
            (stream,) = pick(1)
            pool.leave(stream)
            finished.append((given.pop(stream), got.pop(stream)))
        elif kind == "reset":
            (stream,) = pick(1)
            pool.reset(stream)
            given[stream], got[stream] = [], []
        elif kind == "snapshot":
            (stream,) = pick(1)
            carry = pool.snapshot(stream)
            saved = [
                *saved[-5:],
                (carry if rng.random() < 0.5 else jax.device_get(carry), [*given[stream]], [*got[stream]]),
            ]
        elif kind == "restore" and saved:
            (stream,), (carry, xs, ys) = pick(1), saved[rng.integers(len(saved))]
            pool.restore(stream, carry)
            given[stream], got[stream] = [*xs], [*ys]
        elif kind in ("step", "chunk"):
            (stream,) = pick(1)
            steps = 1 if kind == "step" else int(rng.integers(0, 21))
            xs = rng.normal(size=(steps, 1, 3)).astype(np.float32)
            ys = pool.step(stream, xs[0, 0])[None] if kind == "step" else pool.unroll(stream, xs[:, 0])
            keep([stream], xs, ys[:, None], np.array([steps]))
        elif kind in ("steps", "chunks"):
            streams = pick(SLOTS)
            lengths = np.ones(len(streams), int) if kind == "steps" else rng.integers(0, 12, len(streams))
            xs = rng.normal(size=(lengths.max(), len(streams), 3)).astype(np.float32)
            ys = pool.step(streams, xs[0])[None] if kind == "steps" else pool.unroll(streams, xs, lengths=lengths)
            keep(streams, xs, ys, lengths)
    assert compilations == []
    assert min(counts.values()) > EVENTS / 20, counts

    rows = [*finished, *((given[stream], got[stream]) for stream in given)]
    lengths = np.array([len(xs) for xs, _ in rows])
    assert lengths.max() > 200
    everything = np.zeros((lengths.max(), len(rows), 3), np.float32)
    for row, (xs, _) in enumerate(rows):
        everything[: len(xs), row] = np.reshape(xs, (-1, 3))
    carry, expected = jax.jit(lambda xs, lengths: unroll(cell, params, xs, lengths=lengths))(everything, lengths)
    for row, (_, ys) in enumerate(rows):
        np.testing.assert_allclose(np.reshape(ys, (-1, 2)), expected[: len(ys), row], rtol=1e-4, atol=1e-5)
    for row, stream in enumerate(given, start=len(finished)):
        here = jax.tree.map(lambda leaf, row=row: leaf[row], carry)
        for a, b in zip(jax.tree.leaves(pool.snapshot(stream)), jax.tree.leaves(here), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_counter_of_compilations_counts(compilations: list[str]) -> None:
    jax.jit(lambda x: x + 41)(np.ones(3))
    assert compilations
