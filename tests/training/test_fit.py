"""The training loop: what it returns, when it stops and what it shows."""

import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from rnn_jax.metrics import Mean
from rnn_jax.training import Validation, create_state, describe_fit, fit, make_train_step
from rnn_jax.training import loop as loop_module
from rnn_jax.training import progress as progress_module
from rnn_jax.training.progress import progress

QUIET = Console(quiet=True)
TX = optax.sgd(1.0)


def follow(params, batch, *, key, step):
    """The gradient is the batch, so after n steps w is minus the sum of n batches."""
    return params["w"] * batch, {"batch": Mean(batch, jnp.ones_like(batch))}


STEP = make_train_step(follow, TX)


def new_state(w=0.0):
    return create_state({"w": np.float32(w)}, TX, jax.random.key(0))


def count_from(start):
    return (np.float32(number) for number in itertools.count(start))


def judge(values):
    """An evaluation that reports the given values one after the other."""
    remaining = iter(values)
    return lambda params: {"nll": next(remaining)}


def test_it_makes_the_asked_steps_and_takes_one_batch_for_each():
    batches = count_from(1)
    state, info = fit(new_state(), STEP, batches, num_steps=4, console=QUIET)
    assert float(state.params["w"]) == -(1 + 2 + 3 + 4)
    assert (info.steps, info.best_step, info.best_value, info.stopped) == (4, 4, None, "num_steps")
    assert next(batches) == 5.0


def test_going_on_from_a_state_counts_its_steps():
    half, _ = fit(new_state(), STEP, count_from(1), num_steps=2, console=QUIET)
    state, info = fit(half, STEP, count_from(3), num_steps=4, console=QUIET)
    assert (float(state.params["w"]), info.steps) == (-10.0, 4)


def test_the_given_state_stays_valid():
    state = new_state(5.0)
    fit(state, STEP, count_from(1), num_steps=2, console=QUIET)
    assert float(state.params["w"]) == 5.0


def test_history_holds_means_over_windows_and_every_evaluation():
    rows = []
    validation = Validation(judge([3.0, 2.0, 1.0]), every=2, metric="nll")
    _, info = fit(
        new_state(),
        STEP,
        count_from(1),
        num_steps=5,
        validation=validation,
        log=rows.append,
        log_every=3,
        console=QUIET,
    )
    assert list(info.history) == rows
    train = [(row["step"], row["train/batch"]) for row in rows if "train/batch" in row]
    valid = [(row["step"], row["valid/nll"]) for row in rows if "valid/nll" in row]
    assert train == [(3, 2.0), (5, 4.5)]
    assert valid == [(2, 3.0), (4, 2.0), (5, 1.0)]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= info.seconds


@pytest.mark.parametrize(("mode", "best_step"), [("min", 2), ("max", 3)])
def test_the_best_state_is_the_one_with_the_best_validation_metric(mode, best_step):
    values = [5.0, 1.0, 9.0, 1.0, 3.0]
    validation = Validation(judge(values), every=1, metric="nll", mode=mode)
    state, info = fit(new_state(), STEP, count_from(1), num_steps=5, validation=validation, console=QUIET)
    assert (info.best_step, info.best_value) == (best_step, values[best_step - 1])
    assert int(state.step) == best_step
    assert float(state.params["w"]) == -sum(range(1, best_step + 1))


def test_training_stops_once_the_goal_is_reached():
    validation = Validation(judge([4.0, 2.0, 1.0]), every=2, metric="nll", goal=2.0)
    _, info = fit(new_state(), STEP, count_from(1), num_steps=20, validation=validation, console=QUIET)
    assert (info.stopped, info.steps, info.best_value) == ("goal", 4, 2.0)
    assert "The goal was reached at step 4 of 20" in describe_fit(info, 20)


def test_patience_counts_evaluations_without_improvement():
    validation = Validation(judge([4.0, 5.0, 3.0, 3.0, 3.5, 0.0]), every=2, metric="nll", patience=2)
    _, info = fit(new_state(), STEP, count_from(1), num_steps=100, validation=validation, console=QUIET)
    assert (info.stopped, info.steps, info.best_step) == ("patience", 10, 6)
    assert "Stopped early at step 10 of 100" in describe_fit(info, 100)
    assert "Best state: step 6 (3)" in describe_fit(info, 100)


def test_a_time_limit_ends_training_and_is_reported():
    evaluations = []

    def evaluate(params):
        evaluations.append(params)
        return {"nll": 2.5}

    validation = Validation(evaluate, every=1000, metric="nll")
    _, info = fit(
        new_state(),
        STEP,
        count_from(1),
        num_steps=10**9,
        validation=validation,
        max_seconds=0.2,
        console=QUIET,
    )
    assert info.stopped == "max_seconds"
    assert 0.2 < info.seconds < 10
    assert len(evaluations) == 1 + (info.steps - 1) // 1000
    assert f"Cut short at step {info.steps} of 1000000000 by the time limit" in describe_fit(info, 10**9)


