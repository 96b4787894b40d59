"""Numbers of a run on disk: one JSON object a line, and TensorBoard events."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from rnn_jax.training.loop import Row

__all__ = ["read_metrics", "run_logger"]

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"


@contextmanager
def run_logger(run_dir: str | Path) -> Generator[Callable[[Row], None]]:
    """Opens the logs of a run directory and yields `log(row)`; closes them at the end.

    Each row is appended to `metrics.jsonl` with the time of day as `wall_time` (seconds since
    1970) and flushed, so a killed run keeps what it had. All its numbers except `step`,
    `seconds` and `wall_time` also become TensorBoard scalars under `tensorboard/`.

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
    with (
        (run_dir / METRICS_FILE).open("a", encoding="utf-8") as file,
        SummaryWriter(str(run_dir / TENSORBOARD_DIR)) as events,
    ):

        def log(row: Row) -> None:
            if "step" not in row:
                raise ValueError(f"`row` must hold a `step`, got {sorted(row)}")
            step, wall_time = int(row["step"]), time.time()
            numbers = {name: float(value) for name, value in row.items() if name != "step"}
            file.write(json.dumps({"step": step, **numbers, "wall_time": wall_time}) + "\n")
            file.flush()
            for name, value in numbers.items():
                if name != "seconds":
                    events.add_scalar(name, value, step, walltime=wall_time)

        yield log


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
