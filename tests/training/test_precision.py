"""Training in bfloat16 against training in float32: dtypes, gradients, and where it ends."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparing import jit

from rnn_jax import dense, gru, lru, lstm, stack, unroll
from rnn_jax.data.windows import windows
from rnn_jax.metrics import masked_mean, tally
from rnn_jax.training import (
    accumulated,
    create_state,
    in_precision,
    make_tbptt_step,
    make_train_step,
    unroll_window,
)

RNG = np.random.default_rng(0)
XS = RNG.normal(size=(20, 8, 3)).astype(np.float32)
TARGETS = (np.cumsum(XS[..., 0], 0) / 4).astype(np.float32)
SENSITIVE = ("nu_log", "theta_log", "gamma_log")
CELLS = {
    "lstm": (lstm(16), ()),
    "gru": (gru(16), ()),
    "lru": (lru(16, r_min=0.9, r_max=0.999), SENSITIVE),
}


class Data(NamedTuple):
    xs: Any  # [T, B, 3]
    targets: Any  # [T, B]
    weights: Any  # [T, B]


BATCH = Data(XS, TARGETS, (RNG.random((20, 8)) < 0.8).astype(np.float32))


def make_loss_fn(model: Any, seen: list[Any] | None = None) -> Any:
    def loss_fn(params, batch, *, key, step):
        carry, ys = unroll(model, params, batch.xs)
        if seen is not None:
            seen.append((params, batch, carry, ys))
        errors = (ys[..., 0].astype(jnp.float32) - batch.targets) ** 2
        return masked_mean(errors, batch.weights), {"error": tally(errors, batch.weights)}

    return loss_fn


def dtypes(tree: Any) -> set[str]:
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


def distances(got: Any, expected: Any) -> list[float]:
    """The relative distance of each leaf."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return [float(np.linalg.norm(np.asarray(a - b)) / np.linalg.norm(np.asarray(b))) for a, b in pairs]


