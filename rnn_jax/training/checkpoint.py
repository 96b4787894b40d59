"""Checkpoints: everything a run needs to go on bit for bit, written in the background, whole or not at all.

A checkpoint holds the state of training, the best state so far, and `Progress`: counters, metrics not logged yet, the
place in the data. orbax writes it under a temporary name and renames it when it is complete, so a killed run leaves
complete checkpoints only. A fingerprint of all bytes tells a checkpoint that was damaged later.
"""

import functools
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from rnn_jax.training.fingerprint import fingerprint
from rnn_jax.training.processes import by_writer, together
from rnn_jax.training.state import with_empty, without_empty

__all__ = ["CheckpointError", "Checkpoints", "Progress", "Restored", "open_checkpoints"]

FOLDER, DAMAGED = "checkpoints", "damaged_checkpoints"


class CheckpointError(Exception):
    """A checkpoint could not be written or read; the text says what is kept and what to do."""


class Progress(NamedTuple):
    """Where `fit` stands besides its arrays; plain data.

    Args:
      seconds: wall-clock seconds of training so far, those of earlier processes included.
      window: for each metric the sums `[total, count]` over the steps since the last row was logged.
      recent: the last losses.
      skipped: steps left out in a row, up to now.
      best_step: the step of the best state (of N runs a list); None before the first validation.
      best_value: its validation metric.
      waited: evaluations since.
      judged: the step of the last validation.
      data: the position in the data, from `get_state()` of the iterator; None where it has none.
      stopped: why training ended; None while it goes on.
    """

    seconds: float
    window: dict[str, Any]
    recent: list[float]
    skipped: int
    best_step: Any
    best_value: Any
    waited: int
    judged: int
    data: Any
    stopped: Any


class Restored(NamedTuple):
    """What a checkpoint held.

    Args:
      step: its step.
      state: the state of training.
      best: the best state so far, None before the first validation.
      progress: see `Progress`.
      notes: one sentence for each newer checkpoint that could not be read.
    """

    step: int
    state: Any
    best: Any
    progress: Progress
    notes: tuple[str, ...]


class Checkpoints(NamedTuple):
    """The checkpoints of one training run, from `open_checkpoints`.

    Args:
      folder: where they are.
      due: `due(step)`: whether it is time for the next one. Of several processes each says the same, without a clock.
      overdue: `overdue()`: whether it is by the clock of this process.
      save: `save(step, state, best, progress)`: starts to write one; `best` is None before the first validation.
      wait: `wait()`: returns when everything is written.
      restore: `restore(like)`: the newest one that is whole, as `Restored` with arrays shaped, typed and sharded as in
        the state `like`; None where there is none.
      keep_best: how many of the best ones are kept besides the newest.
    """

    folder: Path
    due: Callable[[int], bool]
    overdue: Callable[[], bool]
    save: Callable[[int, Any, Any, Progress], None]
    wait: Callable[[], None]
    restore: Callable[[Any], Restored | None]
    keep_best: int


