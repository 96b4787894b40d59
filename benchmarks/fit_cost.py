"""What do logging, checkpoints and the guards of `fit` cost? The loop against the bare loop around the same step.

    python benchmarks/fit_cost.py        # prints a table; each timing in a process of its own, in turns

A GRU with an output for every step is trained on random numbers, by `for batch in batches: state, _ = step(state,
batch)` and by `fit` as experiments call it: means over 10 steps to a file and to TensorBoard, progress lines, and a
checkpoint every minute, in the background. Steps are timed from the 20th to the last; what comes after it, until the
last checkpoint is on disk, is spent once a run and stands apart.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from rnn_jax import dense, gru, stack, unroll
from rnn_jax.metrics import mean_value, tally
from rnn_jax.training import create_state, fit, make_train_step, open_checkpoints, run_logger, with_hook

WARM_UP = 20
SIZES = {"small": (32, 16, 32, 15_000), "main job": (256, 16, 128, 300)}
"""Hidden units, batch, time steps, training steps."""


def measure(way: str, size: str) -> tuple[float, float]:
    """Seconds a step, and seconds after the last one."""
    hidden, batch, steps, updates = SIZES[size]
    cell, tx = stack(gru(hidden), dense(hidden)), optax.adam(1e-3)
    xs = np.random.default_rng(0).normal(size=(4, steps, batch, 16)).astype(np.float32)

    def loss_fn(params, batch, *, key, step):
        error = jnp.square(unroll(cell, params, batch)[1] - 1)
        pair = tally(error, jnp.ones_like(error))
        return mean_value(pair), {"error": pair}

    started = [0.0]

    def batches():
        for number in itertools.count():
            if number == WARM_UP:
                jax.block_until_ready(holder[0])
                started[0] = time.perf_counter()
            yield xs[number % 4]

    step = make_train_step(loss_fn, tx)
    holder = [create_state(cell.init(jax.random.key(0), 16), tx, jax.random.key(1))]

    def held(state, batch):
        holder[0], metrics = step(state, batch)
        return holder[0], metrics

    if way == "bare":
        state = holder[0]
        for _, one in zip(range(updates), batches(), strict=False):
            state, _ = held(state, one)
        jax.block_until_ready(state)
        last_row = [time.perf_counter()]
    else:
        last_row = []
        with tempfile.TemporaryDirectory() as run_dir, run_logger(run_dir) as log:
            with open_checkpoints(run_dir) as checkpoints:
                timed = with_hook(log, lambda row: last_row.append(time.perf_counter()))
                console = Console(stderr=True)
                fit(holder[0], held, batches(), num_steps=updates, log=timed, checkpoints=checkpoints, console=console)
    return (last_row[-1] - started[0]) / (updates - WARM_UP), time.perf_counter() - last_row[-1]


def main() -> None:
    """Prints the table, or one number for a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "SIZE"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.one:
        print(*measure(*parsed.one))
        return
    print("| size | bare loop, ms a step | fit, ms a step | fit / bare, median (all rounds) | once a run, s |")
    print("|---|---|---|---|---|")
    for size in SIZES:
        times = np.zeros((parsed.rounds, 2))
        once = np.zeros(parsed.rounds)
        for number, row in enumerate(times):
            for column, way in enumerate(("bare", "fit")):
                command = [sys.executable, __file__, "--one", way, size]
                done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                row[column], once[number] = map(float, done.stdout.split()[-2:])
        ratios = times[:, 1] / times[:, 0]
        bare, ours = 1000 * np.median(times, axis=0)
        listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(
            f"| {size} | {bare:.2f} | {ours:.2f} | {np.median(ratios):.3f} ({listed}) | {np.median(once):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
