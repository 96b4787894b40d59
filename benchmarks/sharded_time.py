"""How much faster is a long sequence when its time is split over devices? Two CPU devices against one.

    python benchmarks/sharded_time.py        # prints a table; needs two idle cores

One long sequence (B = 1) goes through a linear cell, by `Scan` on one device and by `Sharded` over two, one per core,
its xs laid out in two halves. "steps in a row" is the number of loop iterations that wait for each other. A sharded
step does more work than a plain one (it carries the factor that a carry would get, and lets the carry in afterwards),
so the ratio stays below the number of devices. Checks first that both agree.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnn_jax import CELLS, Scan, Sharded, make_cell, unroll

jax.config.update("jax_num_cpu_devices", 2)


def depth(jaxpr: Any) -> int:
    """Iterations of the loops of a program, those within others multiplied."""
    total = 0
    for equation in jaxpr.eqns:
        inner = sum(depth(getattr(part, "jaxpr", part)) for part in jaxprs_in_params(equation.params))
        total += equation.params["length"] * max(inner, 1) if equation.primitive.name == "scan" else inner
    return total


def measure(program: Any, arguments: tuple[Any, ...], repeats: int) -> float:
    """Seconds: the median after two runs to warm up."""
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        times.append(time.perf_counter() - started)
    return float(np.median(times[2:]))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", choices=list(CELLS), default="lru")
    parser.add_argument("--steps", type=int, default=65536)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    mesh = Mesh(np.array(jax.devices()), ("seq",))
    cell, keys = make_cell(options.cell, options.size), jax.random.split(jax.random.key(0))
    params = cell.init(keys[0], options.size)
    xs = jax.random.normal(keys[1], (options.steps, options.batch, options.size))
    ways = {
        "scan": (Scan(), (params, xs)),
        "sharded": (
            Sharded(mesh),
            (jax.device_put(params, NamedSharding(mesh, P())), jax.device_put(xs, NamedSharding(mesh, P("seq")))),
        ),
    }

    def forward(method):
        return lambda params, xs: unroll(cell, params, xs, method=method)[1]

    def gradient(method):
        return jax.grad(lambda params, xs: jnp.square(unroll(cell, params, xs, method=method)[1]).mean())

    print(f"{options.cell}, T={options.steps}, B={options.batch}, N={options.size}, {len(jax.devices())} devices")
    print("| | steps in a row, scan | sharded | scan, ms | sharded, ms | ratio | largest relative difference |")
    print("|---|---|---|---|---|---|---|")
    for name, build in {"forward": forward, "gradient": gradient}.items():
        depths, seconds, results = [], [], []
        for method, arguments in ways.values():
            program = jax.jit(build(method))
            depths.append(depth(jax.make_jaxpr(program)(*arguments).jaxpr))
            results.append(jax.tree.map(np.asarray, program(*arguments)))
            seconds.append(measure(program, arguments, options.repeats))
        pairs = zip(*map(jax.tree.leaves, results), strict=True)
        error = max(float(np.abs(one - other).max() / np.abs(one).max()) for one, other in pairs)
        times = f"{1e3 * seconds[0]:.1f} | {1e3 * seconds[1]:.1f} | {seconds[0] / seconds[1]:.2f}"
        print(f"| {name} | {depths[0]} | {depths[1]} | {times} | {error:.1e} |", flush=True)


if __name__ == "__main__":
    main()
