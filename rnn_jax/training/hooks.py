"""Rows of a run handed to another tracker as well, such as Weights & Biases."""

from collections.abc import Callable
from typing import Any

from rnn_jax.training.ledger import Row
from rnn_jax.training.logging import RunLog

__all__ = ["with_hook"]


def with_hook(log: RunLog, hook: Callable[[Row], Any]) -> RunLog:
    """A log that also hands each row to a function, once it is on disk.

    The package depends on no tracker; this is where one goes in:

        wandb.init(project="chorales", id=run_dir.name, resume="allow")
        with run_logger(run_dir) as log, open_checkpoints(run_dir) as checkpoints:
            log = with_hook(log, lambda row: wandb.log(dict(row), step=row["step"]))
            fit(..., log=log, checkpoints=checkpoints)

    Args:
      log: from `run_logger`.
      hook: takes each row. What it raises stops training, as everything does that would lose numbers silently. On
        resuming, rows after the checkpoint are made and handed over a second time.

    Returns:
      the log with the hook.

    Example:
      >>> import tempfile
      >>> from rnn_jax.training import run_logger
      >>> with run_logger(tempfile.mkdtemp()) as log:
      ...     with_hook(log, print)({"step": 10, "train/loss": 0.25})
      {'step': 10, 'train/loss': 0.25}
    """

    def write(row: Row) -> None:
        log.write(row)
        hook(row)

    return log._replace(write=write)
