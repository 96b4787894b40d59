"""What does a gradient over a long sequence keep, and what does it cost to keep less? `Scan`, `Chunked`, `Recursive`.

    python benchmarks/memory.py                   # prints a table; each timing in a process of its own, in turns
    python benchmarks/memory.py --steps 99991     # a prime number
    python benchmarks/memory.py --loss outputs    # a loss on one number a step

The loss reads the last carry ("carry"), or the mean square of one output a step, which the cell's readout makes inside
of the loops ("outputs"); outputs [T, B, H] that are used would take their place in any case, T B H numbers and as many
again for their gradient. "temporaries" is `memory_analysis()` of the compiled gradient by parameters: what it needs
besides its arguments and results. "process" is the largest resident size while it runs, less the size before.
"computed" is how often it computes a step, the backward pass not counted, from the sizes of the chunks. "forward" is
the value alone, by `Scan`; "in forwards" is the time of the gradient by that of the forward pass.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import make_cell
from rnn_jax.types import Cell
from rnn_jax.unroll import Chunked, Recursive, Scan, Strategy, unroll
from rnn_jax.unroll.recursive import chunk_sizes

INPUTS, UNITS, BATCH = 4, 64, 8
WAYS: dict[str, Strategy] = {
    "forward": Scan(),
    "Scan()": Scan(),
    "Chunked(316)": Chunked(316),
    "Chunked(100)": Chunked(100),
    "Recursive(250)": Recursive(250),
    "Recursive(50)": Recursive(50),
    "Recursive(16)": Recursive(16),
}


def sizes_of(method: Strategy, steps: int) -> tuple[int, ...]:
    """The sizes of chunks, outermost first."""
    if isinstance(method, Recursive):
        return chunk_sizes(steps, method.budget)
    return (method.size,) if isinstance(method, Chunked) else ()


def evaluations(steps: int, sizes: tuple[int, ...]) -> int:
    """How often a gradient computes a step: forward, and once for each level of chunks that the step lies in."""
    if not sizes:
        return steps
    count, rest = divmod(steps, sizes[0])
    return count * (sizes[0] + evaluations(sizes[0], sizes[1:])) + evaluations(rest, sizes[1:])


def narrow(cell: Cell) -> Cell:
    """The cell with one number a step as its output."""
    return cell._replace(readout=lambda params, hs, xs: hs.mean(-1, keepdims=True))


def measure(name: str, way: str, loss: str, steps: int) -> tuple[float, float, float, float]:
    """MB of temporaries, MB of the process, seconds to compile, seconds of the second run."""
    cell = make_cell(name, UNITS)
    if loss == "outputs":
        cell = narrow(cell)
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jax.random.normal(jax.random.key(1), (steps, BATCH, INPUTS))

    def value(params, xs):
        carry, ys = unroll(cell, params, xs, method=WAYS[way])
        return jnp.square(ys).mean() if loss == "outputs" else sum(leaf.sum() for leaf in jax.tree.leaves(carry))

    started = time.perf_counter()
    program = jax.jit(value if way == "forward" else jax.grad(value)).lower(params, xs).compile()
    compiled = time.perf_counter() - started
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for _ in range(2):
        started = time.perf_counter()
        jax.block_until_ready(program(params, xs))
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return program.memory_analysis().temp_size_in_bytes / 1e6, (peak - resident) / 1e6, compiled, seconds


def main() -> None:
    """Prints the table, or the numbers of one process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", nargs="+", default=["gru", "lstm"])
    parser.add_argument("--loss", choices=["carry", "outputs"], default="carry")
    parser.add_argument("--one", nargs=2, metavar=("CELL", "WAY"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.one:
        print(*measure(*parsed.one, parsed.loss, parsed.steps))
        return
    print(f"T={parsed.steps}, B={BATCH}, I={INPUTS}, H={UNITS}, loss on the {parsed.loss}")
    head = ["cell", "", "chunks", "computed", "temporaries, MB", "Scan / it", "process, MB", "compile, s", "seconds"]
    print("|", " | ".join([*head, "in forwards"]), "|")
    print("|---|---|---|---|---|---|---|---|---|---|")
    shared = ["--loss", parsed.loss, "--steps", str(parsed.steps)]
    for name in parsed.cells:
        rows = np.zeros((parsed.rounds, len(WAYS), 4))
        for turn in range(parsed.rounds):
            for index, way in enumerate(WAYS):
                command = [sys.executable, __file__, *shared, "--one", name, way]
                done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                rows[turn, index] = [float(number) for number in done.stdout.split()[-4:]]
        medians = np.median(rows, axis=0)
        whole = medians[list(WAYS).index("Scan()"), 0]
        for (way, method), (temporaries, process, compiled, seconds) in zip(WAYS.items(), medians, strict=True):
            sizes = sizes_of(method, parsed.steps)
            chunks = " of ".join(map(str, sizes)) or "-"
            computed = evaluations(parsed.steps, sizes) / parsed.steps
            print(
                f"| {name} | {way} | {chunks} | {computed:.2f} | {temporaries:.1f} | {whole / temporaries:.0f} | "
                f"{process:.0f} | {compiled:.1f} | {seconds:.2f} | {seconds / medians[0, 3]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
