"""Networks and training for tasks in which something must be kept for many steps."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import Cell, co_rnn, dense, elman, gru, irnn, lru, lstm, min_gru, orthogonal_rnn, stack
from rnn_jax.initializers import chrono, forget_bias
from rnn_jax.metrics import mean_value, tally
from rnn_jax.training import (
    Validation,
    create_states,
    fit,
    make_train_steps,
    open_checkpoints,
    run_logger,
)

__all__ = ["NETWORKS", "Outcome", "Training", "curves", "log_outcomes", "network", "train"]

NETWORKS = (
    "tanh",
    "irnn",
    "orthogonal",
    "co_rnn",
    "gru",
    "lstm_bias_0",
    "lstm_bias_1",
    "lstm_chrono",
    "lru",
    "min_gru",
)


def network(name: str, hidden_size: int, longest: int, num_outputs: int) -> Cell:
    """A network of about `hidden_size` units, and its linear outputs.

    Args:
        name: one of `NETWORKS`.
        hidden_size: H.
        longest: the longest dependency, in steps, which `lstm_chrono` and `lru` are told: units of the LRU begin with
            time constants from `longest` to ten times that.
        num_outputs: O.

    Returns:
        A cell with output [B, O].

    Raises:
        ValueError: there is no such network.
    """
    if name in ("lru", "min_gru"):
        # What is linear in its state needs a layer that is not, to read it. Complex units are half as many.
        ring = lru(hidden_size, state_size=hidden_size // 2, r_min=1 - 1 / longest, r_max=1 - 0.1 / longest)
        linear = ring if name == "lru" else min_gru(hidden_size)
        return stack(linear, _relu_layer(hidden_size), dense(num_outputs))
    cells = {
        "tanh": elman,
        "irnn": irnn,
        "orthogonal": orthogonal_rnn,
        "co_rnn": co_rnn,
        "gru": gru,
        "lstm_bias_0": lambda size: lstm(size, bias_init=forget_bias(0.0)),
        "lstm_bias_1": lambda size: lstm(size, bias_init=forget_bias(1.0)),
        "lstm_chrono": lambda size: lstm(size, bias_init=chrono(float(longest))),
    }
    if name not in cells:
        raise ValueError(f"`cells` must be among {', '.join(NETWORKS)}, got {name!r}")
    return stack(cells[name](hidden_size), dense(num_outputs))


def _relu_layer(size: int) -> Cell:
    """A layer without memory."""
    inner = dense(size)
    return inner._replace(readout=lambda params, hs, xs: jax.nn.relu(inner.readout(params, hs, xs)))


@dataclass(frozen=True)
class Training:
    """How all networks are trained."""

    batch_size: int = 50
    num_steps: int = 5000
    """At most; all seeds of a network stop when all have solved the task."""
    clip: float = 1.0
    """Of the global norm of the gradient."""
    evaluate_every: int = 50
    num_valid: int = 500
    """Sequences that decide when the task is solved."""
    num_test: int = 2000
    max_seconds: float = 400.0
    """For each network."""


class Outcome(NamedTuple):
    """What became of the seeds of a network.

    Attributes:
        steps: [K] of the evaluations.
        valid: [K, N] the metric then.
        test: [N] the metric of the best state.
        seconds: of training.
    """

    steps: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    seconds: float

    def first(self, good: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The step of the first evaluation of each seed that is `good`; infinite if there is none."""
        passed = good(self.valid)
        return np.where(passed.any(0), self.steps[passed.argmax(0)], np.inf)


def train(
    folder: Path,
    cell: Cell,
    num_inputs: int,
    tx: optax.GradientTransformation,
    data: Callable[[jax.Array, int], Any],
    loss: Callable[[Any, Any], jax.Array],
    metric: Callable[[Any, Any], jax.Array],
    validation: tuple[str, str, float],
    training: Training,
    keys: jax.Array,
) -> Outcome:
    """Trains N networks of one kind side by side on data that is new at every step.

    Args:
        folder: for logs and checkpoints.
        cell: the network.
        num_inputs: I.
        tx: the optimizer; the gradient is clipped before.
        data: `(key, count) -> batch`.
        loss: `(params, batch) -> scalar`.
        metric: `(params, batch) -> scalar`.
        validation: the name of the metric, "min" or "max", and the value at which the task counts as solved.
        training: sizes.
        keys: [N], one for each seed.

    Returns:
        The outcome.
    """
    name, mode, goal = validation
    folder.mkdir(exist_ok=True)

    def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
        value = loss(params, data(key, training.batch_size))
        return mean_value(tally(value, jnp.ones_like(value))), {}

    tx = optax.chain(optax.clip_by_global_norm(training.clip), tx)
    states = create_states(lambda key: cell.init(key, num_inputs), tx, keys)
    steps, settings = make_train_steps(loss_fn, tx), jnp.zeros(len(keys))
    judge = jax.jit(jax.vmap(metric, in_axes=(0, None)))
    valid, test = (data(jax.random.key(seed), n) for seed, n in ((1000, training.num_valid), (1001, training.num_test)))
    with run_logger(folder) as log, open_checkpoints(folder) as checkpoints:
        best, info = fit(
            states,
            lambda states, batch: steps(states, settings, batch),
            itertools.repeat(()),
            num_steps=training.num_steps,
            validation=Validation(
                lambda params: {name: judge(params, valid)},
                training.evaluate_every,
                name,
                mode="max" if mode == "max" else "min",
                goal=goal,
            ),
            log=log,
            log_every=training.evaluate_every,
            checkpoints=checkpoints,
            max_seconds=training.max_seconds,
        )
    rows = [row for row in info.history if f"valid/{name}" in row]
    return Outcome(
        np.array([row["step"] for row in rows]),
        np.array([row[f"valid/{name}"] for row in rows]),
        np.asarray(judge(best.params, test)),
        info.seconds,
    )


def log_outcomes(run_dir: Path, outcomes: dict[str, Outcome], metric: str) -> None:
    """A row for each network in the log of the whole run; the rows of its training are in its own folder."""
    with run_logger(run_dir) as log:
        for name, outcome in outcomes.items():
            log({"step": int(outcome.steps[-1]), f"{name}/{metric}": outcome.test.tolist()})


def curves(outcomes: dict[str, Outcome]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The metric of every seed over steps, as `named_curves` draws it."""
    return {name.replace("_", " "): (outcome.steps, outcome.valid.T) for name, outcome in outcomes.items()}
