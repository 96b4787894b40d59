"""Forcing of the state equals a NumPy loop that mixes the data into h before each step, and damps gradients exactly."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import weigh
from comparing import jit, random_params
from decoders import same

from rnn_jax import Chunked, Scan, elman, gru, lstm, min_gru, stream_step, tree, unroll, with_dropout
from rnn_jax.forcing import forced_carry_inputs, mix_carry, sparse_forcing_mask, with_forced_carry

STEPS, BATCH, HIDDEN, OBSERVED, EXTRA = 6, 3, 4, 2, 2
LENGTHS = np.array([STEPS, 3, 0])
RNG = np.random.default_rng(21)
TARGETS = RNG.normal(size=(STEPS, BATCH, OBSERVED))
START = RNG.normal(size=(BATCH, OBSERVED))
INPUTS = RNG.normal(size=(STEPS, BATCH, EXTRA))
CARRY = RNG.normal(size=(BATCH, HIDDEN))
SPARSE = np.asarray(sparse_forcing_mask(2, STEPS)).astype(float)
MASKS = {
    "none": np.zeros((STEPS, BATCH)),
    "full": np.ones((STEPS, BATCH)),
    "constant": np.full((STEPS, BATCH), 0.3),
    "sparse": np.tile(SPARSE, (1, BATCH)),
    "weights": np.random.default_rng(3).uniform(size=(STEPS, BATCH)),
}
CELL = elman(HIDDEN)
FORCED = with_forced_carry(CELL, OBSERVED)


def inputs_of(mask: Any, targets: Any = TARGETS, inputs: Any = INPUTS) -> Any:
    return forced_carry_inputs(targets, mask, start=START, inputs=inputs)


def run(cell: Any, params: Any, targets: Any, start: Any, inputs: Any, carry: Any, mask: Any, method: Any) -> Any:
    xs = forced_carry_inputs(targets, mask, start=start, inputs=inputs)
    return unroll(cell, params, xs, carry, lengths=LENGTHS, method=method)


def with_gradients(function: Any, params: Any, targets: Any, carry: Any, mask: Any) -> Any:
    def loss(params: Any, targets: Any, carry: Any) -> Any:
        out = function(params, targets, carry, mask)
        return weigh(out), out

    grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(params, targets, carry)
    return out, grads


ours = jit(
    lambda method, *arguments: with_gradients(
        lambda p, targets, carry, mask: run(FORCED, p, targets, START, INPUTS, carry, mask, method), *arguments
    ),
    static_argnums=0,
)


def by_loop(xp: Any, params: Any, targets: Any, carry: Any, mask: Any) -> Any:
    """Elman steps, each after its state was mixed with the data of the step before."""
    h, ys = carry, []
    for t in range(STEPS):
        data, alpha = (targets[t - 1], mask[t][:, None]) if t else (START, xp.ones((BATCH, 1)))
        pulled = xp.concatenate([(1 - alpha) * h[:, :OBSERVED] + alpha * data, h[:, OBSERVED:]], -1)
        after = xp.tanh(INPUTS[t] @ params.w_x + pulled @ params.w_h + params.b[None])
        real = (t < LENGTHS)[:, None]
        h = xp.where(real, after, h)
        ys.append(xp.where(real, after, 0))
    return h, xp.stack(ys)


loop = jit(lambda *arguments: with_gradients(lambda p, *rest: by_loop(jnp, p, *rest), *arguments))


@pytest.mark.parametrize("name", MASKS)
def test_values_and_gradients_are_those_of_a_loop(name: str, x64: None) -> None:
    params, mask = random_params(CELL, EXTRA), MASKS[name]
    out, grads = ours(Scan(), params, TARGETS, CARRY, mask)
    same(out, by_loop(np, jax.tree.map(np.asarray, params), TARGETS, CARRY, mask))
    same((out, grads), loop(params, TARGETS, CARRY, mask), 1e-11)
    same(ours(Chunked(4), params, TARGETS, CARRY, mask), (out, grads), 1e-11)


def test_missing_data_harms_neither_values_nor_gradients(x64: None) -> None:
    params, mask = random_params(CELL, EXTRA), MASKS["sparse"]
    unread = np.ones((STEPS, BATCH), bool)
    unread[:-1] = (mask[1:] == 0) | (np.arange(1, STEPS)[:, None] >= LENGTHS)
    missing = np.where(unread[..., None], np.nan, TARGETS)
    clean = ours(Scan(), params, TARGETS, CARRY, mask)
    same(ours(Scan(), params, missing, CARRY, mask), clean, 0)
    np.testing.assert_array_equal((clean[1][1] == 0).all(-1), unread)


def test_at_weight_zero_it_is_the_bare_cell(x64: None) -> None:
    params = random_params(CELL, EXTRA)
    bare = jit(unroll, static_argnums=0)(CELL, params, INPUTS, CARRY)
    xs = forced_carry_inputs(np.full_like(TARGETS, np.nan), 0.0, start=CARRY[:, :OBSERVED], inputs=INPUTS)
    same(jit(unroll, static_argnums=0)(FORCED, params, xs, CARRY), bare, 0)


def test_an_autonomous_cell_runs_by_itself(x64: None) -> None:
    params = FORCED.init(jax.random.key(0), OBSERVED + 1)
    assert params.w_x.shape == (0, HIDDEN)
    params = params._replace(b=jnp.asarray(CARRY[0]))
    ys = unroll(FORCED, params, inputs_of(0.0, inputs=None), jnp.asarray(CARRY))[1]
    p, h = jax.tree.map(np.asarray, params), np.concatenate([START, CARRY[:, OBSERVED:]], -1)
    for y in ys:
        h = np.tanh(h @ p.w_h + p.b)
        np.testing.assert_allclose(y, h, rtol=1e-12)


def test_gradients_through_a_linear_state_shrink_by_one_minus_alpha_at_each_step(x64: None) -> None:
    cell = elman(HIDDEN, activation=lambda h: h)
    params = random_params(cell, 0)
    a, alpha = np.asarray(params.w_h).T, 0.3  # h' = a h for columns

    def last(carry: Any, size: int, steps: int) -> Any:
        xs = jnp.concatenate([jnp.ones((steps, size)), jnp.full((steps, 1), alpha)], axis=-1)
        return unroll(with_forced_carry(cell, size), params, xs, carry)[0]

    jacobian = jit(jax.jacobian(last), static_argnums=(1, 2))
    full, part = jacobian(CARRY[0], HIDDEN, 4), jacobian(CARRY[0], OBSERVED, 4)
    np.testing.assert_allclose(full, (1 - alpha) ** 4 * np.linalg.matrix_power(a, 4), rtol=1e-11)
    some = np.diag([1 - alpha] * OBSERVED + [1] * (HIDDEN - OBSERVED))
    np.testing.assert_allclose(part, np.linalg.matrix_power(a @ some, 4), rtol=1e-11)


def test_the_first_step_reads_the_start_alone(x64: None) -> None:
    by_carry = ours(Scan(), random_params(CELL, EXTRA), TARGETS, CARRY, MASKS["none"])[1][2]
    some = LENGTHS > 0
    assert (by_carry[some, :OBSERVED] == 0).all()
    assert (by_carry[some, OBSERVED:] != 0).all()
    assert (by_carry[~some] != 0).all()  # no step: the carry comes back


def pull_h(carry: Any, target: Any, weight: Any) -> Any:
    return carry._replace(h=mix_carry(carry.h, target, weight))


@pytest.mark.parametrize(
    ("bare", "mix"),
    [
        (lstm(HIDDEN), pull_h),
        (min_gru(HIDDEN), mix_carry),
        (with_dropout(gru(HIDDEN), inputs=0.5, zoneout_h=0.5), mix_carry),
    ],
    ids=["lstm", "linear", "noisy"],
)
def test_other_cells_equal_mixing_between_steps(bare: Any, mix: Any, x64: None) -> None:
    cell = with_forced_carry(bare, OBSERVED, mix)
    xs = inputs_of(MASKS["weights"])
    params = random_params(bare, EXTRA)
    params = cell.perturb(jax.random.key(1), params, xs.shape)
    carry, ys = jit(unroll, static_argnums=0)(cell, params, xs)
    own = bare.init_carry(params, (BATCH,))
    one = jit(
        lambda params, own, x, target, weight, t: stream_step(
            bare, tree.at_step(params, t), mix(own, target, weight), x
        )
    )
    weights = np.concatenate([np.ones((1, BATCH)), MASKS["weights"][1:]])[..., None]
    for t in range(STEPS):
        own, y = one(params, own, INPUTS[t], TARGETS[t - 1] if t else START, weights[t], t)
        np.testing.assert_allclose(ys[t], y, rtol=1e-12, atol=1e-13)
    same(carry, own)


def test_a_state_that_blew_up_is_gone_where_the_weight_is_one(x64: None) -> None:
    for nonsense in (np.nan, np.inf):
        h = jnp.asarray(CARRY).at[1, 0].set(nonsense)

        def mixed(h: Any, target: Any, weight: Any) -> Any:
            return mix_carry(h, target, weight)[..., :OBSERVED]

        value, back = jax.vjp(mixed, h, jnp.asarray(START), jnp.ones((BATCH, 1)))
        np.testing.assert_array_equal(value, START)
        by_h, by_target, _ = back(jnp.ones_like(value))
        assert (by_h == 0).all()
        assert (by_target == 1).all()


def test_the_layout_of_inputs() -> None:
    xs = np.asarray(inputs_of(0.25))
    np.testing.assert_allclose(xs[0, :, :OBSERVED], START, rtol=1e-6)
    np.testing.assert_allclose(xs[1:, :, :OBSERVED], TARGETS[:-1], rtol=1e-6)
    np.testing.assert_array_equal(xs[:, 1, OBSERVED], [1] + [0.25] * (STEPS - 1))
    np.testing.assert_allclose(xs[..., OBSERVED + 1 :], INPUTS, rtol=1e-6)
    np.testing.assert_array_equal(inputs_of(SPARSE), inputs_of(MASKS["sparse"]))
    np.testing.assert_array_equal(inputs_of(SPARSE[:, 0]), inputs_of(MASKS["sparse"]))
    alone = forced_carry_inputs(TARGETS[:, 0], True, start=START[0])
    assert alone.shape == (STEPS, OBSERVED + 1)
    assert inputs_of(0.5, TARGETS[:0], INPUTS[:0]).shape == (0, BATCH, OBSERVED + 1 + EXTRA)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: with_forced_carry(gru, 2), r"`cell` must be a Cell or a LinearCell, got the function gru; call it"),
        (lambda: with_forced_carry(CELL, 0), r"`target_size` must be an integer of at least 1, got int 0"),
        (lambda: FORCED.init(jax.random.key(0), 2), r"`input_size` must be at least 3 \(target and weight\), got 2"),
        (
            lambda: unroll(FORCED, random_params(CELL, EXTRA), jnp.zeros((4, 2))),
            r"`xs` must have at least 3 features \(target and weight\), got 2",
        ),
        (
            lambda: unroll(with_forced_carry(CELL, 5), random_params(CELL, 0), jnp.zeros((4, 6))),
            r"`carry` must be an array with at least 5 features for mix_carry, got float32 of shape",
        ),
        (
            lambda: unroll(with_forced_carry(lstm(4), 2), random_params(lstm(4), 0), jnp.zeros((4, 3))),
            r"`carry` must be an array with at least 2 features for mix_carry, got LSTMCarry",
        ),
        (lambda: inputs_of(1.5), r"`mask` must lie in \[0, 1\], got 1\.5"),
        (lambda: inputs_of(np.ones(2)), r"`mask` must broadcast to \(6, 3\) by its leading axes, got shape \(2,\)"),
        (lambda: inputs_of(0.5, inputs=INPUTS[1:]), r"`inputs` must be \[T, \*batch, K\] with \(6, 3\), got shape"),
        (
            lambda: forced_carry_inputs(TARGETS, 1.0, start=np.zeros(3)),
            r"`start` must have shape \(3, 2\) or its last axes, got \(3,\)",
        ),
        (
            lambda: forced_carry_inputs(TARGETS, 1.0, start=TARGETS),
            r"`start` must have shape \(3, 2\) or its last axes",
        ),
        (
            lambda: forced_carry_inputs(TARGETS.astype(int), 1.0, start=START),
            r"`targets` must be floating \(embed or cast it first\), got int64 of shape \(6, 3, 2\)",
        ),
    ],
)
def test_bad_input_is_refused(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
