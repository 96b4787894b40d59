"""Training: the state, the compiled step, the visible loop, run directories and their logs.

Nothing in here knows a concrete cell; a model enters as a loss function.
"""

from rnn_jax.training.accumulation import accumulated
from rnn_jax.training.averaging import AverageState, averaged_params, with_ema, with_mean
from rnn_jax.training.checkpoint import CheckpointError, Checkpoints, open_checkpoints
from rnn_jax.training.cores import use_cores
from rnn_jax.training.dynamic_evaluation import dynamic_evaluation, gradient_rms
from rnn_jax.training.fingerprint import fingerprint
from rnn_jax.training.guards import Guard, PostMortem, load_post_mortem
from rnn_jax.training.hooks import with_hook
from rnn_jax.training.ledger import Row
from rnn_jax.training.logging import RunLog, read_metrics, run_logger
from rnn_jax.training.loop import FitInfo, describe_fit, fit
from rnn_jax.training.many import create_states, make_train_steps, seed_keys
from rnn_jax.training.memory import keep_memory
from rnn_jax.training.mesh import data_mesh, local_rows, make_mesh
from rnn_jax.training.precision import in_precision
from rnn_jax.training.processes import agree, by_writer, is_writer, start_processes
from rnn_jax.training.run_dir import describe_environment, start_run, to_plain, write_json
from rnn_jax.training.sharding import (
    gathered,
    on_mesh,
    place_batch,
    place_runs,
    place_state,
    state_sharding,
    to_host,
)
from rnn_jax.training.signals import EXIT_CODE, Interrupted
from rnn_jax.training.state import TrainState, copy_state, create_state
from rnn_jax.training.steps import LossFn, Metrics, TrainStep, make_evaluate, make_train_step
from rnn_jax.training.tbptt import WindowLossFn, make_tbptt_step, unroll_window
from rnn_jax.training.validation import Validation

__all__ = [
    "EXIT_CODE",
    "AverageState",
    "CheckpointError",
    "Checkpoints",
    "FitInfo",
    "Guard",
    "Interrupted",
    "LossFn",
    "Metrics",
    "PostMortem",
    "Row",
    "RunLog",
    "TrainState",
    "TrainStep",
    "Validation",
    "WindowLossFn",
    "accumulated",
    "agree",
    "averaged_params",
    "by_writer",
    "copy_state",
    "create_state",
    "create_states",
    "data_mesh",
    "describe_environment",
    "describe_fit",
    "dynamic_evaluation",
    "fingerprint",
    "fit",
    "gathered",
    "gradient_rms",
    "in_precision",
    "is_writer",
    "keep_memory",
    "load_post_mortem",
    "local_rows",
    "make_evaluate",
    "make_mesh",
    "make_tbptt_step",
    "make_train_step",
    "make_train_steps",
    "on_mesh",
    "open_checkpoints",
    "place_batch",
    "place_runs",
    "place_state",
    "read_metrics",
    "run_logger",
    "seed_keys",
    "start_processes",
    "start_run",
    "state_sharding",
    "to_host",
    "to_plain",
    "unroll_window",
    "use_cores",
    "with_ema",
    "with_hook",
    "with_mean",
    "write_json",
]
