"""How a model is judged while it trains, and which state was the best."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import tree
from rnn_jax.training.state import TrainState, copy_state

__all__ = ["Best", "Validation", "better", "reached"]


class Validation(NamedTuple):
    """How a model is judged while it trains, and when to give up.

    Args:
      evaluate: `evaluate(params) -> {name: number}`, for example
        `lambda params: evaluate(params, valid_batches)` with one from `make_evaluate`. Of N runs in one program
        it takes their parameters together and gives arrays [N].
      every: steps between two evaluations; the last step is always evaluated.
      metric: the name, among those that `evaluate` returns, by which the best state is chosen.
      mode: whether a smaller ("min") or a larger ("max") number is better.
      patience: evaluations in a row without improvement (of any run) after which training stops; None: never.
      goal: a value of the metric that is good enough: training stops once every run has reached it; None: never.
      params_of: what of the state is judged; for an average of the parameters
        `lambda state: averaged_params(state.opt_state)`.

    Example:
      >>> Validation(lambda params: {"nll": 8.5}, every=100, metric="nll").mode
      'min'
    """

    evaluate: Callable[[Any], Mapping[str, Any]]
    every: int
    metric: str
    mode: Literal["min", "max"] = "min"
    patience: int | None = None
    goal: float | None = None
    params_of: Callable[[TrainState], Any] = attrgetter("params")


class Best(NamedTuple):
    """The best state so far; of N runs, the best of each.

    Args:
      state: a state.
      step: its step, [] or [N].
      value: its validation metric, [] or [N].
      waited: evaluations since the last improvement.
    """

    state: TrainState
    step: np.ndarray
    value: np.ndarray
    waited: int


def reached(best: Best, validation: Validation) -> bool:
    """Whether every run has reached the goal."""
    goal = validation.goal
    if goal is None:
        return False
    return bool(np.all(best.value <= goal if validation.mode == "min" else best.value >= goal))


def better(best: Best | None, state: TrainState, step: int, values: Mapping[str, Any], validation: Validation) -> Best:
    """Keeps a copy of the state where its metric beats the best so far; ties keep the earlier.

    Args:
      best: the best so far, or None.
      state: a state, or those of N runs.
      step: its step.
      values: what `validation.evaluate` returned.
      validation: see `Validation`.

    Returns:
      the new best.

    Raises:
      ValueError: the metric is missing, or has not one value for each run.
      FloatingPointError: the metric is not finite.
    """
    if validation.metric not in values:
        raise ValueError(f"`validation.metric` must be one of {sorted(values)}, got {validation.metric!r}")
    value, runs = np.asarray(values[validation.metric], np.float64), state.step.shape
    if value.shape != runs:
        raise ValueError(f"`validation.evaluate` must give {validation.metric!r} of shape {runs}, got {value.shape}")
    if not np.isfinite(value).all():
        raise FloatingPointError(f"validation metric {validation.metric!r} is {value} at step {step}")
    if best is None:
        return Best(copy_state(state), np.full(runs, step), value, 0)
    wins = value < best.value if validation.mode == "min" else value > best.value
    if not wins.any():
        return best._replace(waited=best.waited + 1)
    kept = copy_state(state) if wins.all() else _choose(jnp.asarray(wins), state, best.state)
    return Best(kept, np.where(wins, step, best.step), np.where(wins, value, best.value), 0)


@jax.jit
def _choose(wins: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    return jax.tree.map(lambda a, b: jnp.where(tree.expand(wins, a), a, b), new, old)
