"""What does each strategy cost on a GPU, beside `jax.lax.scan` and, where it is installed, torch with cuDNN?

    python -m benchmarks.on_gpu --output DIR      # some 4 minutes on one GPU; results in DIR/gpu.json

All in one process, in turns, by the clock of the host, until the results are there; medians over rounds. Products are
as each library does them by default: in TF32 in jax and in cuDNN. Results are held against those of `jax.lax.scan`.
"""

import argparse
import functools
import importlib.util
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory beside jax

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import GATES, LINEAR, Case
from benchmarks.peers import associative, ours, plain_scan
from benchmarks.problems import flat, make_problem
from benchmarks.programs import build
from rnn_jax import Associative, Auto, Cudnn, Newton, Recursive, Scan, gru, lstm, stream_step, unroll, unroll_newton
from rnn_jax.streaming import StreamPool
from rnn_jax.types import Cell

SIZES = ((100, 32, 64, 128), (256, 16, 128, 256), (64, 64, 256, 512), (784, 64, 1, 128), (256, 256, 512, 1024))
"""T, B, I, H of training steps."""

Call = Callable[[], Any]
Row = dict[str, Any]


def median_times(calls: dict[str, Call], rounds: int = 5, seconds: float = 0.1) -> dict[str, float]:
    """Milliseconds of each call, in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in calls.items():
            times, began = [], time.perf_counter()
            while not times or time.perf_counter() - began < seconds:
                started = time.perf_counter()
                jax.block_until_ready(call())
                times.append(1e3 * (time.perf_counter() - started))
            found[name].append(float(np.median(times)))
    return {name: float(np.median(times)) for name, times in found.items()}


def together(makes: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """What the functions make, side by side: compiling is what takes the time."""
    with ThreadPoolExecutor() as pool:
        made = {name: pool.submit(make) for name, make in makes.items()}
        return {name: one.result() for name, one in made.items()}


def difference(found: Any, expected: Any) -> float:
    """The largest distance of two results, array by array, by the norm of what is expected."""
    found, expected = flat(found), flat(expected)
    norms = [np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name]) for name in expected]
    return float(max(norms))


def training() -> list[Row]:
    """Gradients of one layer: our strategies, `lax.scan` and torch."""
    cases = [
        Case("-".join([cell, *map(str, sizes)]), cell, "gradient", dict(zip("TBIH", sizes, strict=True)))
        for cell in ("lstm", "gru")
        for sizes in SIZES
    ]
    makes: dict[str, Callable[[], Any]] = {}
    for case in cases:
        problem = make_problem(case)
        methods = {"Auto()": Auto(), "Scan(unroll=4)": Scan(unroll=4)} | (
            {"Cudnn()": Cudnn()} if case.family == "lstm" else {}
        )
        for name, method in methods.items():
            make = functools.partial(ours.net, method=method)
            makes[f"{case.name} {name}"] = functools.partial(build, make, problem, "", jnp.float32)
        makes[f"{case.name} lax.scan"] = functools.partial(build, plain_scan.net, problem, "", jnp.float32)
    programs = together(makes)
    rows = []
    for case in cases:
        mine = {name.split(" ")[1]: one for name, one in programs.items() if name.startswith(f"{case.name} ")}
        calls: dict[str, Call] = {name: one.run for name, one in mine.items()}
        results = {name: one.results for name, one in mine.items()}
        if importlib.util.find_spec("torch"):
            from benchmarks.peers import pytorch

            calls["torch"], results["torch"], _ = pytorch.build(make_problem(case))
        off = {name: difference(one, results["lax.scan"]) for name, one in results.items()}
        facts = {name: one.facts for name, one in mine.items()}
        s = case.sizes
        flops = 6.0 * s["T"] * s["B"] * GATES[case.family] * s["H"] * (s["I"] + s["H"])
        rows.append({"case": case.name, "ms": median_times(calls), "off": off, "facts": facts, "flops": flops})
        show(rows[-1])
    return rows


def linear() -> list[Row]:
    """The diagonal recurrence and the LRU: one step after another, and all at once."""
    sizes = (LINEAR, {"T": 16384, "B": 32, "N": 256})
    cases = [
        Case(f"{family} {program} {size['T']}-{size['B']}-{size['N']}", family, program, size)
        for family, program in (("diagonal", "forward"), ("diagonal", "gradient"), ("lru", "gradient"))
        for size in sizes
    ]

    rows = []
    for case in cases:
        problem = make_problem(case)
        makes = {
            str(method): functools.partial(build, functools.partial(ours.net, method=method), problem, "", jnp.float32)
            for method in (Auto(), Associative(), Scan())
        }
        makes["lax.scan"] = functools.partial(build, plain_scan.net, problem, "", jnp.float32)
        makes["lax.associative_scan"] = functools.partial(build, associative.net, problem, "", jnp.float32)
        programs = together(makes)
        off = {name: difference(one.results, programs["lax.scan"].results) for name, one in programs.items()}
        times = median_times({name: one.run for name, one in programs.items()}, rounds=3)
        rows.append({"case": case.name, "ms": times, "off": off})
        show(rows[-1])
    return rows


def mean_square(cell: Cell, params: Any, xs: Any, method: Any) -> Any:
    """A loss."""
    return jnp.square(unroll(cell, params, xs, method=method)[1]).mean()


def newton() -> list[Row]:
    """A GRU at its start, on noise: Newton's method and the scan, values and gradients."""
    rows = []
    for steps, size, jacobian in (
        (1000, 16, "dense"),
        (10_000, 16, "dense"),
        (1000, 64, "dense"),
        (10_000, 64, "dense"),
        (10_000, 64, "diagonal"),
        (10_000, 256, "diagonal"),
    ):
        cell, rows_in_batch = gru(size), 4
        params = cell.init(jax.random.key(0), 8)
        xs = jax.random.normal(jax.random.key(1), (steps, rows_in_batch, 8))
        method = Newton(jacobian=jacobian, max_iters=100)

        makes = {}
        for name, way in {"scan": Scan(), "scan, unroll 8": Scan(unroll=8), "newton": method}.items():
            one = functools.partial(mean_square, cell, method=way)
            makes[name] = jax.jit(one).lower(params, xs).compile
            makes[f"{name}, gradient"] = jax.jit(jax.grad(one)).lower(params, xs).compile
        programs = together(makes)
        info = jax.jit(lambda p, xs, m=method, c=cell: unroll_newton(c, p, xs, method=m)[3])(params, xs)
        grads = [programs[f"{name}, gradient"](params, xs) for name in ("scan", "newton")]
        off = difference(*({"all": np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)])} for g in grads[::-1]))
        times = median_times({n: functools.partial(one, params, xs) for n, one in programs.items()}, rounds=3)
        case = f"gru {steps}-{rows_in_batch}-8-{size} {jacobian}"
        more = {"iterations": int(info.iterations.max()), "converged": bool(info.converged.all())}
        rows.append({"case": case, "ms": times, "off": {"newton": off}, **more})
        show(rows[-1])
    return rows


