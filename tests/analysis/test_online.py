"""Online gradients against backpropagation through time and dense float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import elman, gru, ind_rnn, lstm, stack, stream_step
from rnn_jax.analysis import as_vector, e_prop, rtrl, snap1, split_gated, truncated, uoro

pytestmark = pytest.mark.usefixtures("x64")
T = 4


def network(cell):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(jax.random.key(0), 2))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    carry = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) + 0.2, cell.init_carry(params, ()))
    rng = np.random.default_rng(1)
    xs = jnp.asarray(rng.normal(size=(T, 2)))
    targets = jnp.asarray(rng.normal(size=(T, len(as_vector(carry)[0]))))

    def step(params, h, x):
        return stream_step(cell, params, h, x)[0]

    def loss(params, h, target):
        first = jax.tree.leaves(params)[0].reshape(-1)[0]
        return jnp.square(as_vector(h)[0] - target).sum() * (1 + first)

    return step, loss, params, carry, xs, targets


def run(online, params, carry, xs, targets, key=None):
    """The gradients of all steps, with parameters that stay."""
    memory = online.init(params, carry, xs[0])
    keys = jax.random.split(jax.random.key(0) if key is None else key, len(xs))

    def one(state, inputs):
        carry, memory = state
        x, target, key = inputs
        after = online.update(params, carry, memory, x, target, key)
        return (after.carry, after.memory), (after.grads, after.loss)

    return jax.lax.scan(one, (carry, memory), (xs, targets, keys))[1]


def losses(step, loss, params, carry, xs, targets, first: int = 0):
    """The loss of each step, what is before step `first` taken as given."""
    out = []
    for t, (x, target) in enumerate(zip(xs, targets, strict=True)):
        if t == first:
            carry = jax.lax.stop_gradient(carry)
        carry = step(params if t >= first else jax.lax.stop_gradient(params), carry, x)
        out.append(loss(params, carry, target))
    return out


CELLS = {"elman": elman(3), "gru": gru(3), "lstm": lstm(2), "stack": stack(gru(2), elman(2))}


@pytest.mark.parametrize("name", CELLS)
def test_rtrl_is_backpropagation_through_time(name: str) -> None:
    step, loss, *data = network(CELLS[name])
    params, carry, xs, targets = data
    grads, values = jax.jit(lambda *data: run(rtrl(step, loss), *data))(*data)
    expected = jax.jit(jax.grad(lambda params: sum(losses(step, loss, params, carry, xs, targets))))(params)
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one.sum(0), other, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(values, jax.jit(lambda: losses(step, loss, params, carry, xs, targets))(), rtol=1e-12)


@pytest.mark.parametrize("horizon", [1, 2, 6])
def test_truncation_reaches_as_far_as_it_says(horizon: int) -> None:
    step, loss, *data = network(gru(3))
    params, carry, xs, targets = data
    grads, values = jax.jit(lambda *data: run(truncated(step, loss, horizon), *data))(*data)

    def last(params, t):
        first = max(0, t - horizon + 1)
        return losses(step, loss, params, carry, xs[: t + 1], targets[: t + 1], first)[-1]

    expected_of = jax.jit(lambda params: [jax.grad(last)(params, t) for t in range(T)])
    for t, expected in enumerate(expected_of(params)):
        for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one[t], other, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(values, jax.jit(lambda: losses(step, loss, params, carry, xs, targets))(), rtol=1e-12)


@pytest.mark.parametrize("name", ["elman", "gru", "lstm"])
@pytest.mark.parametrize("kind", ["snap1", "e_prop"])
def test_sparse_influence_is_that_of_a_dense_loop(name: str, kind: str) -> None:
    cell = CELLS[name]
    step, loss, *data = network(cell)
    params, carry, xs, targets = data
    split = split_gated(cell)
    online = snap1(step, loss) if kind == "snap1" else e_prop(split, loss)
    memory = online.init(params, carry, xs[0])
    grads, _ = jax.jit(lambda *data: run(online._replace(init=lambda *_: memory), *data))(*data)
    p, back_p = as_vector(params)
    v, back_v = as_vector(carry)

    def whole(p, v, x):
        return as_vector(step(back_p(p), back_v(v), x))[0]

    def local(p, v, fixed, x):
        return as_vector(split(back_p(p), back_v(v), back_v(fixed), x))[0]

    direct_of, whole_of = jax.jit(jax.jacfwd(whole)), jax.jit(jax.jacfwd(whole, argnums=1))
    local_of = jax.jit(jax.jacfwd(local, argnums=1))
    pattern = np.asarray(direct_of(p, v, xs[0])) != 0
    influence = np.zeros(pattern.shape)
    for t in range(T):
        through = whole_of(p, v, xs[t]) if kind == "snap1" else local_of(p, v, v, xs[t])
        influence = pattern * (np.asarray(through) @ influence + np.asarray(direct_of(p, v, xs[t])))
        v = whole(p, v, xs[t])
        by_p, by_v = jax.grad(lambda p, v, t=t: loss(back_p(p), back_v(v), targets[t]), argnums=(0, 1))(p, v)
        expected = back_p(by_p + by_v @ influence)
        for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one[t], other, rtol=1e-9, atol=1e-12)


def test_snap1_is_exact_where_units_do_not_see_each_other() -> None:
    step, loss, *data = network(ind_rnn(4))
    memory = snap1(step, loss).init(data[0], data[1], data[2][0])
    exact, _ = jax.jit(lambda *data: run(rtrl(step, loss), *data))(*data)
    sparse, _ = jax.jit(lambda *data: run(snap1(step, loss)._replace(init=lambda *_: memory), *data))(*data)
    for one, other in zip(jax.tree.leaves(sparse), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    assert memory.values.shape[1] == 1


def test_uoro_is_right_on_the_average() -> None:
    step, loss, *data = network(elman(2))
    exact, _ = jax.jit(lambda *data: run(rtrl(step, loss), *data))(*data)
    keys = jax.random.split(jax.random.key(3), 4000)
    noisy = jax.jit(jax.vmap(lambda key: jax.tree.map(lambda leaf: leaf.sum(0), run(uoro(step, loss), *data, key)[0])))(
        keys
    )
    for one, other in zip(jax.tree.leaves(noisy), jax.tree.leaves(exact), strict=True):
        error = np.abs(one.mean(0) - other.sum(0))
        assert (error < 4.5 * one.std(0) / np.sqrt(4000)).all()
        assert (one.std(0) > 0).all()


def test_parameters_may_change_between_steps() -> None:
    """After an update the influence of old parameters stays as it was: what every online learner does."""
    step, loss, params, carry, xs, targets = network(elman(2))
    online = rtrl(step, loss)
    memory = online.init(params, carry, xs[0])
    first = online.update(params, carry, memory, xs[0], targets[0], None)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, first.grads)
    second = online.update(moved, first.carry, first.memory, xs[1], targets[1], None)
    both = jax.grad(lambda a, b: loss(b, step(b, step(a, carry, xs[0]), xs[1]), targets[1]), argnums=(0, 1))(
        params, moved
    )
    expected = jax.tree.map(jnp.add, *both)
    for one, other in zip(jax.tree.leaves(second.grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`cell` must have a `GatedStep`"):
        split_gated(stack(gru(2)))
    with pytest.raises(ValueError, match="`num_steps`"):
        truncated(lambda *_: None, lambda *_: None, 0)
