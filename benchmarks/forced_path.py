"""How much faster is a decoder that is forced everywhere? Both ways are the same program, given another mask.

    python benchmarks/forced_path.py        # prints a table; each timing in a process of its own

A GRU decoder over 10,000 tokens takes one training step (value and gradient) on a mask of ones, for which the program
projects and reads out all steps at once, and on a mask that is zero at the last step, for which it goes step by step.
Checks first that both ways agree: the gradients where the mask is one, computed either way.
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

VOCABULARY, EMBEDDING, HIDDEN, STEPS, BATCH = 10_000, 128, 256, 30, 32


def problem():
    """Parameters, targets and the compiled step `(params, mask) -> (loss, grads)`."""
    cell = stack(gru(HIDDEN), dense(VOCABULARY))
    keys = jax.random.split(jax.random.key(0), 3)
    params = (cell.init(keys[0], EMBEDDING), 0.1 * jax.random.normal(keys[1], (VOCABULARY, EMBEDDING)))
    targets = jax.random.randint(keys[2], (STEPS, BATCH), 0, VOCABULARY)

    def loss(params, mask):
        options = {"start": 0, "feedback": argmax, "embedding": params[1]}
        return token_nll(forced_unroll(cell, params[0], targets, mask, **options)[1], targets).mean()

    return params, jax.jit(jax.value_and_grad(loss))


def mask_of(way: str) -> jax.Array:
    """Ones; for the stepwise way all but the last input, which is the only difference in numbers."""
    return jnp.ones((STEPS, BATCH)).at[-1].set(1.0 if way == "at once" else 0.0)


def measure(way: str, repeats: int) -> float:
    """Seconds of one step: the median after two to warm up."""
    params, step = problem()
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        jax.block_until_ready(step(params, mask_of(way)))
        times.append(time.perf_counter() - started)
    return float(np.median(times[2:]))


def agree() -> float:
    """The largest difference between the two ways on equal inputs, relative to the largest gradient."""
    params, step = problem()
    barely = jnp.ones((STEPS, BATCH)).at[-1].set(1 - 2e-7)  # not exactly one: goes step by step
    (_, a), (_, b) = step(params, mask_of("at once")), step(params, barely)
    worst = [float(jnp.abs(x - y).max() / jnp.abs(x).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
    return max(worst)


def main() -> None:
    """Prints the table, or one timing with --way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=["at once", "step by step"])
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.way:
        print(measure(arguments.way, arguments.repeats))
        return
    print(f"largest relative difference of gradients: {agree():.1e}")
    seconds = {"at once": [], "step by step": []}
    for _ in range(3):
        for way in seconds:
            command = [sys.executable, __file__, "--way", way, "--repeats", str(arguments.repeats)]
            seconds[way].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    for way, values in seconds.items():
        print(f"{way:>12}: {1000 * min(values):.0f} to {1000 * max(values):.0f} ms a training step")
    print(f"ratio of medians: {np.median(seconds['step by step']) / np.median(seconds['at once']):.2f}")


if __name__ == "__main__":
    main()