def memory() -> list[Row]:
    """The gradient of a GRU over 100,000 steps, by its last carry."""
    cell = gru(64)
    params = cell.init(jax.random.key(0), 4)
    xs = jax.random.normal(jax.random.key(1), (100_000, 8, 4))

    def value(params: Any, xs: Any, method: Any) -> Any:
        return unroll(cell, params, xs, method=method)[0].sum()

    methods = (Scan(), Recursive(250), Recursive(50))
    programs = together(
        {str(m): jax.jit(jax.grad(functools.partial(value, method=m))).lower(params, xs).compile for m in methods}
    )
    times = median_times({name: functools.partial(one, params, xs) for name, one in programs.items()}, rounds=1)
    megabytes = {name: one.memory_analysis().temp_size_in_bytes / 1e6 for name, one in programs.items()}
    rows = [{"case": "gru 100000-8-4-64 gradient", "ms": times, "megabytes": megabytes}]
    show(rows[-1])
    return rows


def streams() -> list[Row]:
    """A step of an LSTM with 256 units, from a sample on the host to an output on the host."""
    cell = lstm(256)
    params = cell.init(jax.random.key(0), 64)
    step = jax.jit(lambda params, carry, x: stream_step(cell, params, carry, x), donate_argnums=1)
    carry, x = [cell.init_carry(params, (1,))], np.ones((1, 64), np.float32)
    empty = jax.jit(lambda x: x + 1)
    pool = StreamPool(cell, params, slots=1000, input_size=64)
    pool.warm_up()
    slots = [pool.join() for _ in range(1000)]
    xs = np.ones((1000, 64), np.float32)

    def one() -> np.ndarray:
        carry[0], y = step(params, carry[0], x)
        return np.asarray(y)

    calls: dict[str, Call] = {
        "empty function": lambda: np.asarray(empty(x)),
        "stream_step": one,
        "pool.step, one of 1,000": lambda: pool.step(slots[500], x[0]),
        "pool.step, 1,000 at once": lambda: pool.step(slots, xs),
    }
    rows = [{"case": "stream lstm 64-256", "ms": median_times(calls)}]
    show(rows[-1])
    return rows


SECTIONS = {"training": training, "linear": linear, "newton": newton, "streams": streams, "memory": memory}


def show(row: Row) -> None:
    """One line."""
    off = row.get("off", {})
    parts = [f"{name} {ms:.3f}" + (f" (off {off[name]:.0e})" if name in off else "") for name, ms in row["ms"].items()]
    more = {key: value for key, value in row.items() if key not in ("case", "ms", "off", "facts", "flops")}
    print(f"{row['case']}: {', '.join(parts)} {more or ''}", flush=True)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parsed = parser.parse_args()
    parsed.output.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0]
    found: dict[str, Any] = {"device": device.device_kind, "jax": jax.__version__}
    if importlib.util.find_spec("torch"):
        import torch

        found |= {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    print(found, flush=True)
    for name in parsed.only:
        started = time.perf_counter()
        try:
            found[name] = SECTIONS[name]()
        except Exception as error:  # what has been measured is worth keeping
            found[name] = [{"case": name, "ms": {}, "error": repr(error)[:2000]}]
            print(name, "failed:", repr(error)[:2000], flush=True)
        print(f"[{name}: {time.perf_counter() - started:.0f} s]", flush=True)
        (parsed.output / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
