"""The training loop: visible, plain Python around two compiled functions."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from signal import Signals
from time import monotonic
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from rnn_jax.data.batching import Numbered
from rnn_jax.training.checkpoint import Checkpoints, Restored
from rnn_jax.training.guards import Guard, describe, is_spike, save_post_mortem
from rnn_jax.training.ledger import (
    Ledger,
    Read,
    Row,
    Stopped,
    add,
    flush,
    read_steps,
    record,
    resume,
    to_progress,
    watch,
)
from rnn_jax.training.logging import RunLog
from rnn_jax.training.processes import Poll, is_writer
from rnn_jax.training.progress import progress
from rnn_jax.training.signals import Interrupted, stop_requests
from rnn_jax.training.state import TrainState, copy_state
from rnn_jax.training.steps import Metrics, TrainStep
from rnn_jax.training.validation import Best, Validation, better, reached

__all__ = ["FitInfo", "describe_fit", "fit"]

READ_SECONDS = 0.02
"""Metrics are read that often at most, the older half of those that wait: read one by one they cost 0.2 ms a step."""


class FitInfo(NamedTuple):
    """What happened during `fit`.

    Args:
      history: the rows that were logged, oldest first (see `Row`).
      steps: the step at which training ended.
      seconds: wall-clock seconds, compilation, evaluation and earlier processes of the run included.
      best_step: the step whose state was returned; a tuple for N runs.
      best_value: the validation metric of that state; None without validation.
      stopped: why training ended: all steps were made ("num_steps"), no improvement for too long ("patience"), it was
        good enough ("goal"), the time limit was reached ("max_seconds"), or the data ended ("batches").
      notes: what else a reader should know, one sentence each: damaged checkpoints, skipped steps, spikes of the loss.

    Example:
      >>> FitInfo((), 10, 1.5, 10, None, "num_steps", ()).stopped
      'num_steps'
    """

    history: tuple[Row, ...]
    steps: int
    seconds: float
    best_step: Any
    best_value: Any
    stopped: Stopped
    notes: tuple[str, ...]


class _Pending(NamedTuple):
    """A step whose metrics were not read yet."""

    step: int
    metrics: Metrics
    item: Any


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterable[Any],
    *,
    num_steps: int,
    validation: Validation | None = None,
    log: Callable[[Row], None] | None = None,
    log_every: int = 10,
    checkpoints: Checkpoints | None = None,
    guard: Guard = Guard(),
    max_seconds: float | None = None,
    console: Console | None = None,
) -> tuple[TrainState, FitInfo]:
    """Trains until step `num_steps` and returns the best state.

    Step n + 1 is started before the metrics of step n are read, so the device never waits for Python; those of short
    steps are read together, every 20 ms, some 40 ms late. Numbers are averaged over `log_every` steps before they
    are logged.

    With `checkpoints`, a run that was interrupted goes on where its newest checkpoint is, to the same numbers bit for
    bit: call `fit` with the same arguments again. SIGTERM and SIGINT then save and raise `Interrupted`.

    In a run of several processes each calls `fit` with its own rows of the batches (`on_mesh`). Process 0 writes the
    log, shows progress and keeps time; a signal to any of them stops all. What a clock or a signal decides takes effect
    one step later, at the same step everywhere.

    Args:
      state: where to start; it stays valid (one copy is made). Of `create_states` it holds N runs.
      train_step: `step(state, batch) -> (state, metrics)`, from `make_train_step` or `make_tbptt_step`.
      batches: iterable of batches, usually endless; one is taken for each step. An iterator with `get_state` and
        `set_state`, as grain's, is put back to its place on resuming; any other is walked through again from its start.
      num_steps: the step at which to end, counted from the very first one.
      validation: how to choose the best state and when to stop early; without it the last state
        is returned.
      log: takes each row of the history as it is made, for example from `run_logger`.
      log_every: steps in one row of training metrics.
      checkpoints: from `open_checkpoints`.
      guard: when to take notice of losses.
      max_seconds: wall-clock limit: no further step is started after it. The evaluation of the
        last step still runs.
      console: where progress is shown; standard output if None.

    Returns:
      the state with the best validation metric (the last state without validation), and the info.

    Raises:
      FloatingPointError: a loss, gradient or validation metric is not finite; the text names the step, and what was
        saved of it.
      Interrupted: told to stop by a signal; the checkpoint is complete.
      CheckpointError: a checkpoint could not be written, or none of those that are there could be read.
      ValueError: an argument makes no sense, or `batches` is empty.

    Example:
      >>> import itertools, jax, jax.numpy as jnp, optax
      >>> from rnn_jax.training import create_state, make_train_step
      >>> tx = optax.sgd(0.25)
      >>> state = create_state({"w": jnp.float32(0.0)}, tx, jax.random.key(0))
      >>> step = make_train_step(lambda p, batch, *, key, step: ((p["w"] - batch) ** 2, {}), tx)
      >>> endless = itertools.repeat(jnp.float32(4.0))
      >>> state, info = fit(state, step, endless, num_steps=3, console=Console(quiet=True))
      >>> print(state.params["w"], info.stopped)
      3.5 num_steps
    """
    _check_fit(state, num_steps, validation, log_every, max_seconds)
    state, iterator = copy_state(state), iter(batches)
    first = int(np.max(state.step))
    book = Ledger(step=first, log=log if is_writer() else None)
    restored = None if checkpoints is None else checkpoints.restore(state)
    if restored is not None:
        state = restored.state
        resume(book, restored)
        _seek(iterator, restored, book.step - first)
    if checkpoints is not None and isinstance(log, RunLog):
        book.history = list(log.rewind(book.step))
    shown: dict[str, float] = {}
    pending: list[_Pending] = []
    poll, wait, looked = Poll(3), 0.0 if jax.process_count() > 1 else READ_SECONDS, -math.inf

    def read(count: int) -> None:
        nonlocal looked
        oldest = pending[:count]
        numbers = read_steps([done.metrics for done in oldest])
        fine = _fine(guard, numbers)
        for index, done in enumerate(oldest):
            add(book, numbers, index)
            if not fine[index]:
                _look(book, guard, done, numbers, index, state, checkpoints)
            else:
                book.skipped = 0
            shown["loss"] = float(np.mean(numbers.means["loss"][index]))
            watch(book, shown["loss"])
            if done.step % log_every == 0 or done.step == num_steps:
                flush(book, done.step)
        show(oldest[-1].step, shown)
        del pending[:count]
        looked = monotonic()

    def judge(validation: Validation) -> Best:
        values = validation.evaluate(validation.params_of(state))
        record(book, book.step, "valid", values)
        book.best, book.judged = better(book.best, state, book.step, values, validation), book.step
        shown[f"valid {validation.metric}"] = float(np.mean(values[validation.metric]))
        show(book.step, shown)
        return book.best

    with (
        progress(
            book.step, num_steps, max_seconds=max_seconds, console=console if is_writer() else Console(quiet=True)
        ) as show,
        nullcontext(lambda: 0) if checkpoints is None else stop_requests() as requested,
    ):
        while book.stopped is None:
            item = next(iterator, None)
            if item is not None:
                batch = item.batch if isinstance(item, Numbered) else item
                state, metrics = train_step(state, batch)  # returns at once, the device works
                if pending and monotonic() - looked >= wait:
                    read((len(pending) + 1) // 2)  # the device has the others to work on
                book.step += 1
                pending.append(_Pending(book.step, metrics, item))
            late = is_writer() and max_seconds is not None and book.elapsed() > max_seconds
            overdue = is_writer() and checkpoints is not None and checkpoints.overdue()
            signal, late, overdue = poll(requested(), late, overdue)
            book.stopped, improved = _reason(book, item, num_steps, bool(late)), False
            judging = validation is not None and (
                book.step % validation.every == 0 or (book.stopped is not None and book.judged < book.step)
            )
            saving = checkpoints is not None and (
                book.stopped is not None or bool(signal or overdue) or checkpoints.due(book.step)
            )
            if pending and (judging or saving or book.stopped is not None):
                read(len(pending))
            if book.step == first:
                raise ValueError("`batches` must hold at least one batch, got none")
            if validation is not None and judging:
                best = judge(validation)
                improved = best.waited == 0
                if reached(best, validation):
                    book.stopped = book.stopped or "goal"
                if validation.patience is not None and best.waited >= validation.patience:
                    book.stopped = book.stopped or "patience"
            if book.stopped is not None:
                flush(book, book.step)
            if checkpoints is not None and (
                saving or book.stopped is not None or (improved and checkpoints.keep_best > 0)
            ):
                best = None if book.best is None else book.best.state
                checkpoints.save(book.step, state, best, to_progress(book, _position(iterator)))
                if signal:
                    checkpoints.wait()
                    raise Interrupted(book.step, Signals(signal).name)

    last, best = book.step, book.best
    step, value = (last, None) if best is None else (best.step.tolist(), best.value.tolist())
    info = FitInfo(
        tuple(book.history), last, book.elapsed(), step, value, book.stopped or "num_steps", tuple(book.notes)
    )
    return state if best is None else best.state, info


def _fine(guard: Guard, read: Read) -> np.ndarray:
    """Which of the steps that were read need no closer look: bool [n]."""
    if guard.spike is not None:
        return np.zeros(len(read.means["loss"]), bool)
    usual = np.asarray(np.isfinite(read.means["loss"]) & np.isfinite(read.means.get("grad_norm", 0.0)))
    return np.all(usual.reshape(len(usual), -1), axis=1)


def _look(
    book: Ledger, guard: Guard, done: _Pending, read: Read, index: int, state: TrainState, checkpoints: Any
) -> None:
    """Stops at numbers that make no sense, notes those that are strange."""
    means = {name: values[index] for name, values in read.means.items()}

    def saved(reason: str) -> str:
        if book.saved >= guard.max_saved:
            return ""
        book.saved += 1
        if checkpoints is None:
            return ""
        ids, batch = done.item if isinstance(done.item, Numbered) else (None, done.item)
        folder = checkpoints.folder.parent
        where = save_post_mortem(folder, done.step, reason, state=state, batch=batch, metrics=means, ids=ids)
        return f"; batch and state are in {where}"

    loss, norm = means["loss"], means.get("grad_norm", np.float64(0))
    left_out = read.counts["loss"][index] == 0
    if not (np.isfinite(loss) & np.isfinite(norm) | left_out).all():
        numbers = f"the loss is {describe(loss)} at step {done.step} (gradient norm {describe(norm)})"
        raise FloatingPointError(
            f"{numbers}; training stopped{saved(numbers)}. "
            "Lower the learning rate, clip the gradients, or look at the batch of this step"
        )
    book.skipped = book.skipped + 1 if left_out.all() else 0  # of many runs: all of them
    if book.skipped > guard.max_skipped:
        reason = f"{book.skipped} steps in a row had a loss or gradient that is not finite, up to step {done.step}"
        raise FloatingPointError(f"{reason}; training stopped{saved(reason)}")
    if left_out.any() and book.saved < guard.max_saved:
        reason = f"step {done.step} was left out: its loss or gradient is not finite"
        book.notes.append(reason.capitalize() + saved(reason))
    mean = float(np.mean(loss))
    if is_spike(guard, book.recent, mean):
        reason = f"the loss jumped to {mean:.4g} at step {done.step}, from a median of {np.median(book.recent):.4g}"
        book.notes.append(reason.capitalize() + saved(reason))


def _reason(book: Ledger, item: Any, num_steps: int, late: bool) -> Stopped | None:
    """Why this step is the last, if it is."""
    if item is None:
        return "batches"
    if book.step >= num_steps:
        return "num_steps"
    return "max_seconds" if late else None


def _position(iterator: Iterator[Any]) -> Any:
    """Where the data stands, None where it cannot say."""
    return iterator.get_state() if hasattr(iterator, "get_state") else None


def _seek(iterator: Iterator[Any], restored: Restored, steps: int) -> None:
    """Puts fresh data where it stood."""
    if restored.progress.data is not None and hasattr(iterator, "set_state"):
        iterator.set_state(restored.progress.data)
        return
    for _ in range(steps):
        next(iterator, None)


def describe_fit(info: FitInfo, num_steps: int) -> str:
    """Says in one sentence how long training went, why it ended and what was kept.

    Args:
      info: what `fit` returned.
      num_steps: the number of steps that was asked for.

    Returns:
      text for a report; it says so where training was cut short.

    Example:
      >>> info = FitInfo((), 812, 150.3, 800, 8.61, "max_seconds", ())
      >>> print(describe_fit(info, 2000))
      Cut short at step 812 of 2000 by the time limit, after 150 s. Best state: step 800 (8.61).
    """
    reason = {
        "num_steps": f"Trained all {num_steps} steps in {info.seconds:.3g} s.",
        "patience": f"Stopped early at step {info.steps} of {num_steps}: the validation metric no "
        f"longer improved. It took {info.seconds:.3g} s.",
        "goal": f"The goal was reached at step {info.steps} of {num_steps}, after {info.seconds:.3g} s.",
        "max_seconds": f"Cut short at step {info.steps} of {num_steps} by the time limit, after {info.seconds:.3g} s.",
        "batches": f"Ended at step {info.steps} of {num_steps} with the data, after {info.seconds:.3g} s.",
    }[info.stopped]
    parts = [reason]
    if info.best_value is not None:
        best = zip(np.atleast_1d(info.best_step), np.atleast_1d(info.best_value), strict=True)
        parts.append(f"Best state: {', '.join(f'step {step} ({value:.4g})' for step, value in best)}.")
    return " ".join([*parts, *(f"{note}." for note in info.notes)])


def _check_fit(
    state: TrainState, num_steps: int, validation: Validation | None, log_every: int, max_seconds: float | None
) -> None:
    """Checks the arguments of `fit`."""
    if jax.process_count() > 1 and any(leaf.is_fully_addressable for leaf in jax.tree.leaves(state)):
        raise ValueError(
            "`state` must lie on a mesh of all processes, from place_state, got arrays of this process alone"
        )
    first_step = int(np.max(state.step))
    if num_steps <= first_step:
        raise ValueError(f"`num_steps` must be greater than the step of the state, {first_step}, got {num_steps}")
    if log_every < 1:
        raise ValueError(f"`log_every` must be at least 1, got {log_every}")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"`max_seconds` must be positive or None, got {max_seconds}")
    if validation is None:
        return
    if validation.every < 1:
        raise ValueError(f"`validation.every` must be at least 1, got {validation.every}")
    if validation.mode not in ("min", "max"):
        raise ValueError(f"`validation.mode` must be 'min' or 'max', got {validation.mode!r}")
    if validation.patience is not None and validation.patience < 1:
        raise ValueError(f"`validation.patience` must be at least 1 or None, got {validation.patience}")
