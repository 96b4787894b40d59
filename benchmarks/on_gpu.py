"""What does each strategy cost on a GPU, beside `jax.lax.scan` and, where it is installed, torch with cuDNN?

    python -m benchmarks.on_gpu --output DIR      # 3 to 4 minutes on one GPU; DIR/gpu.json and DIR/gpu.md

All in one process, in turns, by the clock of the host, until the results are there; medians over rounds. Products are
as each library does them by default: in TF32 in jax, and in the layers of torch. Programs are compiled side by side.
"Off" is the largest distance of a result or gradient from that of `lax.scan`, by its norm.
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

from benchmarks.cases import LINEAR, Case
from benchmarks.peers import associative, ours, plain_scan
from benchmarks.problems import flat, make_problem
from benchmarks.programs import build
from rnn_jax import Auto, Cudnn, Newton, Recursive, Scan, gru, lstm, stream_step, unroll, unroll_newton
from rnn_jax.streaming import StreamPool
from rnn_jax.types import Cell

SIZES = ((100, 32, 64, 128), (256, 16, 128, 256), (64, 64, 256, 512), (784, 64, 1, 128), (256, 256, 512, 1024))
"""T, B, I, H of training steps."""

NEWTON = ((1000, 16, "dense"), (10_000, 16, "dense"), (10_000, 64, "dense"), (10_000, 64, "diagonal"))
"""T, H and the Jacobian of Newton's method."""

Call = Callable[[], Any]
Row = dict[str, Any]


def median_times(calls: dict[str, Call], rounds: int = 3, seconds: float = 0.1) -> dict[str, float]:
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


def together(makes: dict[Any, Call]) -> dict[Any, Any]:
    """What the functions make, side by side."""
    with ThreadPoolExecutor() as pool:
        made = {name: pool.submit(make) for name, make in makes.items()}
        return {name: one.result() for name, one in made.items()}


def difference(found: Any, expected: Any) -> float:
    """The largest distance of two results, array by array, by the norm of what is expected."""
    found, expected = flat(found), flat(expected)
    norms = [np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name]) for name in expected]
    return float(max(norms))


def compare(cases: list[Case], nets: Callable[[Case], dict[str, Any]], with_torch: bool) -> list[Row]:
    """Times networks on the problems of cases; one of them must be called `lax.scan`."""
    makes = {}
    for case in cases:
        problem = make_problem(case)
        for name, net in nets(case).items():
            makes[case.name, name] = functools.partial(build, net, problem, "", jnp.float32)
    programs, rows = together(makes), []
    for case in cases:
        mine = {name: one for (of, name), one in programs.items() if of == case.name}
        calls: dict[str, Call] = {name: one.run for name, one in mine.items()}
        results = {name: one.results for name, one in mine.items()}
        if with_torch and importlib.util.find_spec("torch"):
            from benchmarks.peers import pytorch

            calls["torch"], results["torch"], _ = pytorch.build(make_problem(case))
        off = {name: difference(one, results["lax.scan"]) for name, one in results.items()}
        rows.append({"case": case.name, "ms": median_times(calls), "off": off})
        show(rows[-1])
    return rows


def training() -> list[Row]:
    """Gradients of one layer."""

    def nets(case: Case) -> dict[str, Any]:
        cudnn = {"Cudnn()": functools.partial(ours.net, method=Cudnn())} if case.family == "lstm" else {}
        return {"Auto()": ours.net, **cudnn, "lax.scan": plain_scan.net}

    cases = [
        Case("-".join([cell, *map(str, sizes)]), cell, "gradient", dict(zip("TBIH", sizes, strict=True)))
        for cell in ("lstm", "gru")
        for sizes in SIZES
    ]
    return compare(cases, nets, with_torch=True)


def linear() -> list[Row]:
    """The diagonal recurrence and the LRU: one step after another, and all at once."""

    def nets(case: Case) -> dict[str, Any]:
        mine = {str(method): functools.partial(ours.net, method=method) for method in (Auto(), Scan())}
        return {**mine, "lax.associative_scan": associative.net, "lax.scan": plain_scan.net}

    large = {"T": 16384, "B": 32, "N": 256}
    cases = [
        Case(f"{family}-{program}-{size['T']}-{size['B']}-{size['N']}", family, program, size)
        for family, program, size in (
            ("diagonal", "forward", LINEAR),
            ("diagonal", "forward", large),
            ("diagonal", "gradient", LINEAR),
            ("diagonal", "gradient", large),
            ("lru", "gradient", LINEAR),
        )
    ]
    return compare(cases, nets, with_torch=False)


def mean_square(cell: Cell, params: Any, xs: Any, method: Any) -> Any:
    """A loss."""
    return jnp.square(unroll(cell, params, xs, method=method)[1]).mean()


