"""Dropout: rates, scaling and sharing of the masks; every recurrence with masks against a loop by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import close, jit, random_params

from rnn_jax import (
    Associative,
    Cell,
    Chunked,
    LinearCell,
    Scan,
    conv_lstm,
    elman,
    gru,
    ind_rnn,
    lru,
    lstm,
    mgu,
    rg_lru,
    s_lstm,
    stack,
    stream_step,
    tree,
    unroll,
    with_dropout,
)
from rnn_jax.products import MaskedKernel

RNG = np.random.default_rng(31)
XS = jnp.asarray(RNG.normal(size=(6, 3, 4)), jnp.float32)
KEY = jax.random.key(8)


def run(cell: Any, params: Any, xs: Any = XS, **options: Any) -> Any:
    return jit(lambda p, xs: unroll(cell, p, xs, **options))(params, xs)


def perturbed(cell: Any, params: Any, key: Any = KEY, shape: tuple[int, ...] = XS.shape) -> Any:
    return jit(lambda k, p: cell.perturb(k, p, shape))(key, params)


# A cell whose output is its input: what dropout of inputs does is there to read.
PROBE = Cell(
    init=lambda key, input_size: jnp.zeros(0),
    init_carry=lambda params, batch_shape=(): jnp.zeros((*batch_shape, 1)),
    step=lambda params, carry, z: (carry, z),
)
WIDE = jnp.asarray(1.0 + RNG.random((40, 20, 25)), jnp.float32)


def assert_masked(ratio: Any, rate: float, samples: int) -> None:
    """Zeros at the given rate within four standard deviations, and 1 / (1 - rate) elsewhere."""
    dropped = np.asarray(ratio) == 0
    np.testing.assert_allclose(np.asarray(ratio)[~dropped], 1 / (1 - rate), rtol=1e-5)
    assert abs(dropped.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / samples)


def test_dropout_of_inputs_draws_a_new_mask_at_every_step():
    cell = with_dropout(PROBE, inputs=0.3)
    params = cell.init(KEY, 25)
    ratio = np.asarray(run(cell, perturbed(cell, params, shape=WIDE.shape), WIDE)[1] / WIDE)
    assert_masked(ratio, 0.3, ratio.size)
    dropped = ratio == 0
    for axis in range(3):  # time, batch and features: neighbours are independent
        one, other = np.split(np.moveaxis(dropped, axis, 0)[: dropped.shape[axis] // 2 * 2], 2)
        assert abs((one & other).mean() - 0.09) < 0.02


def test_variational_dropout_keeps_one_mask_per_sequence():
    cell = with_dropout(PROBE, variational=0.3)
    xs = jnp.asarray(1.0 + np.random.default_rng(47).random((4, 100, 60)), jnp.float32)
    params = cell.init(KEY, 60)
    ratio = np.asarray(run(cell, perturbed(cell, params, shape=xs.shape), xs)[1] / xs)
    assert_masked(ratio[0], 0.3, ratio[0].size)
    np.testing.assert_array_equal(ratio == 0, np.broadcast_to(ratio[:1] == 0, ratio.shape))
    assert abs(((ratio[0, :50] == 0) & (ratio[0, 50:] == 0)).mean() - 0.09) < 0.03


def test_both_masks_of_the_inputs_multiply():
    cell = with_dropout(PROBE, inputs=0.3, variational=0.4)
    noisy = perturbed(cell, cell.init(KEY, 25), shape=WIDE.shape)
    close(run(cell, noisy, WIDE)[1], WIDE * noisy.inputs.value * noisy.variational[None])


RECURRENT = {
    "elman": elman(5),
    "ind_rnn": ind_rnn(5),
    "lstm": lstm(5),
    "lstm_projected": lstm(5, projection=3),
    "gru": gru(5),
    "gru_reset_before": gru(5, reset="before"),
    "mgu": mgu(5),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_mask_equals_kernels_of_each_row_with_units_taken_out(name):
    bare = RECURRENT[name]
    cell = with_dropout(bare, recurrent=0.4)
    params = random_params(cell)
    noisy = perturbed(cell, params)
    mask = noisy.cell.w_h.mask
    assert mask.shape == (3, bare.init_carry(params.cell).h.shape[0] if "lstm" in name else 5)
    np.testing.assert_array_equal(noisy.cell.w_h.kernel, params.cell.w_h)

    @jit
    @functools.partial(jax.vmap, in_axes=(0, 1), out_axes=(0, 1))
    def by_hand(row_mask, xs):
        kernel = params.cell.w_h * row_mask.reshape(-1, *(1,) * (params.cell.w_h.ndim - 1))
        one = params.cell._replace(w_h=kernel)
        return jax.lax.scan(functools.partial(stream_step, bare, one), bare.init_carry(one), xs)

    close(run(cell, noisy), by_hand(mask, XS))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_recurrent_masks_of_elman_and_gru_equal_loops_in_numpy():
    cell = with_dropout(elman(5), recurrent=0.4)
    noisy = perturbed(cell, random_params(cell))
    p = jax.tree.map(np.asarray, noisy.cell)
    h, expected = np.zeros((3, 5)), []
    for x in np.asarray(XS):
        h = np.tanh(x @ p.w_x + (h * p.w_h.mask) @ p.w_h.kernel + p.b)
        expected.append(h)
    close(run(cell, noisy), (h, np.stack(expected)))
    for reset in ("after", "before"):
        cell = with_dropout(gru(5, reset=reset), recurrent=0.4)
        noisy = perturbed(cell, random_params(cell))
        p = jax.tree.map(np.asarray, noisy.cell)
        w_r, w_z, w_n = np.split(p.w_h.kernel, 3, axis=-1)
        h, expected = np.zeros((3, 5)), []
        for x in np.asarray(XS):
            x_r, x_z, x_n = np.split(x @ p.w_x + p.b, 3, axis=-1)
            r, z = sigmoid(x_r + (h * p.w_h.mask) @ w_r), sigmoid(x_z + (h * p.w_h.mask) @ w_z)
            inside = r * ((h * p.w_h.mask) @ w_n + p.b_hn) if reset == "after" else (r * h * p.w_h.mask) @ w_n
            h = (1 - z) * np.tanh(x_n + inside) + z * h
            expected.append(h)
        close(run(cell, noisy), (h, np.stack(expected)))


@pytest.mark.parametrize("bare", [s_lstm(4, num_heads=2), conv_lstm(2, kernel_size=(3,))], ids=["s_lstm", "conv_lstm"])
def test_a_recurrent_mask_acts_on_h_and_leaves_the_memory_alone(bare):
    space = (3,) if bare is conv_lstm(2, kernel_size=(3,)) else ()
    xs = jnp.asarray(np.random.default_rng(47).normal(size=(6, 3, *space, 4)), jnp.float32)
    cell = with_dropout(bare, recurrent=0.4)
    params = random_params(cell)
    noisy = perturbed(cell, params, shape=xs.shape)
    mask = noisy.cell.w_h.mask

    def step(carry, x):
        carry = carry._replace(h=carry.h * mask)
        return bare.step(params.cell, carry, bare.project(params.cell, x))

    start = bare.init_carry(params.cell, xs.shape[1:-1])
    close(run(cell, noisy, xs), jit(lambda c, xs: jax.lax.scan(step, c, xs))(start, xs))


def test_the_recurrent_mask_has_the_right_rate_and_differs_between_rows():
    cell = with_dropout(ind_rnn(80), recurrent=0.3)
    noisy = perturbed(cell, random_params(cell), shape=(2, 100, 4))
    mask = noisy.cell.w_h.mask
    assert mask.shape == (100, 80)
    assert_masked(mask, 0.3, mask.size)
    assert not np.array_equal(mask[0], mask[1])


def test_dropped_weights_are_one_kernel_for_all_steps_and_rows_and_their_gradients_are_zero():
    bare = lstm(30)
    cell = with_dropout(bare, weights=0.4)
    params = random_params(cell)
    noisy = perturbed(cell, params)
    mask = noisy.cell.w_h / params.cell.w_h
    assert mask.shape == (30, 120)
    assert_masked(mask, 0.4, mask.size)
    close(noisy.cell.w_x, params.cell.w_x)
    close(run(cell, noisy), run(bare, noisy.cell))

    def loss(params):
        return (unroll(cell, cell.perturb(KEY, params, XS.shape), XS)[1] ** 2).sum()

    def by_hand(params):
        return (unroll(bare, params._replace(w_h=params.w_h * mask), XS)[1] ** 2).sum()

    gradient, expected = jit(jax.grad(loss))(params).cell, jit(jax.grad(by_hand))(params.cell)
    close(gradient, expected)
    np.testing.assert_array_equal(np.asarray(gradient.w_h) == 0, np.asarray(mask) == 0)


def test_dropped_weights_differ_between_calls_and_layers():
    one = with_dropout(ind_rnn(50), weights=0.5)
    cell = stack(one, one)
    params = random_params(cell, 4)
    first, second = perturbed(cell, params), perturbed(cell, params, jax.random.key(9))
    masks = [p.cell.w_h == 0 for p in (first[0], first[1], second[0])]
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_recurrent_masks_and_dropped_weights_go_together():
    cell = with_dropout(gru(5), recurrent=0.4, weights=0.3)
    params = random_params(cell)
    noisy = perturbed(cell, params)
    assert isinstance(noisy.cell.w_h, MaskedKernel)
    dropped = np.asarray(noisy.cell.w_h.kernel) == 0
    np.testing.assert_allclose(noisy.cell.w_h.kernel, np.where(dropped, 0, params.cell.w_h / 0.7), rtol=1e-5)
    assert 0 < dropped.mean() < 1


ZONED = {
    "elman": with_dropout(elman(5), zoneout_h=0.3),
    "gru": with_dropout(gru(5), zoneout_h=0.3),
    "lstm_h": with_dropout(lstm(5), zoneout_h=0.3),
    "lstm_c": with_dropout(lstm(5), zoneout_c=0.4),
    "lstm": with_dropout(lstm(5), zoneout_h=0.3, zoneout_c=0.4),
}
BARE = {"elman": elman(5), "gru": gru(5), "lstm": lstm(5), "lstm_h": lstm(5), "lstm_c": lstm(5)}


def zoneout_by_hand(bare: Cell, params: Any, masks: Any, rates: tuple[float, float]) -> Any:
    """One step of the bare cell, then each unit stays at its old value, by its mask or in expectation."""

    def mix(old, new, mask, rate):
        return rate * old + (1 - rate) * new if mask is None else jnp.where(mask, old, new)

    def step(carry, inputs):
        x, (mask_h, mask_c) = inputs
        new, _ = stream_step(bare, params, carry, x)
        if not hasattr(new, "_fields"):
            new = mix(carry, new, mask_h, rates[0])
            return new, new
        h, c = mix(carry.h, new.h, mask_h, rates[0]), mix(carry.c, new.c, mask_c, rates[1])
        return new._replace(h=h, c=c), h

    start = bare.init_carry(params, (3,))
    return jit(lambda c: jax.lax.scan(step, c, (XS, masks)))(start)


@pytest.mark.parametrize("name", ZONED)
def test_zoneout_equals_a_loop_by_hand_with_its_masks_and_evaluates_its_expectation(name):
    cell, bare = ZONED[name], BARE[name]
    rates = (0.0 if name == "lstm_c" else 0.3, 0.4 if name in ("lstm", "lstm_c") else 0.0)
    params = random_params(cell)
    close(run(cell, params), zoneout_by_hand(bare, params.cell, (None, None), rates))
    noisy = perturbed(cell, params)
    masks = tuple(None if mask is None else mask.value for mask in (noisy.zoneout_h, noisy.zoneout_c))
    assert [mask is not None for mask in masks] == [rate > 0 for rate in rates]
    close(run(cell, noisy), zoneout_by_hand(bare, noisy.cell, masks, rates))


@pytest.mark.parametrize("bare", [lru(5), rg_lru(5)], ids=["lru", "rg_lru"])
def test_zoneout_of_a_linear_cell_equals_a_loop_by_hand_and_runs_associatively(bare):
    cell = with_dropout(bare, zoneout_h=0.3, inputs=0.2)
    assert isinstance(cell, LinearCell)
    params = random_params(cell)
    noisy = perturbed(cell, params)
    for one in (params, noisy):
        xs = XS if one.inputs is None else XS * one.inputs.value
        a, b = bare.elements(one.cell, xs)
        h, hs = bare.init_carry(one.cell, (3,)), []
        for t in range(6):
            new = a[t] * h + b[t]
            h = 0.3 * h + 0.7 * new if one.zoneout_h is None else jnp.where(one.zoneout_h.value[t], h, new)
            hs.append(h)
        expected = h, bare.readout(one.cell, jnp.stack(hs), xs)
        for method in (Scan(), Associative(), Chunked(4)):
            close(run(cell, one, method=method), expected)


def test_zoneout_masks_have_their_rates():
    cell = with_dropout(lstm(50), zoneout_h=0.1, zoneout_c=0.5)
    noisy = perturbed(cell, random_params(cell), shape=(30, 10, 4))
    for mask, rate in ((noisy.zoneout_h.value, 0.1), (noisy.zoneout_c.value, 0.5)):
        assert mask.shape == (30, 10, 50)
        assert abs(np.mean(mask) - rate) < 4 * np.sqrt(rate * (1 - rate) / mask.size)


def test_parameters_without_masks_evaluate_as_the_bare_cell():
    bare = lstm(5)
    cell = with_dropout(bare, inputs=0.2, variational=0.3, recurrent=0.4, weights=0.1)
    params = random_params(cell)
    jax.tree.map(np.testing.assert_array_equal, run(cell, params), run(bare, params.cell))
    idle = with_dropout(bare)
    jax.tree.map(np.testing.assert_array_equal, run(idle, perturbed(idle, params)), run(bare, params.cell))


EVERYTHING = stack(
    with_dropout(lstm(5), inputs=0.2, variational=0.3, recurrent=0.4, weights=0.1, zoneout_h=0.2, zoneout_c=0.3),
    with_dropout(rg_lru(4), inputs=0.3, zoneout_h=0.3),
    with_dropout(gru(3), inputs=0.4, recurrent=0.2, zoneout_h=0.4),
)


def test_a_traced_key_compiles_once_and_the_same_key_draws_the_same_masks():
    params = random_params(EVERYTHING)
    traces = []

    @jit
    def training(key, params):
        traces.append(key)
        return unroll(EVERYTHING, EVERYTHING.perturb(key, params, XS.shape), XS)[1]

    first, again, other = (training(jax.random.key(seed), params) for seed in (1, 1, 2))
    assert len(traces) == 1
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    close(first, run(EVERYTHING, perturbed(EVERYTHING, params, jax.random.key(1)))[1])


def test_streaming_with_the_masks_of_each_step_and_chunks_give_the_numbers_of_one_unroll():
    params = random_params(EVERYTHING)
    noisy = perturbed(EVERYTHING, params)
    expected = run(EVERYTHING, noisy)
    step = jit(lambda p, t, c, x: stream_step(EVERYTHING, tree.at_step(p, t), c, x))
    carry, ys = EVERYTHING.init_carry(noisy, (3,)), []
    for t in range(6):
        carry, y = step(noisy, t, carry, XS[t])
        ys.append(y)
    close((carry, jnp.stack(ys)), expected)
    for method in (Chunked(4), Chunked(3, remat=False)):
        close(run(EVERYTHING, noisy, method=method), expected)
    as_one = EVERYTHING._replace(layers=())
    close(run(as_one, noisy), expected)


def test_walking_backwards_every_step_keeps_its_own_mask():
    cell = with_dropout(gru(5), inputs=0.5, zoneout_h=0.3)
    noisy = perturbed(cell, random_params(cell))
    flipped = noisy._replace(
        inputs=noisy.inputs._replace(value=noisy.inputs.value[::-1]),
        zoneout_h=noisy.zoneout_h._replace(value=noisy.zoneout_h.value[::-1]),
    )
    carry, ys = run(cell, noisy, reverse=True)
    close((carry, ys[::-1]), run(cell, flipped, XS[::-1]))


def test_padding_and_resets_leave_the_masks_of_real_steps_alone():
    cell = with_dropout(lstm(5), inputs=0.3, zoneout_h=0.3, zoneout_c=0.4)
    noisy = perturbed(cell, random_params(cell))
    first = run(cell, tree.with_per_step(noisy, [mask[:4] for mask in tree.per_step(noisy)]), XS[:4])
    dirty = XS.at[4:].set(jnp.nan)
    carry, ys = run(cell, noisy, dirty, lengths=jnp.array([4, 4, 4]))
    close((carry, ys[:4]), first)
    assert not np.any(ys[4:])
    resets = jnp.zeros(6, bool).at[4].set(True)
    second = run(cell, tree.with_per_step(noisy, [mask[4:] for mask in tree.per_step(noisy)]), XS[4:])
    carry, ys = run(cell, noisy, resets=resets)
    close((carry, ys), (second[0], jnp.concatenate([first[1], second[1]])))


def test_gradients_reach_the_raw_parameters_through_every_mask():
    params = random_params(EVERYTHING)

    def loss(params):
        return (unroll(EVERYTHING, EVERYTHING.perturb(KEY, params, XS.shape), XS)[1] ** 2).sum()

    gradient = jit(jax.grad(loss))(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert np.any(np.asarray(leaf) != 0)
