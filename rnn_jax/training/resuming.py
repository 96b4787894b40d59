"""A run directory that is used again: one process at a time, nothing lost, and what changed meanwhile is said."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rnn_jax.training.processes import by_writer, is_writer, together
from rnn_jax.training.run_dir import describe_environment, write_json

__all__ = ["claim_run", "reopen_run"]

KEPT = ("config.json", "options.json", "run.lock", "tensorboard", "checkpoints", "damaged_checkpoints")
"""What going on needs; other files of an interrupted process are made again."""

COMPARED = ("python", "versions", "backend", "device_kind", "device_count", "commit", "dirty")


@contextmanager
def claim_run(run_dir: str | Path) -> Generator[None]:
    """Makes sure that only one run works in a run directory.

    The claim ends with the process, however it ends; of several processes process 0 holds it. Where the system has no
    file locks, nothing is checked.

    Args:
      run_dir: an existing directory.

    Raises:
      ValueError: another process works there.
      RuntimeError: process 0 could not claim it.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return

    def claim(file: IO[str]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"`run_dir` must not be in use, but another process works in {str(run_dir)!r}") from None

    with (Path(run_dir) / "run.lock").open("a") as file:
        together(lambda: claim(file) if is_writer() else None)
        yield


def reopen_run(run_dir: str | Path) -> tuple[str, ...]:
    """Prepares the directory of an interrupted run for going on.

    Outputs that the interrupted process had begun, such as figures, are moved to `interrupted-1` (`-2`, ...), and the
    environment of this process is written to `environment-2.json` (`-3`, ...). Several processes all call it; process 0
    does it.

    Args:
      run_dir: the directory of a run that has no `result.json`.

    Returns:
      one sentence for each difference to the environment of the process before, such as another version of jax or
      another commit: numbers may then differ from those of an uninterrupted run.

    Raises:
      ValueError: `run_dir` is not the directory of an unfinished run.
    """
    return tuple(by_writer(lambda: _reopen(Path(run_dir))))


def _reopen(run_dir: Path) -> list[str]:
    for name in ("config.json", "environment.json"):
        if not (run_dir / name).is_file():
            raise ValueError(f"`run_dir` must be the directory of a run, got {str(run_dir)!r} without {name}")
    if (run_dir / "result.json").exists():
        raise ValueError(f"`run_dir` must be that of an unfinished run, got {str(run_dir)!r} with a result.json")
    environments = [run_dir / "environment.json"]
    while (path := run_dir / f"environment-{len(environments) + 1}.json").exists():
        environments.append(path)
    _set_aside(run_dir)
    now = describe_environment()
    then = json.loads(environments[-1].read_text(encoding="utf-8"))
    write_json(path, now)
    return list(_differences(then, now))


def _set_aside(run_dir: Path) -> None:
    left = [path for path in sorted(run_dir.iterdir()) if not _is_kept(path)]
    if not left:
        return
    number = 1
    while (folder := run_dir / f"interrupted-{number}").exists():
        number += 1
    folder.mkdir()
    for path in left:
        path.rename(folder / path.name)


def _is_kept(path: Path) -> bool:
    """Records of the run, and folders of its parts, which hold logs or checkpoints of their own."""
    begins = ("environment", "metrics.", "post_mortem-", "interrupted-")
    part = path.is_dir() and ((path / "metrics.jsonl").exists() or (path / "checkpoints").exists())
    return path.name in KEPT or path.name.startswith(begins) or part


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Generator[str]:
    for name in COMPARED:
        old, new = then.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for part in sorted({*old, *new}):
                if old.get(part) != new.get(part):
                    yield f"The run goes on with {part} {new.get(part)}, it had {old.get(part)}"
        elif old != new:
            what = "uncommitted changes" if name == "dirty" else name.replace("_", " ")
            yield f"The run goes on with {what}: {new}, it had {old}"