@contextmanager
def open_checkpoints(
    run_dir: str | Path,
    *,
    every_steps: int | None = None,
    every_seconds: float | None = 60.0,
    keep: int = 2,
    keep_best: int = 0,
    mode: str = "min",
) -> Generator[Checkpoints]:
    """Opens the checkpoints of a run directory, `run_dir/checkpoints`; waits for the last one at the end.

    Writing happens in the background; what a step may do to the arrays meanwhile does no harm, since they are copied to
    the host first. A run that is killed loses at most the steps since the last complete checkpoint.

    In a run of several processes each of them opens the same directory, which all must see, and each writes the arrays
    that it holds; together they are one checkpoint. It can be continued with another number of devices or processes.

    Args:
      run_dir: an existing directory.
      every_steps: a checkpoint at every multiple of it.
      every_seconds: a checkpoint after so many seconds since the last one; None for none. Of several processes the
        clock of process 0 counts.
      keep: how many of the newest are kept. With 2 or more, a damaged one has one before it to fall back to.
      keep_best: how many of those with the best validation metric are kept as well (the best state itself is in every
        checkpoint).
      mode: whether a smaller ("min") or larger ("max") metric is better.

    Yields:
      `Checkpoints`, for `fit`.

    Raises:
      ValueError: an argument makes no sense.
      CheckpointError: a checkpoint could not be written.

    Example:
      >>> import tempfile, optax
      >>> from rnn_jax.training import create_state
      >>> state = create_state({"w": np.ones(3, np.float32)}, optax.sgd(0.1), jax.random.key(0))
      >>> progress = Progress(1.5, {}, [], 0, None, None, 0, -1, None, None)
      >>> run_dir = tempfile.mkdtemp()
      >>> with open_checkpoints(run_dir) as checkpoints:
      ...     checkpoints.save(7, state, None, progress)
      >>> with open_checkpoints(run_dir) as checkpoints:
      ...     restored = checkpoints.restore(state)
      >>> restored.step, restored.progress.seconds
      (7, 1.5)
    """
    run_dir = _check(run_dir, every_steps, every_seconds, keep, keep_best, mode)
    folder = run_dir / FOLDER
    manager = _manager(folder, keep, keep_best, mode)
    saved_at = time.monotonic()

    def due(step: int) -> bool:
        by_steps = every_steps is not None and step % every_steps == 0
        return by_steps or (jax.process_count() == 1 and overdue())

    def overdue() -> bool:
        return every_seconds is not None and time.monotonic() - saved_at >= every_seconds

    def save(step: int, state: Any, best: Any, progress: Progress) -> None:
        nonlocal saved_at
        if step in manager.all_steps():
            return
        arrays = {"state": state} if best is None else {"state": state, "best": best}
        marks = {name: fingerprint(tree) for name, tree in arrays.items()}
        items: dict[str, Any] = {name: ocp.args.StandardSave(without_empty(tree)) for name, tree in arrays.items()}
        facts = {"fingerprints": marks, "arrays": _outline(state)}
        items["progress"] = ocp.args.JsonSave({**facts, **progress._asdict()})
        value = {}
        if progress.best_value is not None:
            value = {"value": float(np.mean(progress.best_value)), "at": int(np.max(progress.best_step))}
        with _errors(f"the checkpoint of step {step} could not be written to {folder}", manager):
            manager.save(step, args=ocp.args.Composite(**items), metrics=value, force=True)
        saved_at = time.monotonic()

    def wait() -> None:
        with _errors(f"the last checkpoint could not be written to {folder}", manager):
            manager.wait_until_finished()
            manager.check_for_errors()

    def restore(like: Any) -> Restored | None:
        failures: dict[int, str] = {}
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                restored = _read(manager, step, like)
            except Exception as error:  # whatever a damaged file makes tensorstore, json or orbax raise
                failures[step] = " ".join(str(error).split())[:300] or type(error).__name__
                continue
            notes = tuple(
                f"The checkpoint of step {bad} could not be read and was moved to {moved.parent.name}/{moved.name}: "
                f"{failures[bad]}"
                for bad, moved in _set_aside(manager, run_dir, list(failures))
            )
            return restored._replace(notes=notes)
        if failures:
            listed = "\n".join(f"  step {step}: {why}" for step, why in failures.items())
            raise CheckpointError(f"no checkpoint in {folder} fits this run; nothing was changed there:\n{listed}")
        return None

    try:
        yield Checkpoints(folder, due, overdue, save, wait, restore, keep_best)
        wait()
    finally:
        manager.close()


class _Keep(preservation_policy.PreservationPolicy):
    """The newest checkpoints, and those that were made when the metric was best."""

    def __init__(self, keep: int, keep_best: int, sign: float) -> None:
        self.keep, self.keep_best, self.sign = keep, keep_best, sign

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        made = [(c.metrics or {}).get("at") == c.step for c in checkpoints]
        ranked = sorted(
            (index for index, best in enumerate(made) if best),
            key=lambda index: self.sign * checkpoints[index].metrics["value"],
        )
        kept = set(range(len(checkpoints))[-self.keep :]) | set(ranked[: self.keep_best])
        return [index in kept for index in range(len(checkpoints))]