@pytest.mark.parametrize("name", CELLS)
def test_it_computes_in_half_and_keeps_carry_loss_and_gradient_in_float32(name):
    cell, sensitive = CELLS[name]
    model = stack(cell, dense(1))
    params = model.init(jax.random.key(0), 3)
    seen: list[Any] = []
    plain, half = make_loss_fn(model), in_precision(make_loss_fn(model, seen), keep=("targets", "weights", *sensitive))

    def run(loss_fn):
        return jit(jax.value_and_grad(lambda p: loss_fn(p, BATCH, key=jax.random.key(0), step=0), has_aux=True))(params)

    (loss, metrics), grads = run(half)
    (expected_loss, _), expected = run(plain)
    (half_params, batch, carry, ys) = seen[-1]
    assert (batch.xs.dtype, batch.targets.dtype, batch.weights.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    assert ys.dtype == jnp.bfloat16
    assert dtypes(carry) == ({"complex64"} if name == "lru" else {"float32"})
    flat = {path[-1].name: leaf.dtype.name for path, leaf in jax.tree.leaves_with_path(half_params)}
    assert {n for n, dtype in flat.items() if dtype == "float32"} == set(sensitive)
    assert dtypes(grads) == dtypes((loss, metrics)) == {"float32"}
    np.testing.assert_allclose(loss, expected_loss, rtol=0.005)
    assert max(distances(grads, expected)) < 0.02
    assert min(distances(grads, expected)) > 1e-5  # half the bits do make a difference


def test_the_decay_of_a_linear_cell_should_be_kept():
    model = stack(CELLS["lru"][0], dense(1))
    params = model.init(jax.random.key(0), 3)
    loss_fn = make_loss_fn(model)
    grads = [
        jit(jax.grad(lambda p, f=f: f(p, BATCH, key=jax.random.key(0), step=0)[0]))(params)
        for f in (loss_fn, in_precision(loss_fn), in_precision(loss_fn, keep=("targets", "weights", *SENSITIVE)))
    ]
    assert max(distances(grads[1], grads[0])) > 5 * max(distances(grads[2], grads[0]))


@pytest.mark.parametrize("name", CELLS)
def test_training_ends_nearly_where_float32_does(name):
    cell, sensitive = CELLS[name]
    model, tx = stack(cell, dense(1)), optax.adam(0.01)
    loss_fn = make_loss_fn(model)
    losses = []
    for one in (loss_fn, in_precision(loss_fn, keep=("targets", "weights", *sensitive))):
        state = create_state(model.init(jax.random.key(0), 3), tx, jax.random.key(1))
        step = make_train_step(one, tx)
        state, metrics = step(state, BATCH)
        first = float(metrics["loss"].total)
        for _ in range(200):
            state, metrics = step(state, BATCH)
        assert dtypes((state.params, state.opt_state)) <= {"float32", "int32"}
        assert step._cache_size() == 1
        losses.append(float(metrics["loss"].total))
        assert losses[-1] < 0.02 * first
    np.testing.assert_allclose(losses[1], losses[0], atol=0.002 * first)


def test_a_carry_goes_through_in_float32_from_window_to_window():
    cell, tx = gru(4), optax.sgd(0.1)
    given = []

    def loss_fn(params, carry, window, *, key, step):
        given.append((carry, window.inputs, window.targets))
        carry, ys = unroll_window(cell, params, window.inputs, carry, window)
        return masked_mean((ys.sum(-1) - window.targets.astype(ys.dtype)) ** 2, window.weights), (carry, {})

    params = cell.init(jax.random.key(0), 3)
    carry = cell.init_carry(params, (8,))
    step = make_tbptt_step(in_precision(loss_fn), tx)
    state = create_state(params, tx, jax.random.key(0), carry)
    for window in windows(XS, TARGETS, 5):
        state, metrics = step(state, window)
    assert dtypes(given[0][0]) == {"float32"}
    assert (given[0][1].dtype, given[0][2].dtype) == (jnp.bfloat16, jnp.float32)
    assert dtypes((state.carry, state.params, metrics)) == {"float32"}
    assert np.any(np.asarray(state.carry) != np.asarray(state.carry, jnp.bfloat16))
    assert step._cache_size() == 1


def test_parts_in_half_precision_add_up_in_float32():
    model = stack(gru(16), dense(1))
    params = model.init(jax.random.key(0), 3)
    half = in_precision(make_loss_fn(model))

    def run(loss_fn):
        return jit(jax.grad(lambda p: loss_fn(p, BATCH, key=jax.random.key(0), step=0)[0]))(params)

    grads = run(accumulated(half, 4, "error"))
    assert dtypes(grads) == {"float32"}
    assert max(distances(grads, run(half))) < 0.01


def test_float32_changes_nothing_and_other_leaves_are_left_alone():
    def loss_fn(params, batch, *, key, step):
        assert batch["ids"].dtype == jnp.int32
        assert batch["real"].dtype == jnp.bool_
        assert params["z"].dtype == jnp.complex64
        loss = (params["w"] * batch["x"]).sum() * 3
        return loss, {"loss_of_half": tally(jnp.ones(2), jnp.ones(2)), "raw": loss}

    params = {"w": jnp.full(3, 0.1), "z": jnp.zeros((), jnp.complex64)}
    batch = {
        "ids": jnp.arange(3, dtype=jnp.int32),
        "real": jnp.ones(3, bool),
        "x": np.array([0.1, 0.2, 0.3], np.float32),
    }
    plain = loss_fn(params, batch, key=None, step=None)
    same = in_precision(loss_fn, jnp.float32)(params, batch, key=None, step=None)
    half = in_precision(loss_fn)(params, batch, key=None, step=None)
    np.testing.assert_array_equal(same[0], plain[0])
    assert dtypes(half) == {"float32"}
    assert float(half[0]) != float(plain[0])
    np.testing.assert_allclose(half[0], plain[0], rtol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": jnp.float16}, r"`dtype` must be jnp.bfloat16 or jnp.float32, got float16; float16 would need loss"),
        ({"dtype": jnp.float64}, r"`dtype` must be jnp.bfloat16 or jnp.float32, got float64"),
        ({"dtype": "half"}, r"`dtype` must be jnp.bfloat16 or jnp.float32, got"),
        ({"dtype": "brain"}, r"`dtype` must be jnp.bfloat16 or jnp.float32, got 'brain'"),
        ({"keep": "targets"}, r"`keep` must be a sequence of names, got the string 'targets'"),
        ({"keep": ("nu_lag",)}, r"`keep` must name fields of the parameters or the batch, got \['nu_lag'\]"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    def run():
        loss_fn = in_precision(make_loss_fn(gru(4)), **options)
        return loss_fn(gru(4).init(jax.random.key(0), 3), BATCH, key=jax.random.key(0), step=0)

    with pytest.raises(ValueError, match=message):
        run()


def test_float16_without_loss_scaling_would_lose_small_gradients():
    weights = jnp.full(4, 1e-8)
    for dtype, lost in ((jnp.float16, True), (jnp.bfloat16, False)):
        grads = jax.grad(lambda w, dtype=dtype: (w.astype(dtype) * weights.astype(dtype)).sum().astype(jnp.float32))(
            jnp.ones(4)
        )
        assert bool((grads == 0).all()) == lost
