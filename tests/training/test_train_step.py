"""The compiled training step against a hand-written optax loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax.metrics import tally
from rnn_jax.training import create_state, make_evaluate, make_train_step

RNG = np.random.default_rng(3)
INPUTS = RNG.normal(size=(5, 16, 4)).astype(np.float32)
TARGETS = (INPUTS @ np.array([1.0, -2.0, 0.5, 3.0]) + 0.7).astype(np.float32)
BATCHES = list(zip(INPUTS, TARGETS, strict=True))
PARAMS = {"w": np.array([0.1, 0.2, -0.3, 0.4], np.float32), "b": np.float32(0.05)}


def squared_error(params, batch, *, key, step):
    inputs, targets = batch
    errors = (inputs @ params["w"] + params["b"] - targets) ** 2
    return errors.mean(), {"error": tally(errors, jnp.ones_like(errors))}


def norm(tree):
    return np.sqrt(sum(np.sum(np.abs(np.asarray(leaf)) ** 2) for leaf in jax.tree.leaves(tree)))


def test_it_equals_a_hand_written_optax_loop():
    tx = optax.adamw(0.05, weight_decay=0.01)
    step = make_train_step(squared_error, tx)
    state = create_state(PARAMS, tx, jax.random.key(0))
    params = jax.tree.map(jnp.asarray, PARAMS)
    opt_state = tx.init(params)
    for number, batch in enumerate(BATCHES):
        inputs, targets = batch
        residual = np.asarray(inputs @ params["w"] + params["b"] - targets)
        grads = {
            "w": jnp.asarray(2 * inputs.T @ residual / len(residual)),
            "b": jnp.asarray(2 * residual.mean()),
        }
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        state, metrics = step(state, batch)
        for name in params:
            np.testing.assert_allclose(state.params[name], params[name], rtol=1e-6, atol=1e-6)
        measured = {name: float(pair.total) / float(pair.count) for name, pair in metrics.items()}
        expected = {
            "loss": np.mean(residual**2),
            "error": np.mean(residual**2),
            "grad_norm": norm(grads),
            "update_norm": norm(updates),
            "param_norm": norm(params),
        }
        assert measured == pytest.approx(expected, rel=1e-5)
        assert int(state.step) == number + 1


@pytest.mark.parametrize("weakly_typed", [False, True])
def test_new_values_do_not_compile_again(weakly_typed):
    traces = []

    def counted(params, batch, *, key, step):
        traces.append(None)
        return squared_error(params, batch, key=key, step=step)

    params = PARAMS | {"b": jnp.asarray(0.05)} if weakly_typed else PARAMS
    tx = optax.adam(optax.linear_schedule(0.1, 0.0, 5))
    step = make_train_step(counted, tx)
    for seed in (0, 1):
        state = create_state(params, tx, jax.random.key(seed))
        for batch in BATCHES:
            state, _ = step(state, batch)
    assert len(traces) == 1


def test_every_step_has_the_key_of_its_number():
    def noise(params, batch, *, key, step):
        return params["w"].sum(), {"draw": tally(jax.random.uniform(key, (1,)), np.ones(1, bool))}

    tx = optax.sgd(0.1)
    state = create_state(PARAMS, tx, jax.random.key(7))
    step = make_train_step(noise, tx)
    for number in range(3):
        state, metrics = step(state, None)
        expected = jax.random.uniform(jax.random.fold_in(jax.random.key(7), number), (1,))[0]
        assert float(metrics["draw"].total) == float(expected)


def test_the_arrays_of_the_caller_survive_a_donating_step():
    tx = optax.sgd(0.1)
    params = jax.tree.map(jnp.asarray, PARAMS) | {"tied": jnp.float32(2.0)}
    params["tied_again"] = params["tied"]
    key = jax.random.key(0)
    before = create_state(params, tx, key)
    make_train_step(squared_error, tx)(before, BATCHES[0])
    np.testing.assert_array_equal(params["w"], PARAMS["w"])
    assert not key.is_deleted()
    assert before.params["w"].is_deleted()


def test_a_complex_parameter_descends():
    target = np.complex64(1.0 - 2.0j)

    def distance(params, batch, *, key, step):
        return jnp.abs(params["z"] - target) ** 2, {}

    tx = optax.sgd(0.25)
    state = create_state({"z": np.complex64(3.0 + 1.0j)}, tx, jax.random.key(0))
    step = make_train_step(distance, tx)
    for _ in range(20):
        state, _ = step(state, None)
    np.testing.assert_allclose(state.params["z"], target, atol=1e-4)


def test_a_metric_that_would_be_overwritten_is_refused():
    def loss_fn(params, batch, *, key, step):
        return params["b"], {"loss": tally(params["w"], params["w"])}

    tx = optax.sgd(0.1)
    state = create_state(PARAMS, tx, jax.random.key(0))
    with pytest.raises(ValueError, match=r"must not return metrics named \['loss'\]"):
        make_train_step(loss_fn, tx)(state, None)


def test_a_raw_key_is_refused():
    with pytest.raises(ValueError, match=r"`key` must be one typed key.*got uint32"):
        create_state(PARAMS, optax.sgd(0.1), jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match=r"got key<fry>\[2\]"):
        create_state(PARAMS, optax.sgd(0.1), jax.random.split(jax.random.key(0)))


def test_evaluation_weighs_batches_by_what_they_hold():
    def metrics_fn(params, batch):
        values, mask = batch
        return {"mean": tally(params * values, mask), "nothing": tally(values, mask & ~mask)}

    values = RNG.normal(size=(3, 6)).astype(np.float32)
    mask = np.arange(6)[None, :] < np.array([6, 1, 3])[:, None]
    batches = list(zip(values, mask, strict=True))
    result = make_evaluate(metrics_fn)(np.float32(2.0), batches)
    assert result["mean"] == pytest.approx(2 * values[mask].mean(), rel=1e-6)
    assert result["nothing"] == 0.0


def test_evaluating_nothing_is_an_error():
    with pytest.raises(ValueError, match="`batches` must hold at least one batch"):
        make_evaluate(lambda params, batch: {})(PARAMS, [])
