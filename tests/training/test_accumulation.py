"""A batch in parts against the whole batch at once."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparing import jit, random_params

from rnn_jax import gru, lru, unroll, with_dropout
from rnn_jax.data import Batch
from rnn_jax.metrics import mean_value, tally
from rnn_jax.training import accumulated, create_state, create_states, make_train_step, make_train_steps

RNG = np.random.default_rng(31)
STEPS, BATCH = 7, 8
CELL = gru(5)
LENGTHS = np.array([7, 1, 3, 7, 2, 0, 5, 4], np.int32)


class Data(NamedTuple):
    xs: Any  # [T, B, 4]
    targets: Any  # [T, B]


BATCHED = Batch(
    data=Data(
        RNG.normal(size=(STEPS, BATCH, 4)).astype(np.float32), RNG.normal(size=(STEPS, BATCH)).astype(np.float32)
    ),
    lengths=LENGTHS,
)
AXES = Batch(data=1, lengths=0)


def ragged_loss(params, batch, *, key, step, cell=CELL):
    _, hs = unroll(cell, params, batch.data.xs, lengths=batch.lengths)
    steps = jnp.arange(batch.data.xs.shape[0], dtype=jnp.int32)
    real = steps[:, None] < batch.lengths[None]
    error = tally((hs.sum(-1) - batch.data.targets) ** 2, real)
    first = tally(hs[0, :, 0], batch.lengths > 0)
    return mean_value(error), {"error": error, "first": first}


def value_and_grad(loss_fn: Any) -> Any:
    return jit(lambda p, b: jax.value_and_grad(loss_fn, has_aux=True)(p, b, key=jax.random.key(0), step=jnp.int32(0)))


def close(got: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), got, expected)


@pytest.mark.parametrize("num", [1, 2, 4, 8])
@pytest.mark.parametrize("cell", [gru(5), lru(4)], ids=["gru", "lru"])
def test_parts_of_ragged_lengths_equal_the_whole_batch(cell, num):
    loss_fn = partial(ragged_loss, cell=cell)
    params = random_params(cell)
    expected = value_and_grad(loss_fn)(params, BATCHED)
    got = value_and_grad(accumulated(loss_fn, num, "error", axes=AXES))(params, BATCHED)
    close(got, expected)
    plain = accumulated(loss_fn, num, "error", axes=AXES)(params, BATCHED, key=jax.random.key(0), step=0)
    close(plain, expected[0])


def test_a_plain_mean_of_means_would_not_equal_it():
    def unweighted(params, batch, *, key, step):
        loss, metrics = ragged_loss(params, batch, key=key, step=step)
        return loss, metrics | {"rows": tally(jnp.zeros(batch.lengths.shape), jnp.ones(batch.lengths.shape))}

    params = random_params(CELL)
    expected = value_and_grad(unweighted)(params, BATCHED)
    wrong = value_and_grad(accumulated(unweighted, 4, "rows", axes=AXES))(params, BATCHED)
    assert abs(float(expected[0][0]) - float(wrong[0][0])) > 0.01


def test_training_steps_of_parts_equal_those_of_whole_batches():
    tx = optax.adam(0.01)
    states = [create_state(random_params(CELL), tx, jax.random.key(0)) for _ in range(2)]
    traces = []

    def counted(*arguments, **named):
        traces.append(None)
        return ragged_loss(*arguments, **named)

    steps = [make_train_step(ragged_loss, tx), make_train_step(accumulated(counted, 4, "error", axes=AXES), tx)]
    for number in range(3):
        batch = BATCHED._replace(lengths=np.roll(LENGTHS, number))
        pairs = [step(state, batch) for step, state in zip(steps, states, strict=True)]
        states = [state for state, _ in pairs]
        close(pairs[1][1], pairs[0][1])
    close(states[1].params, states[0].params)
    assert len(traces) == 1
    assert steps[1]._cache_size() == 1


def test_row_r_is_in_part_r_modulo_num_and_each_part_has_its_own_key():
    seen = []

    def loss_fn(params, batch, *, key, step):
        jax.debug.callback(lambda *values: seen.append(values), batch["a"], batch["b"], batch["shared"], key, step)
        return params * batch["a"].sum(), {"one": tally(jnp.zeros(1), jnp.ones(1))}

    batch = {"a": jnp.arange(12.0).reshape(2, 6), "b": jnp.arange(6).reshape(6, 1), "shared": jnp.array([5.0, 6.0])}
    axes = {"a": -1, "b": 0, "shared": None}
    key = jax.random.key(3)
    accumulated(loss_fn, 3, "one", axes=axes)(jnp.float32(1), batch, key=jax.random.key_data(key), step=jnp.int32(4))
    jax.effects_barrier()
    assert len(seen) == 3
    for a, b, shared, part_key, step in seen:
        part = int(b[0, 0])
        np.testing.assert_array_equal(a, batch["a"][:, part::3])
        np.testing.assert_array_equal(b, batch["b"][part::3])
        np.testing.assert_array_equal(shared, batch["shared"])
        np.testing.assert_array_equal(part_key, jax.random.key_data(jax.random.fold_in(key, part)))
        assert step == 4
    assert sorted(int(b[0, 0]) for _, b, *_ in seen) == [0, 1, 2]


def test_noise_differs_from_part_to_part():
    cell = with_dropout(gru(6), inputs=0.5)

    def loss_fn(params, batch, *, key, step):
        noisy = cell.perturb(key, params, batch.shape)
        _, hs = unroll(cell, noisy, batch)
        return hs.mean(), {"mean": tally(hs, jnp.ones_like(hs))}

    params = random_params(cell)
    row = RNG.normal(size=(STEPS, 1, 4)).astype(np.float32)
    run = jit(lambda p: accumulated(loss_fn, 2, "mean")(p, np.tile(row, (1, 2, 1)), key=jax.random.key(0), step=0)[0])
    alone = [
        float(jit(partial(loss_fn, step=0))(params, row, key=jax.random.fold_in(jax.random.key(0), part))[0])
        for part in range(2)
    ]
    assert abs(alone[0] - alone[1]) > 1e-3
    np.testing.assert_allclose(run(params), np.mean(alone), rtol=1e-5)


def test_nothing_counted_is_zero_and_never_nan():
    params = random_params(CELL)
    empty = BATCHED._replace(lengths=np.zeros(BATCH, np.int32))
    (loss, metrics), grads = value_and_grad(accumulated(ragged_loss, 4, "error", axes=AXES))(params, empty)
    assert float(loss) == float(metrics["error"].count) == 0.0
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(grads))


def test_complex_and_half_precision_parameters_keep_their_dtypes():
    def loss_fn(params, batch, *, key, step):
        values = jnp.abs(params["z"] - batch) ** 2 + params["half"].astype(jnp.float32) * batch.real
        return values.mean(), {"mean": tally(values, jnp.ones_like(values))}

    params = {"z": jnp.asarray(1.0 + 2.0j, jnp.complex64), "half": jnp.asarray(0.5, jnp.bfloat16)}
    batch = jnp.asarray(RNG.normal(size=(1, 4)) + 1j * RNG.normal(size=(1, 4)), jnp.complex64)
    expected, got = (value_and_grad(f)(params, batch) for f in (loss_fn, accumulated(loss_fn, 2, "mean")))
    assert (got[1]["z"].dtype, got[1]["half"].dtype) == (jnp.complex64, jnp.bfloat16)
    np.testing.assert_allclose(got[1]["z"], expected[1]["z"], rtol=1e-6)
    np.testing.assert_allclose(np.float32(got[1]["half"]), np.float32(expected[1]["half"]), rtol=1e-2)


def test_a_loss_that_goes_on_keeps_its_gradient():
    params = random_params(CELL)
    grads = [
        jit(jax.grad(lambda p, f=f: jnp.exp(-0.3 * f(p, BATCHED, key=jax.random.key(0), step=0)[0])))(params)
        for f in (ragged_loss, accumulated(ragged_loss, 2, "error", axes=AXES))
    ]
    close(grads[1], grads[0])
    assert np.abs(grads[0].w_h).max() > 1e-3


def test_a_loss_in_half_precision_is_weighed_in_float32():
    counts = np.array([257.0, 1.0], np.float32)  # bfloat16 has no 257, and no 258

    def loss_fn(params, batch, *, key, step):
        loss = (params * batch["x"].sum()).astype(jnp.bfloat16)
        return loss, {"mean": tally(jnp.zeros(1), batch["count"])}

    batch = {"x": jnp.array([1.0, 2.0]), "count": counts}
    loss, _ = accumulated(loss_fn, 2, "mean", axes=0)(jnp.float32(1), batch, key=jax.random.key(0), step=0)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, (257 * 1 + 1 * 2) / 258, rtol=1e-6)


def test_runs_side_by_side_accumulate_too():
    def loss_fn(params, batch, *, key, step):
        scale, batch = batch
        loss, metrics = ragged_loss(params, batch, key=key, step=step)
        return scale * loss, metrics

    tx, keys = optax.sgd(0.1), jax.random.split(jax.random.key(1), 3)
    scales = jnp.array([0.5, 1.0, 2.0])
    results = []
    for one in (loss_fn, accumulated(loss_fn, 2, "error", axes=(None, AXES))):
        states = create_states(lambda key: CELL.init(key, 4), tx, keys)
        results.append(make_train_steps(one, tx)(states, scales, BATCHED))
    close(results[1][0].params, results[0][0].params)
    close(results[1][1], results[0][1])


def test_memory_holds_the_activations_of_one_part():
    def memory(num: int) -> int:
        loss_fn = accumulated(wide_loss, num, "mean")
        run = jax.jit(jax.grad(lambda p, xs: loss_fn(p, xs, key=jax.random.key(0), step=0)[0]))
        return run.lower(params, jnp.zeros((512, 64, 4))).compile().memory_analysis().temp_size_in_bytes

    cell = gru(32)

    def wide_loss(params, xs, *, key, step):
        hs = unroll(cell, params, xs)[1]
        return hs.mean(), {"mean": tally(hs, jnp.ones_like(hs))}

    params = random_params(cell)
    assert memory(8) < memory(1) / 4


@pytest.mark.parametrize(
    ("num", "metric", "axes", "message"),
    [
        (0, "error", AXES, r"`num` must be an integer of at least 1, got int 0"),
        (3, "error", AXES, r"`num` must divide the batch axis 1 .* got 3 and \(7, 8, 4\) at .*xs"),
        (2, "error", 1, r"`num` must divide the batch axis 1 of every array, got 2 and \(8,\) at .*lengths"),
        (2, "nll", AXES, r"`metric` must be one of \['error', 'first'\] that loss_fn returns, got 'nll'"),
        (2, "error", (1, 0, 1), r"`axes` must be a prefix of the batch .* got \(1, 0, 1\)"),
    ],
)
def test_what_makes_no_sense_is_refused(num, metric, axes, message):
    with pytest.raises(ValueError, match=message):
        accumulated(ragged_loss, num, metric, axes=axes)(
            random_params(CELL), BATCHED, key=jax.random.key(0), step=jnp.int32(0)
        )