def _manager(folder: Path, keep: int, keep_best: int, mode: str) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        preservation_policy=_Keep(keep, keep_best, 1.0 if mode == "min" else -1.0),
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
    )
    with _errors(f"{folder} cannot be used for checkpoints"):
        return ocp.CheckpointManager(folder.resolve(), options=options)


def _read(manager: ocp.CheckpointManager, step: int, like: Any) -> Restored:
    """Reads one checkpoint and compares the fingerprints."""
    folder = Path(manager.directory) / str(step)
    held = together(lambda: dict(_read_item(folder / "progress", ocp.JsonCheckpointHandler, ocp.args.JsonRestore())))
    marks, outline = held.pop("fingerprints"), held.pop("arrays")
    if other := _differences(outline, _outline(like)):
        raise CheckpointError(f"it holds another state than this run: {'; '.join(other[:5])}")
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, without_empty(like))
    read = functools.partial(_read_item, handler=ocp.StandardCheckpointHandler, args=ocp.args.StandardRestore(shapes))
    arrays = {name: with_empty(together(functools.partial(read, folder / name)), like) for name in marks}
    for name, mark in marks.items():
        if (found := fingerprint(arrays[name])) != mark:
            raise CheckpointError(f"its {name} has fingerprint {found}, written was {mark}")
    return Restored(step, arrays["state"], arrays.get("best"), Progress(**held), ())


def _read_item(path: Path, handler: Any, args: Any) -> Any:
    """Reads what this process needs, on its own: in orbax's joint reading, one that fails leaves the others waiting."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    with ocp.Checkpointer(handler(multiprocessing_options=alone), multiprocessing_options=alone) as checkpointer:
        return checkpointer.restore(path.resolve(), args=args)


def _outline(tree: Any) -> dict[str, str]:
    """The type and shape of every array by its place in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _differences(there: dict[str, str], here: dict[str, str]) -> list[str]:
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return [f"{name[1:]} is {there.get(name, 'missing')} there, {here.get(name, 'missing')} here" for name in names]


def _set_aside(manager: ocp.CheckpointManager, run_dir: Path, steps: list[int]) -> list[tuple[int, Path]]:
    """Moves damaged checkpoints out of the way of new ones; deletes nothing."""

    def move(step: int) -> str:
        target = run_dir / DAMAGED / str(step)
        count = 1
        while target.exists():
            count += 1
            target = run_dir / DAMAGED / f"{step}-{count}"
        target.parent.mkdir(exist_ok=True)
        (Path(manager.directory) / str(step)).rename(target)
        return str(target)

    if not steps:
        return []
    moved = [(step, Path(by_writer(functools.partial(move, step)))) for step in steps]
    manager.reload()
    return moved


@contextmanager
def _errors(what: str, manager: ocp.CheckpointManager | None = None) -> Generator[None]:
    """Says what failed and what is left."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        left = "" if manager is None else f". Complete are the checkpoints of steps {_complete(manager)}"
        raise CheckpointError(f"{what}: {why}{left}") from error


def _complete(manager: ocp.CheckpointManager) -> list[int]:
    """The steps that are on disk under their final name."""
    folder = Path(manager.directory)
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def _check(
    run_dir: str | Path, every_steps: int | None, every_seconds: float | None, keep: int, keep_best: int, mode: str
) -> Path:
    if not Path(run_dir).is_dir():
        raise ValueError(f"`run_dir` must be an existing directory, got {str(run_dir)!r}")
    if every_steps is not None and every_steps < 1:
        raise ValueError(f"`every_steps` must be at least 1 or None, got {every_steps}")
    if every_seconds is not None and not every_seconds >= 0:
        raise ValueError(f"`every_seconds` must be at least 0 or None, got {every_seconds}")
    if keep < 1:
        raise ValueError(f"`keep` must be at least 1, got {keep}")
    if keep_best < 0:
        raise ValueError(f"`keep_best` must be at least 0, got {keep_best}")
    if mode not in ("min", "max"):
        raise ValueError(f"`mode` must be 'min' or 'max', got {mode!r}")
    return Path(run_dir)
