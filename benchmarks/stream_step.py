"""What does one step of a stream cost, and what do many streams cost? Prints tables.

    taskset -c 1 python benchmarks/stream_step.py      # about 2 minutes; one core, pinned

An LSTM with H = 256, float32. A step of one stream reads every weight once, so it takes at least the dispatch of an
empty compiled function and the bytes of the weights at the bandwidth of this machine, which is measured on as many
bytes, by a compiled sum and by a copy, whichever is faster. All are timed in turns in one process, from a sample on the
host to an output on the host; ratios are those within a round, their median and the range of the middle 80 %.

Then `StreamPool`: one stream in pools of 1 to 1,000 slots, all streams at once, and 10,000 random events in a pool of
1,000 slots, with a step after each.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import monitoring

from rnn_jax import lstm, stream_step
from rnn_jax.streaming import StreamPool

HIDDEN = 256
SLOTS = (1, 8, 64, 1000)


def times(call: Callable[[], Any], repeats: int) -> np.ndarray:
    """Microseconds of each call, after a few that do not count."""
    for _ in range(10):
        call()
    seconds = np.empty(repeats)
    for number in range(repeats):
        started = time.perf_counter()
        call()
        seconds[number] = time.perf_counter() - started
    return 1e6 * seconds


def one_stream(input_size: int, rounds: int, repeats: int) -> dict[str, np.ndarray]:
    """Median microseconds of each round, by what was timed; `bytes` are those of the weights."""
    cell = lstm(HIDDEN)
    params = cell.init(jax.random.key(0), input_size)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    x, one = np.random.default_rng(0).normal(size=input_size).astype(np.float32), np.ones(1, np.float32)
    weights, host = jnp.ones(size // 4), np.ones(size // 4, np.float32)
    target = np.empty_like(host)
    empty, total = jax.jit(lambda x: x + 1), jax.jit(jnp.sum)
    step = jax.jit(lambda params, carry, x: stream_step(cell, params, carry, x), donate_argnums=1)
    carry = [cell.init_carry(params, (1,))]
    pool = StreamPool(cell, params, slots=1000, input_size=input_size)
    stream = [pool.join() for _ in range(1000)][500]

    def streamed() -> np.ndarray:
        carry[0], y = step(params, carry[0], x[None])
        return np.asarray(y)

    calls = {
        "empty": lambda: np.asarray(empty(one)),
        "sum": lambda: np.asarray(total(weights)),
        "copy": lambda: np.copyto(target, host),
        "stream_step": streamed,
        "pool": lambda: pool.step(stream, x),
    }
    medians = {name: np.empty(rounds) for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            medians[name][number] = np.median(times(call, repeats))
    return medians | {"bytes": np.array(size)}


def show_one_stream(rounds: int, repeats: int) -> None:
    """The first table."""
    print("| I | weights, MB | empty, us | GB/s | limit, us | stream_step, us | / limit | pool.step, us | / limit |")
    print("|---|---|---|---|---|---|---|---|---|")
    for input_size in (64, 256):
        found = one_stream(input_size, rounds, repeats)
        size, empty = float(found["bytes"]), found["empty"]
        reading = np.minimum(found["sum"] - empty, found["copy"] / 2)
        limit = empty + reading
        columns = [f"{np.median(empty):.1f}", f"{np.median(size / reading) / 1e3:.0f}", f"{np.median(limit):.0f}"]
        for name in ("stream_step", "pool"):
            ratios = found[name] / limit
            low, high = np.percentile(ratios, (10, 90))
            columns += [f"{np.median(found[name]):.0f}", f"{np.median(ratios):.2f} ({low:.2f} to {high:.2f})"]
        print(f"| {input_size} | {size / 1e6:.2f} | {' | '.join(columns)} |", flush=True)


def show_pools(repeats: int) -> None:
    """The second table: latency over the number of slots."""
    cell = lstm(HIDDEN)
    params = cell.init(jax.random.key(0), 64)
    rng = np.random.default_rng(0)
    print(
        "\n| slots | one stream, p50 us | p99 | all streams, p50 us | p99 | steps a second | reset, us | snapshot, us |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for slots in SLOTS:
        pool = StreamPool(cell, params, slots=slots, input_size=64)
        pool.warm_up()
        streams = [pool.join() for _ in range(slots)]
        x, xs = rng.normal(size=64).astype(np.float32), rng.normal(size=(slots, 64)).astype(np.float32)
        few = max(100, repeats // (1 + slots // 8))
        found = []
        for number, call in (
            (4 * repeats, lambda pool=pool, one=streams[slots // 2], x=x: pool.step(one, x)),
            (few, lambda pool=pool, streams=streams, xs=xs: pool.step(streams, xs)),
            (repeats, lambda pool=pool, one=streams[0]: pool.reset(one)),
            (repeats, lambda pool=pool, one=streams[0]: jax.block_until_ready(pool.snapshot(one))),
        ):
            found.append(times(call, number))
        (one_50, one_99), (all_50, all_99) = (np.percentile(values, (50, 99)) for values in found[:2])
        others = " | ".join(f"{np.median(values):.0f}" for values in found[2:])
        columns = f"{one_50:.0f} | {one_99:.0f} | {all_50:.0f} | {all_99:.0f} | {1e6 * slots / all_50:,.0f}"
        print(f"| {slots} | {columns} | {others} |", flush=True)


def show_events(events: int) -> None:
    """The third table: a server with 1,000 slots, latency of single steps over the events."""
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    cell = lstm(HIDDEN)
    pool = StreamPool(cell, cell.init(jax.random.key(0), 64), slots=1000, input_size=64)
    started = time.perf_counter()
    pool.warm_up()
    seconds = time.perf_counter() - started
    rng = np.random.default_rng(0)
    streams = [pool.join() for _ in range(500)]
    saved, latencies = pool.snapshot(streams[0]), []
    monitoring.register_event_duration_secs_listener(listen)
    for kind in rng.choice(["join", "leave", "reset", "snapshot", "restore", "step"], size=events):
        index = int(rng.integers(len(streams)))
        if kind == "join" and len(streams) < 1000:
            streams.append(pool.join())
        elif kind == "leave" and len(streams) > 1:
            pool.leave(streams.pop(index))
        elif kind == "reset":
            pool.reset(streams[index])
        elif kind == "snapshot":
            saved = pool.snapshot(streams[index])
        elif kind == "restore":
            pool.restore(streams[index], saved)
        x = rng.normal(size=64).astype(np.float32)
        clock = time.perf_counter()
        pool.step(streams[index - 1], x)
        latencies.append(1e6 * (time.perf_counter() - clock))
    monitoring.unregister_event_duration_listener(listen)
    tenth = events // 10
    first, last, every = (np.percentile(part, (50, 99)) for part in (latencies[:tenth], latencies[-tenth:], latencies))
    print("\n| events | programs | compiling, s | compiled later | p50 us, all | first 10 % | last 10 % | p99 us | | |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    numbers = " | ".join(f"{values[row]:.0f}" for row in (0, 1) for values in (every, first, last))
    print(f"| {events} | {pool.num_programs} | {seconds:.1f} | {len(compiled)} | {numbers} |", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--events", type=int, default=10_000)
    parsed = parser.parse_args()
    show_one_stream(parsed.rounds, parsed.repeats)
    show_pools(parsed.repeats)
    show_events(parsed.events)


if __name__ == "__main__":
    main()