def test_data_that_ends_is_named_as_the_reason():
    _, info = fit(new_state(), STEP, [np.float32(2), np.float32(3)], num_steps=9, console=QUIET)
    assert (info.stopped, info.steps) == ("batches", 2)
    assert "Ended at step 2 of 9 with the data" in describe_fit(info, 9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_loss_that_is_not_finite_stops_training_and_names_the_step(bad, at):
    batches = [np.float32(1 if step != at else bad) for step in range(1, 6)]
    with pytest.raises(FloatingPointError, match=f"the loss is .* at step {at} "):
        fit(new_state(1.5), STEP, batches, num_steps=5, console=QUIET)


def test_a_validation_metric_that_is_not_finite_stops_training():
    validation = Validation(judge([2.0, np.nan]), every=2, metric="nll")
    with pytest.raises(FloatingPointError, match="validation metric 'nll' is nan at step 4"):
        fit(new_state(), STEP, count_from(1), num_steps=9, validation=validation, console=QUIET)


@pytest.mark.parametrize(
    ("seconds", "order"),
    [
        (0.0, ["start", "start", "read", "start", "read", "start", "read", "read"]),
        (60.0, ["start", "start", "read", "start", "start", "read", "read", "read"]),
    ],
)
def test_the_next_step_is_started_before_a_step_is_read_and_short_ones_are_read_together(seconds, order, monkeypatch):
    monkeypatch.setattr(loop_module, "READ_SECONDS", seconds)
    events = []

    class Watched:
        def __array__(self, dtype=None, copy=None):
            events.append("read")
            return np.asarray(1.0, dtype)

    def step(state, batch):
        events.append("start")
        return state, {"loss": Mean(Watched(), np.float32(1))}

    fit(new_state(), step, count_from(1), num_steps=4, console=QUIET)
    assert events == order


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be greater than the step of the state, 0, got 0"),
        ({"num_steps": 1, "log_every": 0}, "`log_every` must be at least 1, got 0"),
        ({"num_steps": 1, "max_seconds": 0.0}, "`max_seconds` must be positive or None, got 0.0"),
        (
            {"num_steps": 1, "validation": Validation(judge([]), every=0, metric="nll")},
            "`validation.every` must be at least 1, got 0",
        ),
        (
            {"num_steps": 1, "validation": Validation(judge([]), 1, "nll", mode="lowest")},
            "`validation.mode` must be 'min' or 'max', got 'lowest'",
        ),
        (
            {"num_steps": 1, "validation": Validation(judge([]), 1, "nll", patience=0)},
            "`validation.patience` must be at least 1 or None, got 0",
        ),
        (
            {"num_steps": 1, "validation": Validation(judge([1.0]), 1, "accuracy")},
            r"`validation.metric` must be one of \['nll'\], got 'accuracy'",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(new_state(), STEP, count_from(1), console=QUIET, **arguments)


def test_no_batches_at_all_is_an_error():
    with pytest.raises(ValueError, match="`batches` must hold at least one batch, got none"):
        fit(new_state(), STEP, [], num_steps=3, console=QUIET)


def test_plain_lines_are_printed_where_there_is_no_terminal(monkeypatch):
    now = itertools.count(0, 4)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: float(next(now)))
    output = io.StringIO()
    with progress(0, 50, max_seconds=1000.0, console=Console(file=output)) as show:
        for step in range(1, 51):
            show(step, {"loss": 1 / step, "valid nll": 8.5})
    lines = output.getvalue().splitlines()
    assert lines[0] == "step 1/50 · loss 1 · valid nll 8.5"
    assert lines[-1] == "step 50/50 · loss 0.02 · valid nll 8.5 · 0.125 steps/s · 0:00 left"
    assert lines[1] == "step 3/50 · loss 0.3333 · valid nll 8.5 · 0.125 steps/s · 6:16 left"
    assert len(lines) == 26


def test_the_last_step_is_printed_where_training_stops_early():
    output = io.StringIO()
    batches = [np.float32(number) for number in (1, 2, 3)]
    fit(new_state(), STEP, batches, num_steps=9, console=Console(file=output))
    lines = output.getvalue().splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["step 1/9", "step 3/9"]


def test_a_terminal_shows_one_live_line():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    validation = Validation(judge([8.25]), every=6, metric="nll")
    fit(new_state(), STEP, count_from(1), num_steps=6, validation=validation, console=console)
    last = output.getvalue().rsplit("\x1b[2K", 1)[-1]
    for text in ("step 6/6", "loss", "valid nll 8.25", "steps/s", "0:00 left"):
        assert text in last
