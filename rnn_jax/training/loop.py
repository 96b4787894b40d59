"""The training loop: visible, plain Python around two compiled functions."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax
from rich.console import Console

from rnn_jax.metrics import Mean
from rnn_jax.training.progress import progress
from rnn_jax.training.state import TrainState, copy_state
from rnn_jax.training.steps import Metrics, TrainStep, mean_on_host

__all__ = ["FitInfo", "Row", "Validation", "describe_fit", "fit"]

Row = Mapping[str, float]
"""One line of the history: `step`, `seconds`, and numbers named `train/...` or `valid/...`."""


class Validation(NamedTuple):
    """How a model is judged while it trains, and when to give up.

    Args:
      evaluate: `evaluate(params) -> {name: number}`, for example
        `lambda params: evaluate(params, valid_batches)` with one from `make_evaluate`.
      every: steps between two evaluations; the last step is always evaluated.
      metric: the name, among those that `evaluate` returns, by which the best state is chosen.
      mode: whether a smaller ("min") or a larger ("max") number is better.
      patience: evaluations in a row without improvement after which training stops; None: never.

    Example:
      >>> Validation(lambda params: {"nll": 8.5}, every=100, metric="nll").mode
      'min'
    """

    evaluate: Callable[[Any], Mapping[str, float]]
    every: int
    metric: str
    mode: Literal["min", "max"] = "min"
    patience: int | None = None


class FitInfo(NamedTuple):
    """What happened during `fit`.

    Args:
      history: the rows that were logged, oldest first (see `Row`).
      steps: the step at which training ended.
      seconds: wall-clock seconds, compilation and evaluation included.
      best_step: the step whose state was returned.
      best_value: the validation metric of that state; None without validation.
      stopped: why training ended: all steps were made ("num_steps"), no improvement for too long
        ("patience"), the time limit was reached ("max_seconds"), or the data ended ("batches").

    Example:
      >>> FitInfo((), 10, 1.5, 10, None, "num_steps").stopped
      'num_steps'
    """

    history: tuple[Row, ...]
    steps: int
    seconds: float
    best_step: int
    best_value: float | None
    stopped: Literal["num_steps", "patience", "max_seconds", "batches"]


class _Best(NamedTuple):
    """The best state so far; `waited` counts the evaluations since."""

    state: TrainState
    step: int
    value: float
    waited: int


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterable[Any],
    *,
    num_steps: int,
    validation: Validation | None = None,
    log: Callable[[Row], None] | None = None,
    log_every: int = 10,
    max_seconds: float | None = None,
    console: Console | None = None,
) -> tuple[TrainState, FitInfo]:
    """Trains until step `num_steps` and returns the best state.

    Step n + 1 is started before the metrics of step n are read, so the device never waits for
    Python. Numbers are averaged over `log_every` steps before they are logged.

    Args:
      state: where to start; it stays valid (one copy is made).
      train_step: `step(state, batch) -> (state, metrics)`, from `make_train_step`.
      batches: iterable of batches, usually endless; one is taken for each step.
      num_steps: the step at which to end, counted from the very first one.
      validation: how to choose the best state and when to stop early; without it the last state
        is returned.
      log: takes each row of the history as it is made, for example from `run_logger`.
      log_every: steps in one row of training metrics.
      max_seconds: wall-clock limit: no further step is started after it. The evaluation of the
        last step still runs.
      console: where progress is shown; standard output if None.

    Returns:
      the state with the best validation metric (the last state without validation), and the info.

    Raises:
      FloatingPointError: a loss or the validation metric is not finite; the text names the step.
      ValueError: an argument makes no sense, or `batches` is empty.

    Example:
      >>> import itertools, jax.numpy as jnp, optax
      >>> from rnn_jax.training import create_state, make_train_step
      >>> tx = optax.sgd(0.25)
      >>> state = create_state({"w": jnp.float32(0.0)}, tx, jax.random.key(0))
      >>> step = make_train_step(lambda p, batch, *, key, step: ((p["w"] - batch) ** 2, {}), tx)
      >>> endless = itertools.repeat(jnp.float32(4.0))
      >>> state, info = fit(state, step, endless, num_steps=3, console=Console(quiet=True))
      >>> print(state.params["w"], info.stopped)
      3.5 num_steps
    """
    first_step = _check_fit(state, num_steps, validation, log_every, max_seconds)
    start = time.monotonic()
    state = copy_state(state)
    history: list[Row] = []
    window: list[Metrics] = []
    latest: dict[str, float] = {}
    best: _Best | None = None
    pending: tuple[int, Metrics] | None = None
    stopped: Literal["num_steps", "patience", "max_seconds", "batches"] = "batches"
    step = first_step

    def record(at: int, prefix: str, values: Mapping[str, float]) -> None:
        row = {"step": at, "seconds": time.monotonic() - start}
        row |= {f"{prefix}/{name}": float(value) for name, value in values.items()}
        history.append(row)
        if log is not None:
            log(row)

    with progress(first_step, num_steps, max_seconds=max_seconds, console=console) as show:

        def read(at: int, metrics: Metrics) -> None:
            window.append(_read_finite(at, metrics))
            latest["loss"] = mean_on_host([window[-1]["loss"]])
            show(at, latest)
            if at % log_every == 0 or at == num_steps:
                record(at, "train", _means(window))
                window.clear()

        def validate(at: int, validation: Validation) -> _Best:
            values = validation.evaluate(state.params)
            record(at, "valid", values)
            new_best = _better(best, state, at, values, validation)
            latest[f"valid {validation.metric}"] = values[validation.metric]
            show(at, latest)
            return new_best

        for step, batch in zip(range(first_step + 1, num_steps + 1), batches, strict=False):
            state, metrics = train_step(state, batch)  # returns at once, the device works
            if pending is not None:
                read(*pending)
            pending = (step, metrics)
            if step == num_steps:
                stopped = "num_steps"
            elif max_seconds is not None and time.monotonic() - start > max_seconds:
                stopped = "max_seconds"
                break
            if validation is not None and step % validation.every == 0:
                read(*pending)
                pending = None
                best = validate(step, validation)
                if validation.patience is not None and best.waited >= validation.patience:
                    stopped = "patience" if step < num_steps else "num_steps"
                    break
        if pending is None and best is None:
            raise ValueError("`batches` must hold at least one batch, got none")
        if pending is not None:
            read(*pending)
        if window:
            record(step, "train", _means(window))
        if validation is not None and pending is not None:
            best = validate(step, validation)

    seconds = time.monotonic() - start
    if best is None:
        return state, FitInfo(tuple(history), step, seconds, step, None, stopped)
    info = FitInfo(tuple(history), step, seconds, best.step, best.value, stopped)
    return best.state, info


def describe_fit(info: FitInfo, num_steps: int) -> str:
    """Says in one sentence how long training went, why it ended and what was kept.

    Args:
      info: what `fit` returned.
      num_steps: the number of steps that was asked for.

    Returns:
      text for a report; it says so where training was cut short.

    Example:
      >>> info = FitInfo((), 812, 150.3, 800, 8.61, "max_seconds")
      >>> print(describe_fit(info, 2000))
      Cut short at step 812 of 2000 by the time limit, after 150 s. Best state: step 800 (8.61).
    """
    reason = {
        "num_steps": f"Trained all {num_steps} steps in {info.seconds:.3g} s.",
        "patience": f"Stopped early at step {info.steps} of {num_steps}: the validation metric no "
        f"longer improved. It took {info.seconds:.3g} s.",
        "max_seconds": f"Cut short at step {info.steps} of {num_steps} by the time limit, after {info.seconds:.3g} s.",
        "batches": f"Ended at step {info.steps} of {num_steps} with the data, after {info.seconds:.3g} s.",
    }[info.stopped]
    if info.best_value is None:
        return reason
    return f"{reason} Best state: step {info.best_step} ({info.best_value:.4g})."


def _check_fit(
    state: TrainState,
    num_steps: int,
    validation: Validation | None,
    log_every: int,
    max_seconds: float | None,
) -> int:
    """Checks the arguments of `fit` and returns the step to start from."""
    first_step = int(state.step)
    if num_steps <= first_step:
        raise ValueError(f"`num_steps` must be greater than the step of the state, {first_step}, got {num_steps}")
    if log_every < 1:
        raise ValueError(f"`log_every` must be at least 1, got {log_every}")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"`max_seconds` must be positive or None, got {max_seconds}")
    if validation is None:
        return first_step
    if validation.every < 1:
        raise ValueError(f"`validation.every` must be at least 1, got {validation.every}")
    if validation.mode not in ("min", "max"):
        raise ValueError(f"`validation.mode` must be 'min' or 'max', got {validation.mode!r}")
    if validation.patience is not None and validation.patience < 1:
        raise ValueError(f"`validation.patience` must be at least 1 or None, got {validation.patience}")
    return first_step


def _read_finite(step: int, metrics: Metrics) -> Metrics:
    """Waits for the metrics of a step, copies them to the host and insists on a finite loss."""
    on_host = jax.device_get(metrics)
    loss = mean_on_host([on_host["loss"]])
    if not math.isfinite(loss):
        norm = mean_on_host([on_host["grad_norm"]]) if "grad_norm" in on_host else math.nan
        raise FloatingPointError(
            f"the loss is {loss} at step {step} (gradient norm {norm:.4g}); training stopped. "
            "Lower the learning rate, clip the gradients, or look at the batch of this step"
        )
    return on_host


def _means(window: list[Metrics]) -> dict[str, float]:
    """Averages each metric over the steps of a window."""
    columns: dict[str, list[Mean]] = {name: [m[name] for m in window] for name in window[0]}
    return {name: mean_on_host(parts) for name, parts in columns.items()}


def _better(
    best: _Best | None,
    state: TrainState,
    step: int,
    values: Mapping[str, float],
    validation: Validation,
) -> _Best:
    """Keeps a copy of the state where its metric beats the best so far; ties keep the earlier."""
    if validation.metric not in values:
        raise ValueError(f"`validation.metric` must be one of {sorted(values)}, got {validation.metric!r}")
    value = float(values[validation.metric])
    if not math.isfinite(value):
        raise FloatingPointError(f"validation metric {validation.metric!r} is {value} at step {step}")
    sign = 1.0 if validation.mode == "min" else -1.0
    if best is None or sign * value < sign * best.value:
        return _Best(state=copy_state(state), step=step, value=value, waited=0)
    return best._replace(waited=best.waited + 1)
