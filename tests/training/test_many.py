"""Runs side by side equal runs alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax.training import create_states, make_train_step, make_train_steps


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
