"""How much faster is a decoder that is forced everywhere? Both ways are the same program, given another mask.

    python benchmarks/forced_path.py        # prints a table; each timing in a process of its own

A GRU decoder over 10,000 tokens is differentiated on a mask of ones, for which the program projects and reads out all
steps at once, and on a mask that is zero at the last step, for which it goes step by step. "decoder" is the decoder
alone, its outputs weighted by fixed numbers; "training step" has the softmax and its loss as well, which cost the same
either way. Checks first that both ways agree.
"""

import argparse
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import dense, forced_unroll, gru, stack
from rnn_jax.forcing import argmax
from rnn_jax.losses import token_nll

VOCABULARY, EMBEDDING, HIDDEN, STEPS = 10_000, 128, 256, 30
WAYS = {"at once": 1.0, "step by step": 0.0}
"""Weight of the last input."""


def problem(batch: int):
    """Parameters, and the compiled gradients by name: `(params, mask) -> grads`."""
    cell = stack(gru(HIDDEN), dense(VOCABULARY))
    keys = jax.random.split(jax.random.key(0), 4)
    params = (cell.init(keys[0], EMBEDDING), 0.1 * jax.random.normal(keys[1], (VOCABULARY, EMBEDDING)))
    targets = jax.random.randint(keys[2], (STEPS, batch), 0, VOCABULARY)
    weights = jax.random.normal(keys[3], (STEPS, batch, VOCABULARY))

    def logits(params, mask):
        options = {"start": 0, "feedback": argmax, "embedding": params[1]}
        return forced_unroll(cell, params[0], targets, mask, **options)[1]

    return params, {
        "decoder": jax.jit(jax.grad(lambda params, mask: (logits(params, mask) * weights).sum())),
        "training step": jax.jit(jax.grad(lambda params, mask: token_nll(logits(params, mask), targets).mean())),
    }


def measure(way: str, batch: int, repeats: int) -> list[float]:
    """Seconds of each program: medians after two to warm up."""
    params, programs = problem(batch)
    mask, seconds = jnp.ones((STEPS, batch)).at[-1].set(WAYS[way]), []
    for program in programs.values():
        times = []
        for _ in range(repeats + 2):
            started = time.perf_counter()
            jax.block_until_ready(program(params, mask))
            times.append(time.perf_counter() - started)
        seconds.append(float(np.median(times[2:])))
    return seconds


def agree() -> float:
    """The largest difference between the two ways on equal inputs, relative to the largest gradient."""
    params, programs = problem(4)
    barely = jnp.ones((STEPS, 4)).at[-1].set(1 - 2e-7)  # not exactly one: goes step by step
    a, b = (programs["training step"](params, mask) for mask in (jnp.ones((STEPS, 4)), barely))
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.abs(x - y).max() / jnp.abs(x).max()) for x, y in leaves)


def main() -> None:
    """Prints the table, or one timing with --way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=list(WAYS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.way:
        print(*measure(arguments.way, arguments.batch, arguments.repeats))
        return
    print(f"largest relative difference of gradients: {agree():.1e}")
    print("| batch | decoder, ms | step by step | ratio | training step, ms | step by step | ratio |")
    print("|---|---|---|---|---|---|---|")
    for batch in (8, 16, 32):
        seconds = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--batch", str(batch)]
            command += ["--repeats", str(arguments.repeats)]
            runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)]
            seconds[way] = 1000 * np.median([[float(x) for x in run.split()] for run in runs], axis=0)
        cells = [f"{a:.0f} | {b:.0f} | {b / a:.2f}" for a, b in zip(*seconds.values(), strict=True)]
        print(f"| {batch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
