"""Losses that are not finite, steps that are left out, and losses that jump."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from rnn_jax.data.batching import Numbered
from rnn_jax.metrics import Mean
from rnn_jax.training import (
    Guard,
    Row,
    create_state,
    create_states,
    describe_fit,
    fit,
    load_post_mortem,
    make_tbptt_step,
    make_train_step,
    make_train_steps,
    open_checkpoints,
)

QUIET = Console(quiet=True)
TX = optax.adam(0.1)
BATCHES = [np.float32(number) for number in (1, 2, np.nan, 4, 5, 6)]


def loss_fn(params, batch, *, key, step):
    """The gradient is the batch."""
    return params["w"] * batch, {"batch": Mean(batch, jnp.ones_like(batch))}


def new_state(carry=None):
    return create_state({"w": np.float32(1.5)}, TX, jax.random.key(0), carry)


def after(batches):
    """What plain optax makes of batches."""
    params, opt_state = {"w": jnp.float32(1.5)}, TX.init({"w": jnp.float32(1.5)})
    with jax.numpy_dtype_promotion("standard"):
        for batch in batches:
            updates, opt_state = TX.update({"w": jnp.float32(batch)}, opt_state, params)
            params = optax.apply_updates(params, updates)
    return params, opt_state


def assert_equal(state, expected):
    for ours, theirs in zip(jax.tree.leaves((state.params, state.opt_state)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_an_update_that_is_not_finite_is_never_applied():
    step = make_train_step(loss_fn, TX)
    state, metrics = step(new_state(), jnp.float32(np.nan))
    assert_equal(state, after([]))
    assert int(state.step) == 1
    assert np.isnan(metrics["loss"].total)
    state, metrics = step(state, jnp.float32(3))
    assert_equal(state, after([3]))
    assert np.isfinite(metrics["loss"].total)


def test_skipping_goes_on_as_if_the_step_had_not_been():
    rows: list[Row] = []
    step = make_train_step(loss_fn, TX, when_not_finite="skip")
    state, info = fit(new_state(), step, BATCHES, num_steps=6, log=rows.append, log_every=3, console=QUIET)
    assert_equal(state, after([1, 2, 4, 5, 6]))
    assert [row["train/batch"] for row in rows] == [1.5, 5.0]
    assert [row["train/skipped"] for row in rows] == [pytest.approx(1 / 3), 0.0]
    assert info.notes == ("Step 3 was left out: its loss or gradient is not finite",)
    assert "Step 3 was left out" in describe_fit(info, 6)


def test_too_many_skipped_steps_in_a_row_stop_training():
    step = make_train_step(loss_fn, TX, when_not_finite="skip")
    batches = [*BATCHES[:2], *[np.float32(np.inf)] * 9]
    with pytest.raises(
        FloatingPointError, match="4 steps in a row had a loss or gradient that is not finite, up to step 6"
    ):
        fit(new_state(), step, batches, num_steps=20, guard=Guard(max_skipped=3), console=QUIET)


def test_each_of_many_runs_skips_its_own_steps():
    def many_loss(params, batch, *, key, step):
        return loss_fn(params, batch[0] * batch[1], key=key, step=step)

    states = create_states(lambda key: {"w": jnp.float32(1.5)}, TX, jax.random.split(jax.random.key(0), 3))
    step = make_train_steps(many_loss, TX, when_not_finite="skip")
    for own in ([1.0, 1.0, 1.0], [1.0, np.nan, 1.0], [1.0, 1.0, np.inf]):
        states, metrics = step(states, jnp.array(own, jnp.float32), jnp.float32(2))
    assert metrics["skipped"].total.tolist() == [0, 0, 1]
    for run, count in enumerate((3, 2, 2)):
        assert_equal(jax.tree.map(lambda leaf, run=run: leaf[run], states), after([2] * count))


def test_a_carry_that_is_not_finite_is_not_kept():
    def window_loss(params, carry, batch, *, key, step):
        return params["w"] * batch, (carry + batch, {})

    step = make_tbptt_step(window_loss, TX, when_not_finite="skip")
    state = new_state(jnp.float32(0))
    for batch in BATCHES:
        state, _ = step(state, batch)
    assert float(state.carry) == 18


@pytest.mark.parametrize("make", [make_train_step, make_tbptt_step])
def test_another_word_is_refused(make):
    with pytest.raises(ValueError, match="`when_not_finite` must be one of"):
        make(loss_fn, TX, when_not_finite="ignore")


def test_what_a_bad_step_saw_is_saved_to_look_at(tmp_path):
    batches = [Numbered(np.array([7, index]), batch) for index, batch in enumerate(BATCHES)]
    step = make_train_step(loss_fn, TX)
    with (
        pytest.raises(
            FloatingPointError, match=r"the loss is nan at step 3 .*; batch and state are in .*post_mortem-3\."
        ),
        open_checkpoints(tmp_path) as checkpoints,
    ):
        fit(new_state(), step, batches, num_steps=6, checkpoints=checkpoints, console=QUIET)
    found = load_post_mortem(tmp_path / "post_mortem-3", new_state())
    assert (found.about["step"], found.about["ids"]) == (3, [7, 2])
    assert "the loss is nan at step 3" in found.about["reason"]
    assert np.isnan(found.batch["batch"])
    assert np.isfinite(found.state.params["w"])
    with pytest.raises(ValueError, match="`folder` must be a directory that a run saved as post_mortem-STEP, got"):
        load_post_mortem(tmp_path, new_state())


def test_a_jump_of_the_loss_is_noted_and_saved(tmp_path):
    def steady(params, batch, *, key, step):
        return batch + 0 * params["w"], {}

    losses = [*[2.0, 2.2] * 15, 30.0, *[2.0] * 9]
    batches = [np.float32(loss) for loss in losses]
    with open_checkpoints(tmp_path) as checkpoints:
        _, info = fit(
            new_state(),
            make_train_step(steady, TX),
            batches,
            num_steps=40,
            checkpoints=checkpoints,
            guard=Guard(spike=5.0),
            console=QUIET,
        )
    (note,) = info.notes
    assert note.startswith("The loss jumped to 30 at step 31, from a median of 2.1; batch and state are in")
    assert load_post_mortem(tmp_path / "post_mortem-31", new_state()).batch["batch"] == 30
