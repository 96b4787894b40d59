"""A small run of one or several processes, for tests that kill it; it goes on where RUN_DIR stands when started again.

python run_processes.py RUN_DIR NUM_STEPS [EVERY_STEPS] [--rule RULE]

The environment says how many processes there are (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID) and how
many devices each has (JAX_NUM_CPU_DEVICES), how long it waits for each batch (PAUSE), and before which step it tells
itself to stop (STOP_AT).
"""

import argparse
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from rnn_jax import dense, gru, stack, unroll
from rnn_jax.data.batching import Batch, batches, pad
from rnn_jax.data.pipeline import stream
from rnn_jax.metrics import mean_value, tally
from rnn_jax.training import (
    EXIT_CODE,
    Interrupted,
    Validation,
    agree,
    create_state,
    fingerprint,
    fit,
    gathered,
    is_writer,
    local_rows,
    make_mesh,
    make_train_step,
    on_mesh,
    open_checkpoints,
    place_state,
    run_logger,
    start_processes,
    to_host,
)

ROWS, STEPS = 48, 4
CELL = stack(gru(16), dense(1))
INPUTS = np.random.default_rng(0).normal(size=(ROWS, STEPS, 3)).astype(np.float32)
LENGTHS = np.random.default_rng(1).integers(2, STEPS + 1, ROWS)
PAUSE = float(os.environ.get("PAUSE", "0"))
STOP_AT = int(os.environ.get("STOP_AT", "-1"))


def loss_fn(params, batch, *, key, step):
    """Error of running sums, with noise that depends on the key of the step."""
    noise = 0.1 * jax.random.normal(key, batch.data.shape)
    ys = unroll(CELL, params, batch.data + noise, lengths=batch.lengths)[1]
    real = jnp.arange(STEPS)[:, None] < batch.lengths
    error = jnp.square(ys[..., 0] - batch.data.sum(-1).cumsum(0))
    pair = tally(error, real.astype(error.dtype))
    return mean_value(pair), {"error": pair}


def main(run_dir: Path, num_steps: int, every_steps: int, rule: str) -> int:
    """Trains; process 0 leaves `final.npz`, each process `rows-N.npy`, the examples it read since it was started."""
    start_processes()
    mesh = make_mesh()
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, num_steps)))
    state = create_state(CELL.init(jax.random.key(0), 3), tx, jax.random.key(1))
    state = place_state(state, mesh, rule, min_size=64)
    held_out = INPUTS.swapaxes(0, 1) * 0.5
    seen = []

    def build(ids: np.ndarray) -> Batch:
        time.sleep(PAUSE)
        seen.append(ids)
        return pad([INPUTS[index, : LENGTHS[index]] for index in ids], STEPS)

    @jax.jit
    def evaluate(params):
        error = jnp.square(unroll(CELL, params, held_out)[1] - held_out.sum(-1, keepdims=True).cumsum(0))
        return {"error": error.mean()}

    train_step = on_mesh(make_train_step(gathered(loss_fn, mesh), tx), mesh)

    def step(state, batch):
        if int(state.step) == STOP_AT:
            signal.raise_signal(signal.SIGTERM)
        return train_step(state, batch)

    data = stream(lambda epoch: batches(LENGTHS, 16, 0, epoch), build, rows=partial(local_rows, mesh))
    assert agree(f"from {jax.process_index()}") == "from 0"
    try:
        with run_logger(run_dir) as log, open_checkpoints(run_dir, every_steps=every_steps) as checkpoints:
            restored = checkpoints.restore(state)
            print("started from", fingerprint(state if restored is None else restored.state), flush=True)
            best, info = fit(
                state,
                train_step if STOP_AT < 0 else step,
                data,
                num_steps=num_steps,
                validation=Validation(evaluate, every=15, metric="error"),
                log=log,
                log_every=4,
                checkpoints=checkpoints,
                console=Console(stderr=True),
            )
    except Interrupted as stop:
        print(stop, flush=True)
        return EXIT_CODE
    for note in info.notes:
        print(note, flush=True)
    print("fingerprint", fingerprint(best), flush=True)
    np.save(run_dir / f"rows-{jax.process_index()}.npy", np.stack(seen))
    leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(to_host((best.params, best.opt_state))))}
    if is_writer():
        np.savez(run_dir / "final.npz", best_step=info.best_step, steps=info.steps, **leaves)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("num_steps", type=int)
    parser.add_argument("every_steps", type=int, nargs="?", default=7)
    parser.add_argument("--rule", default="replicated")
    sys.exit(main(**vars(parser.parse_args())))
