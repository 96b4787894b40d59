"""What `fit` has written down so far: counters, sums that are not logged yet, rows, notes. It goes into checkpoints."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rnn_jax.training.checkpoint import Progress, Restored
from rnn_jax.training.guards import RECENT
from rnn_jax.training.steps import Metrics
from rnn_jax.training.validation import Best

__all__ = [
    "Ledger",
    "Read",
    "Row",
    "Stopped",
    "add",
    "flush",
    "plain",
    "read_steps",
    "record",
    "resume",
    "to_progress",
    "watch",
]

Row = Mapping[str, Any]
"""One line of the history: `step`, `seconds`, and numbers named `train/...` or `valid/...`; of N runs in one program
lists of N numbers."""

Stopped = Literal["num_steps", "patience", "goal", "max_seconds", "batches"]


@dataclass
class Ledger:
    """The book that `fit` keeps.

    Args:
      step: steps made.
      log: takes each row; None for none.
      before: seconds of earlier processes of the run.
      start: when this process started, `time.monotonic()`.
      window: for each metric the sums `[total, count]` over the steps since the last row, float64, [] or [N].
      recent: the last losses.
      skipped: steps left out in a row, up to now.
      saved: how many cases were saved to look at.
      judged: the step of the last validation.
      best: the best state so far.
      stopped: why training ended.
      history: the rows.
      notes: what a reader should know.
    """

    step: int
    log: Callable[[Row], None] | None = None
    before: float = 0.0
    start: float = field(default_factory=time.monotonic)
    window: dict[str, list[Any]] = field(default_factory=dict)
    recent: list[float] = field(default_factory=list)
    skipped: int = 0
    saved: int = 0
    judged: int = -1
    best: Best | None = None
    stopped: Stopped | None = None
    history: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def elapsed(self) -> float:
        """Seconds of training, earlier processes included."""
        return self.before + time.monotonic() - self.start


class Read(NamedTuple):
    """Metrics of n steps on the host, float64, [n] or, of N runs, [n, N].

    Args:
      totals: for each name.
      counts: for each name.
      means: their quotients, NaN where nothing was counted.
    """

    totals: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    means: dict[str, np.ndarray]


def read_steps(steps: Sequence[Metrics]) -> Read:
    """Brings the metrics of some steps to the host, all in one go."""
    if jax.default_backend() != "cpu":
        steps = jax.device_get(steps)
    totals, counts = (
        {name: np.stack([np.asarray(step[name][part]) for step in steps]).astype(np.float64) for name in steps[0]}
        for part in (0, 1)
    )
    return Read(totals, counts, {name: _divide(totals[name], counts[name]) for name in totals})


def add(ledger: Ledger, read: Read, index: int) -> None:
    """Adds one of the steps that were read to the window."""
    for name, totals in read.totals.items():
        held = ledger.window.get(name)
        total, count = totals[index], read.counts[name][index]
        ledger.window[name] = [total, count] if held is None else [held[0] + total, held[1] + count]


def flush(ledger: Ledger, step: int) -> None:
    """Logs the means over the window as one row and empties it. What was never counted in it is left out."""
    if not ledger.window:
        return
    means = {name: _divide(*sums) for name, sums in ledger.window.items()}
    record(ledger, step, "train", {name: mean for name, mean in means.items() if not np.isnan(mean).all()})
    ledger.window = {}


def record(ledger: Ledger, step: int, prefix: str, values: Mapping[str, Any]) -> None:
    """Makes a row of the history and hands it to the log."""
    row = {"step": step, "seconds": ledger.elapsed()}
    row |= {f"{prefix}/{name}": plain(value) for name, value in values.items()}
    ledger.history.append(row)
    if ledger.log is not None:
        ledger.log(row)


def plain(value: Any) -> Any:
    """A number as a float, an array [N] as a list."""
    return np.asarray(value, np.float64).tolist()


def to_progress(ledger: Ledger, data: Any) -> Progress:
    """What of the book goes into a checkpoint."""
    best = ledger.best
    return Progress(
        seconds=ledger.elapsed(),
        window={name: [plain(total), plain(count)] for name, (total, count) in ledger.window.items()},
        recent=list(ledger.recent),
        skipped=ledger.skipped,
        best_step=None if best is None else best.step.tolist(),
        best_value=None if best is None else best.value.tolist(),
        waited=0 if best is None else best.waited,
        judged=ledger.judged,
        data=data,
        stopped=ledger.stopped,
    )


def resume(ledger: Ledger, restored: Restored) -> None:
    """Opens the book where a checkpoint left it."""
    progress = restored.progress
    ledger.step, ledger.before, ledger.start = restored.step, progress.seconds, time.monotonic()
    ledger.window = {name: [np.asarray(part) for part in sums] for name, sums in progress.window.items()}
    ledger.recent, ledger.skipped, ledger.judged = list(progress.recent), progress.skipped, progress.judged
    ledger.stopped = progress.stopped
    if restored.best is not None:
        step, value = np.asarray(progress.best_step), np.asarray(progress.best_value)
        ledger.best = Best(restored.best, step, value, progress.waited)
    ledger.notes += restored.notes


def watch(ledger: Ledger, loss: float) -> None:
    """Keeps a finite loss among the recent ones."""
    if math.isfinite(loss):
        ledger.recent.append(loss)
        del ledger.recent[:-RECENT]


def _divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count != 0, total / np.where(count != 0, count, 1), np.nan)
