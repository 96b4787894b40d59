"""Numbers of a run on disk: one JSON object a line, and TensorBoard events."""

import json
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tensorboardX import SummaryWriter

from rnn_jax.training.ledger import Row
from rnn_jax.training.processes import agree, is_writer

__all__ = ["RunLog", "read_metrics", "run_logger"]

METRICS_FILE = "metrics.jsonl"
SUPERSEDED_FILE = "metrics.superseded.jsonl"
TENSORBOARD_DIR = "tensorboard"


class RunLog(NamedTuple):
    """The log of a run: `log(row)` writes a row.

    Args:
      write: the same as calling it.
      rewind: `rewind(step)`: takes the rows after a step out of the log, since they will be made again, and returns
        those that stay. They are appended to `metrics.superseded.jsonl`, so nothing is lost.
    """

    write: Callable[[Row], None]
    rewind: Callable[[int], tuple[Row, ...]]

    def __call__(self, row: Row) -> None:
        """Writes a row."""
        self.write(row)


@contextmanager
def run_logger(run_dir: str | Path) -> Generator[RunLog]:
    """Opens the logs of a run directory and yields `log(row)`; closes them at the end.

    Each row is appended to `metrics.jsonl` with the time of day as `wall_time` (seconds since
    1970) and flushed, so a killed run keeps what it had. All its numbers except `step`,
    `seconds` and `wall_time` also become TensorBoard scalars under `tensorboard/`.

    Of several processes only process 0 writes; the others may call `log`, which then does nothing.

    Args:
      run_dir: an existing directory, from `start_run`.

    Yields:
      `log(row)`, where `row` maps names to numbers and holds an integer `step`.

    Raises:
      ValueError: `run_dir` is not a directory, or a row has no `step`.

    Example:
      >>> import tempfile
      >>> run_dir = tempfile.mkdtemp()
      >>> with run_logger(run_dir) as log:
      ...     log({"step": 10, "train/loss": 0.25})
      >>> read_metrics(run_dir)[0]["train/loss"]
      0.25
    """
    run_dir = _check_directory(run_dir)
    if not is_writer():
        yield RunLog(_check_row, lambda step: tuple(agree(())))
        return
    with ExitStack() as opened:
        file = opened.enter_context((run_dir / METRICS_FILE).open("a", encoding="utf-8"))
        events: SummaryWriter | None = None

        def scalars(after: int | None) -> SummaryWriter:
            """TensorBoard hides what an earlier process wrote after that step."""
            purge = None if after is None else after + 1
            # A short queue makes training wait for the disk.
            writer = SummaryWriter(str(run_dir / TENSORBOARD_DIR), purge_step=purge, max_queue=1000)
            return opened.enter_context(writer)

        def write(row: Row) -> None:
            nonlocal events
            _check_row(row)
            step, wall_time = int(row["step"]), time.time()
            numbers = {name: np.asarray(value, np.float64).tolist() for name, value in row.items() if name != "step"}
            file.write(json.dumps({"step": step, **numbers, "wall_time": wall_time}) + "\n")
            file.flush()
            events = events or scalars(None)
            for name, value in numbers.items():
                if name != "seconds":
                    tags = (
                        {f"{name}/{n}": one for n, one in enumerate(value)}
                        if isinstance(value, list)
                        else {name: value}
                    )
                    for tag, number in tags.items():
                        events.add_scalar(tag, number, step, walltime=wall_time)

        def rewind(step: int) -> tuple[Row, ...]:
            nonlocal events, file
            rows = read_metrics(run_dir)
            kept, dropped = ([row for row in rows if (row["step"] <= step) == stays] for stays in (True, False))
            _append(run_dir / SUPERSEDED_FILE, dropped)
            file.close()
            _replace(run_dir / METRICS_FILE, kept)
            file = opened.enter_context((run_dir / METRICS_FILE).open("a", encoding="utf-8"))
            events = scalars(step)
            return tuple(agree([{name: value for name, value in row.items() if name != "wall_time"} for row in kept]))

        yield RunLog(write, rewind)


def _check_row(row: Row) -> None:
    if "step" not in row:
        raise ValueError(f"`row` must hold a `step`, got {sorted(row)}")


def _append(path: Path, rows: Sequence[Row]) -> None:
    if rows:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def _replace(path: Path, rows: Sequence[Row]) -> None:
    """Writes a whole new file beside the old one, then puts it in its place: no moment has half of it."""
    beside = path.with_suffix(".tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_metrics(run_dir: str | Path) -> tuple[dict[str, Any], ...]:
    r"""Reads `metrics.jsonl` of a run directory.

    A last line that a killed run left unfinished is skipped.

    Args:
      run_dir: the directory of a run.

    Returns:
      the rows, oldest first; those of `FitInfo.history` with a `wall_time`.

    Raises:
      ValueError: `run_dir` is not a directory, or a line before the last is not JSON.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> _ = (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.5}\n{"st')
      >>> read_metrics(folder)
      ({'step': 1, 'train/loss': 2.5},)
    """
    path = _check_directory(run_dir) / METRICS_FILE
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            break
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {path} is not JSON: {line.strip()!r}") from error
    return tuple(rows)


def _check_directory(run_dir: str | Path) -> Path:
    if not Path(run_dir).is_dir():
        raise ValueError(f"`run_dir` must be an existing directory, got {str(run_dir)!r}")
    return Path(run_dir)
