"""Averages of parameters against sums over all of them in float64."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from rnn_jax.training import (
    Validation,
    averaged_params,
    create_state,
    create_states,
    fingerprint,
    fit,
    make_tbptt_step,
    make_train_step,
    make_train_steps,
    open_checkpoints,
    with_ema,
    with_mean,
)
from rnn_jax.training.checkpoint import Progress

RNG = np.random.default_rng(13)
PARAMS = {"w": RNG.normal(size=3).astype(np.float32), "z": np.complex64(0.3 - 0.7j)}
BATCHES = RNG.normal(size=(9, 3)).astype(np.float32)


class Scaled(NamedTuple):
    """A window that scales its update."""

    batch: Any
    scale: Any


def loss_fn(params, batch, *, key, step):
    return ((params["w"] - batch) ** 2).sum() + jnp.abs(params["z"] - (1.0 + 2.0j)) ** 2, {}


def train(tx: Any, *, num: int = len(BATCHES), params: Any = PARAMS) -> tuple[Any, list[Any], list[Any]]:
    """The last state, the parameters after 0, 1, ... updates, and the average at each of those times."""
    state = create_state(params, tx, jax.random.key(0))
    step = make_train_step(loss_fn, tx)
    history, averages = [jax.device_get(state.params)], [jax.device_get(averaged_params(state.opt_state))]
    for batch in BATCHES[:num]:
        state, _ = step(state, batch)
        history.append(jax.device_get(state.params))
        averages.append(jax.device_get(averaged_params(state.opt_state)))
    assert step._cache_size() == 1
    return state, history, averages


def weighted(history: list[Any], weights: list[float]) -> Any:
    total = sum(weights)
    return jax.tree.map(
        lambda *leaves: sum(w * np.asarray(leaf, complex) for w, leaf in zip(weights, leaves, strict=True)) / total,
        *history,
    )


def close(got: Any, expected: Any, rtol: float = 2e-6) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), got, expected)


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.99])
@pytest.mark.parametrize("where", ["alone", "chained", "around"])
def test_a_moving_average_equals_its_weighted_sum(decay, where):
    clip = optax.clip_by_global_norm(0.5)
    tx = {
        "alone": with_ema(optax.adam(0.1), decay),
        "chained": optax.chain(clip, with_ema(optax.adam(0.1), decay)),
        "around": with_ema(optax.chain(clip, optax.adam(0.1)), decay),
    }[where]
    _, history, averages = train(tx)
    close(averages[0], PARAMS)
    for n in range(1, len(history)):
        close(averages[n], weighted(history[1 : n + 1], [decay ** (n - k) for k in range(1, n + 1)]))


@pytest.mark.parametrize(("start", "every"), [(0, 1), (1, 1), (4, 1), (2, 3), (0, 4), (50, 1)])
def test_a_mean_equals_the_mean_of_what_counts(start, every):
    _, history, averages = train(with_mean(optax.sgd(0.1, momentum=0.9), start, every=every))
    for n in range(len(history)):
        counted = [k for k in range(n + 1) if k >= start and (k - start) % every == 0] or [n]
        close(averages[n], weighted([history[k] for k in counted], [1.0] * len(counted)))
    close(averages[min(start, 9)], history[min(start, 9)], rtol=0)  # not even rounded


def test_training_is_the_same_with_and_without_an_average():
    plain = create_state(PARAMS, optax.adam(0.1), jax.random.key(0))
    step = make_train_step(loss_fn, optax.adam(0.1))
    for batch in BATCHES:
        plain, _ = step(plain, batch)
    for tx in (with_ema(optax.adam(0.1)), with_mean(optax.adam(0.1), 3)):
        jax.tree.map(np.testing.assert_array_equal, train(tx)[0].params, plain.params)


def test_a_thousand_updates_keep_the_default_moving_average_exact():
    tx = with_ema(optax.sgd(1.0))
    state, params, slow, scale = tx.init(jnp.float32(0)), jnp.float32(0), 0.0, 0.0
    update = jax.jit(tx.update)
    for n in range(1000):
        updates, state = update(jnp.float32(np.sin(n)), state, params)
        params = optax.apply_updates(params, updates)
        slow, scale = 0.999 * slow + 0.001 * float(params), 0.999 * scale + 0.001
    np.testing.assert_allclose(averaged_params(state), slow / scale, rtol=1e-5)


def test_what_does_not_count_does_not_touch_the_average_not_even_as_nan():
    tx = with_mean(optax.set_to_zero(), 3, every=2)
    state = tx.init(jnp.float32(1))
    averages = []
    for value in (jnp.nan, jnp.inf, 5.0, jnp.nan, 7.0):  # those of the updates 3 and 5 count
        params = jnp.float32(value)
        _, state = tx.update(params, state, params)
        averages.append(float(averaged_params(state)))
    np.testing.assert_array_equal(averages, [np.nan, np.inf, 5.0, 5.0, 6.0])


def test_half_precision_is_averaged_in_float32():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = with_ema(optax.sgd(0.0), 0.999)
    state = tx.init(params)
    assert averaged_params(state)["w"].dtype == jnp.float32
    for value in (1.0, 2.0):
        params = {"w": jnp.full(3, value, jnp.bfloat16)}
        _, state = tx.update({"w": jnp.zeros(3, jnp.bfloat16)}, state, params)
    np.testing.assert_allclose(averaged_params(state)["w"], (0.999 + 2) / 1.999, rtol=1e-6)


def test_seeds_side_by_side_have_their_own_averages():
    tx, keys = (
        optax.chain(optax.clip_by_global_norm(0.5), with_ema(optax.adam(0.1), 0.8)),
        jax.random.split(jax.random.key(2), 3),
    )

    def init(key):
        return {"w": jax.random.normal(key, (3,)), "z": jnp.asarray(PARAMS["z"])}

    def scaled_loss(params, batch, *, key, step):
        loss, metrics = loss_fn(params, batch[1], key=key, step=step)
        return batch[0] * loss, metrics

    states, scales = create_states(init, tx, keys), jnp.array([0.5, 1.0, 2.0])
    starts = [jax.tree.map(lambda leaf, n=n: jnp.copy(leaf[n]), states) for n in range(3)]
    steps, alone = make_train_steps(scaled_loss, tx), make_train_step(scaled_loss, tx)
    for batch in BATCHES[:4]:
        states, _ = steps(states, scales, batch)
    averages = averaged_params(states.opt_state)
    assert averages["w"].shape == (3, 3)
    for n, state in enumerate(starts):
        for batch in BATCHES[:4]:
            state, _ = alone(state, (scales[n], batch))
        close(jax.tree.map(lambda leaf, n=n: leaf[n], averages), averaged_params(state.opt_state), rtol=1e-5)


def test_the_average_knows_the_scale_of_a_window():
    def window_loss(params, carry, window, *, key, step):
        return loss_fn(params, window.batch, key=key, step=step)[0], (carry, {})

    tx = with_mean(optax.sgd(0.1), 1)
    state = create_state(PARAMS, tx, jax.random.key(0), jnp.zeros(()))
    step = make_tbptt_step(window_loss, tx)
    history = []
    for batch, scale in zip(BATCHES[:4], (0.5, 1.0, 0.25, 2.0), strict=True):
        state, metrics = step(state, Scaled(batch, np.float32(scale)))
        history.append(jax.device_get(state.params))
    close(averaged_params(state.opt_state), weighted(history, [1.0] * 4))
    moved = np.sqrt(sum(np.sum(np.abs(history[3][k] - history[2][k]) ** 2) for k in PARAMS))
    np.testing.assert_allclose(metrics["update_norm"].total, moved, rtol=1e-5)


def test_states_without_or_with_two_averages_are_refused():
    for tx, count in ((optax.adam(0.1), 0), (optax.chain(with_ema(optax.adam(0.1)), with_mean(optax.identity())), 2)):
        with pytest.raises(ValueError, match=rf"`opt_state` must hold one average.*with_ema or with_mean, got {count}"):
            averaged_params(tx.init(PARAMS))
    tx = with_ema(optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"`params` must be given to the update of an optimizer with an average"):
        tx.update(PARAMS, tx.init(PARAMS))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: with_ema(optax.sgd(0.1), 1.0), r"`decay` must be a number in \[0, 1\), got float 1.0"),
        (lambda: with_mean(optax.sgd(0.1), -1), r"`start` must be an integer of at least 0, got int -1"),
        (lambda: with_mean(optax.sgd(0.1), every=0), r"`every` must be an integer of at least 1, got int 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_fit_can_choose_by_the_average() -> None:
    tx = with_ema(optax.sgd(1.0), 0.5)
    state = create_state({"w": np.float32(0)}, tx, jax.random.key(0))
    step = make_train_step(lambda params, batch, *, key, step: (params["w"] * batch, {}), tx)
    seen = []

    def evaluate(params):
        seen.append(float(params["w"]))
        return {"distance": abs(seen[-1] + 1.5)}

    validation = Validation(
        evaluate, every=1, metric="distance", params_of=lambda state: averaged_params(state.opt_state)
    )
    batches = [np.float32(1), np.float32(1), np.float32(1)]  # the parameters are -1, -2, -3
    best, info = fit(state, step, batches, num_steps=3, validation=validation, console=Console(quiet=True))
    np.testing.assert_allclose(seen, [-1, -5 / 3, -17 / 7], rtol=1e-6)
    assert info.best_step == 2
    np.testing.assert_allclose(averaged_params(best.opt_state)["w"], -5 / 3, rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda tx: with_ema(tx, 0.5), with_mean])
def test_an_average_goes_through_a_checkpoint(wrap, tmp_path) -> None:
    tx = wrap(optax.adam(0.1))
    state, _, averages = train(tx)
    progress = Progress(0.0, {}, [], 0, None, None, 0, -1, None, None)
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(9, state, None, progress)
    with open_checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(create_state(PARAMS, tx, jax.random.key(1)))
    assert restored is not None
    jax.tree.map(np.testing.assert_array_equal, averaged_params(restored.state.opt_state), averages[-1])
    step = make_train_step(loss_fn, tx)
    gone_on, not_stopped = (step(state, BATCHES[0])[0] for state in (restored.state, state))
    assert fingerprint(gone_on) == fingerprint(not_stopped)
