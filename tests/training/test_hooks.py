"""Another tracker sees what the log sees."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from rnn_jax.training import create_state, fit, make_train_step, open_checkpoints, read_metrics, run_logger
from rnn_jax.training.hooks import with_hook


def train(run_dir, num_steps, hook):
    """Some steps, checkpointed at the end."""
    tx = optax.sgd(0.1)
    step = make_train_step(lambda params, batch, *, key, step: (params["w"] * batch, {}), tx)
    state = create_state({"w": np.float32(1)}, tx, jax.random.key(0))
    with run_logger(run_dir) as log, open_checkpoints(run_dir) as checkpoints:
        batches = itertools.repeat(jnp.float32(0.5))
        options = {"log_every": 2, "checkpoints": checkpoints, "console": Console(quiet=True)}
        fit(state, step, batches, num_steps=num_steps, log=with_hook(log, hook), **options)


def test_the_hook_gets_every_row_and_the_log_can_still_be_rewound(tmp_path):
    seen = []
    train(tmp_path, 4, seen.append)
    rows = [{name: value for name, value in row.items() if name != "wall_time"} for row in read_metrics(tmp_path)]
    assert seen == rows
    train(tmp_path, 4, seen.append)  # a finished run: nothing is trained, logged or handed over again
    assert len(seen) == len(read_metrics(tmp_path)) == 2


def test_an_error_of_the_hook_is_not_swallowed(tmp_path):
    def broken(row):
        raise ConnectionError("no network")

    with pytest.raises(ConnectionError, match="no network"):
        train(tmp_path, 4, broken)
    assert [row["step"] for row in read_metrics(tmp_path)] == [2]
