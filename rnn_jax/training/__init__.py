"""Training: the state, the compiled step, the visible loop, run directories and their logs.

Nothing in here knows a concrete cell; a model enters as a loss function.
"""

from rnn_jax.training.logging import read_metrics, run_logger
from rnn_jax.training.loop import FitInfo, Row, Validation, describe_fit, fit
from rnn_jax.training.many import create_states, make_train_steps
from rnn_jax.training.run_dir import describe_environment, start_run, to_plain, write_json
from rnn_jax.training.state import TrainState, copy_state, create_state
from rnn_jax.training.steps import LossFn, Metrics, TrainStep, make_evaluate, make_train_step

__all__ = [
    "FitInfo",
    "LossFn",
    "Metrics",
    "Row",
    "TrainState",
    "TrainStep",
    "Validation",
    "copy_state",
    "create_state",
    "create_states",
    "describe_environment",
    "describe_fit",
    "fit",
    "make_evaluate",
    "make_train_step",
    "make_train_steps",
    "read_metrics",
    "run_logger",
    "start_run",
    "to_plain",
    "write_json",
]
