"""A small run, for tests that kill it: trains a GRU on sums, and goes on where RUN_DIR stands when started again.

python run_to_kill.py RUN_DIR NUM_STEPS [EVERY_STEPS]
"""

import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from rnn_jax import dense, gru, stack, unroll, with_dropout
from rnn_jax.data.batching import batches
from rnn_jax.data.pipeline import stream
from rnn_jax.metrics import mean_value, tally
from rnn_jax.training import (
    EXIT_CODE,
    Interrupted,
    Validation,
    create_state,
    fit,
    make_train_step,
    open_checkpoints,
    run_logger,
)

CELL = stack(with_dropout(gru(12), variational=0.2), dense(1))
INPUTS = np.random.default_rng(0).normal(size=(40, 9, 3)).astype(np.float32)
PAUSE = float(os.environ.get("PAUSE", "0"))


def loss_fn(params, batch, *, key, step):
    """Error of running sums, with dropout, and with noise that depends on the key of the step."""
    noise = 0.1 * jax.random.normal(key, batch.shape)
    params = CELL.perturb(key, params, batch.shape)
    error = jnp.square(unroll(CELL, params, batch + noise)[1] - batch.sum(-1, keepdims=True).cumsum(0))
    pair = tally(error, jnp.ones_like(error))
    return mean_value(pair), {"error": pair}


def build(ids):
    """The batch of some examples, time first."""
    time.sleep(PAUSE)
    return INPUTS[ids].swapaxes(0, 1)


def main(run_dir: Path, num_steps: int, every_steps: int) -> int:
    """Trains and leaves `final.npz` with parameters, samples and the best step."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, num_steps)))
    state = create_state(CELL.init(jax.random.key(0), 3), tx, jax.random.key(1))
    held_out = INPUTS.swapaxes(0, 1) * 0.5

    @jax.jit
    def evaluate(params):
        error = jnp.square(unroll(CELL, params, held_out)[1] - held_out.sum(-1, keepdims=True).cumsum(0))
        return {"error": error.mean()}

    data = stream(lambda epoch: batches(np.full(40, 9), 8, 0, epoch), build)
    try:
        with run_logger(run_dir) as log, open_checkpoints(run_dir, every_steps=every_steps) as checkpoints:
            best, info = fit(
                state,
                make_train_step(loss_fn, tx),
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
    samples = jax.random.normal(jax.random.fold_in(best.key, best.step), (5,))
    leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves((best.params, best.opt_state)))}
    np.savez(run_dir / "final.npz", samples=samples, best_step=info.best_step, **leaves)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 7))
