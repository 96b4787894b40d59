"""Runs side by side equal runs alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax.training import (
    create_state,
    create_states,
    make_mesh,
    make_train_step,
    make_train_steps,
    on_mesh,
    place_runs,
    seed_keys,
)


def init(key: jax.Array) -> dict[str, jax.Array]:
    return {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(())}


def loss_fn(params: Any, batch: Any, *, key: jax.Array, step: jax.Array) -> Any:
    scale, xs = batch
    noise = 0.1 * jax.random.normal(key, xs.shape)
    loss = scale * jnp.square((xs + noise) @ params["w"] + params["b"] - step.astype(jnp.float32)).mean()
    return loss, {}


def test_each_run_equals_a_run_alone() -> None:
    tx = optax.adam(0.1)
    keys, scales = jax.random.split(jax.random.key(3), 4), jnp.array([0.5, 1.0, 2.0, 3.0])
    batches = [jnp.asarray(np.random.default_rng(n).normal(size=(5, 3)), jnp.float32) for n in range(3)]
    states, step = create_states(init, tx, keys), make_train_steps(loss_fn, tx)
    for batch in batches:
        states, metrics = step(states, scales, batch)
    assert metrics["loss"].total.shape == (4,)
    assert len(set(np.asarray(states.params["w"][:, 0]).tolist())) == 4
    alone = make_train_step(loss_fn, tx)
    for n in range(4):
        state = jax.tree.map(lambda leaf: leaf[0], create_states(init, tx, keys[n : n + 1]))
        for batch in batches:
            state, one = alone(state, (scales[n], batch))
        np.testing.assert_allclose(states.params["w"][n], state.params["w"], rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"].total[n], one["loss"].total, rtol=1e-5)
    assert step._cache_size() == 1


def test_every_run_may_have_its_own_learning_rate() -> None:
    schedule = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
    tx = optax.chain(optax.clip_by_global_norm(1.0), schedule)
    keys, rates = seed_keys(4, 3), [0.1, 0.03, 0.3]
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    states, step = create_states(init, tx, keys, learning_rate=rates), make_train_steps(loss_fn, tx)
    for _ in range(3):
        states, _ = step(states, jnp.ones(3), xs)
    for n, rate in enumerate(rates):
        plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
        init_key, train_key = jax.random.split(jax.random.key(4 + n))
        state, alone = create_state(init(init_key), plain, train_key), make_train_step(loss_fn, plain)
        for _ in range(3):
            state, _ = alone(state, (jnp.float32(1), xs))
        np.testing.assert_allclose(states.params["w"][n], state.params["w"], atol=1e-5)  # betas are float32 there


def test_hyper_parameters_that_do_not_fit_are_refused() -> None:
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    with pytest.raises(
        ValueError, match=r"`learning_rate` must have a value for each of the runs, \(3,\), got shape \(2,\)"
    ):
        create_states(init, tx, seed_keys(0, 3), learning_rate=[0.1, 0.2])
    with pytest.raises(ValueError, match="`tx` must have the hyper-parameter decay by optax"):
        create_states(init, tx, seed_keys(0, 3), decay=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="`num` must be"):
        seed_keys(0, 0)


def test_runs_shared_over_devices_are_the_runs() -> None:
    tx, mesh = optax.adam(0.1), make_mesh()
    xs = np.random.default_rng(0).normal(size=(8, 5, 3)).astype(np.float32)  # each run has a batch of its own
    scales = np.linspace(0.5, 2, 8).astype(np.float32)
    steps = make_train_steps(lambda p, batch, *, key, step: loss_fn(p, batch[0], key=key, step=step), tx)
    spread = on_mesh(lambda states, own: steps(states, own, ()), mesh, batch_axis=0)
    here, there = create_states(init, tx, seed_keys(0, 8)), place_runs(create_states(init, tx, seed_keys(0, 8)), mesh)
    for _ in range(3):
        here, _ = steps(here, (scales, xs), ())
        there, metrics = spread(there, (scales, xs))
    assert [shard.data.shape for shard in there.params["w"].addressable_shards] == [(1, 3)] * 8
    assert metrics["loss"].total.shape == (8,)
    np.testing.assert_allclose(there.params["w"], here.params["w"], rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"`states` must be of a multiple of 8 runs, as many as devices, got a step \(3,\)"
    ):
        place_runs(create_states(init, tx, seed_keys(0, 3)), mesh)