def newton() -> list[Row]:
    """A GRU at its start, on noise: the scan and Newton's method."""
    makes, given = {}, {}
    for steps, size, jacobian in NEWTON:
        cell, case = gru(size), f"gru-{steps}-4-8-{size}, {jacobian}"
        params, xs = cell.init(jax.random.key(0), 8), jax.random.normal(jax.random.key(1), (steps, 4, 8))
        given[case] = params, xs
        method = Newton(jacobian=jacobian)
        for name, way in {"Auto()": Auto(), "Newton()": method}.items():
            one = functools.partial(mean_square, cell, method=way)
            makes[case, name] = jax.jit(one).lower(params, xs).compile
            makes[case, f"{name}, gradient"] = jax.jit(jax.grad(one)).lower(params, xs).compile
        info = jax.jit(lambda p, xs, m=method, c=cell: unroll_newton(c, p, xs, method=m)[3])
        makes[case, "info"] = info.lower(params, xs).compile
    programs, rows = together(makes), []
    for case, (params, xs) in given.items():
        mine = {name: functools.partial(one, params, xs) for (of, name), one in programs.items() if of == case}
        info = mine.pop("info")()
        grads = [np.concatenate([np.ravel(g) for g in jax.tree.leaves(mine[f"{n}, gradient"]())]) for n in WAYS]
        off = difference({"gradient": grads[1]}, {"gradient": grads[0]})
        more = {"iterations": int(info.iterations.max()), "converged": bool(info.converged.all())}
        rows.append({"case": case, "ms": median_times(mine), "off": {"Newton()": off}, **more})
        show(rows[-1])
    return rows


WAYS = ("Auto()", "Newton()")


def memory() -> list[Row]:
    """What the gradient of a GRU over 100,000 steps needs, by its last carry."""
    cell = gru(64)
    params = cell.init(jax.random.key(0), 4)
    xs = jax.ShapeDtypeStruct((100_000, 8, 4), jnp.float32)

    def value(params: Any, xs: Any, method: Any) -> Any:
        return unroll(cell, params, xs, method=method)[0].sum()

    programs = together(
        {
            str(method): jax.jit(jax.grad(functools.partial(value, method=method))).lower(params, xs).compile
            for method in (Auto(), Recursive(250), Recursive(50))
        }
    )
    megabytes = {name: one.memory_analysis().temp_size_in_bytes / 1e6 for name, one in programs.items()}
    rows = [{"case": "gru-100000-8-4-64", "ms": {}, "megabytes": megabytes}]
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
    rows = [{"case": "stream-lstm-64-256", "ms": median_times(calls)}]
    show(rows[-1])
    return rows


SECTIONS = {"training": training, "newton": newton, "linear": linear, "streams": streams, "memory": memory}


def show(row: Row) -> None:
    """One line."""
    off = row.get("off", {})
    parts = [f"{name} {ms:.3f}" + (f" (off {off[name]:.0e})" if name in off else "") for name, ms in row["ms"].items()]
    more = {key: value for key, value in row.items() if key not in ("case", "ms", "off")}
    print(f"{row['case']}: {', '.join(parts)} {more or ''}", flush=True)


def tables(found: dict[str, Any]) -> str:
    """The times in Markdown, a table for each section."""
    lines = [f"{found['device']}; " + ", ".join(f"{k} {found[k]}" for k in ("jax", "torch", "cudnn") if k in found)]
    for section in SECTIONS:
        rows = [row for row in found.get(section, []) if row["ms"]]
        if not rows:
            continue
        names = list(dict.fromkeys(name for row in rows for name in row["ms"]))
        more = [key for key in ("iterations",) if key in rows[0]]
        lines += ["", f"| {section}, ms | {' | '.join([*names, *more])} |", "|---" * (1 + len(names) + len(more)) + "|"]
        for row in rows:
            columns = [f"{row['ms'][name]:.2f}" if name in row["ms"] else "" for name in names]
            lines.append(f"| {row['case']} | {' | '.join([*columns, *(str(row[key]) for key in more)])} |")
    for row in found.get("memory", []):
        parts = ", ".join(f"{name} {value:,.1f}" for name, value in row.get("megabytes", {}).items())
        lines += ["", f"Temporary memory of a gradient, {row['case']}, MB: {parts}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parsed = parser.parse_args()
    parsed.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    if importlib.util.find_spec("torch"):
        import torch

        found |= {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    print(found, flush=True)
    for name in parsed.only:
        started = time.perf_counter()
        found[name] = SECTIONS[name]()
        print(f"[{name}: {time.perf_counter() - started:.0f} s]", flush=True)
        (parsed.output / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        (parsed.output / "gpu.md").write_text(tables(found))


if __name__ == "__main__":
    main()
