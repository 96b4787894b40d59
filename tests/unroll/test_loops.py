"""`unroll` is a loop over `stream_step`: eagerly, compiled, in pieces, over any batch, and vmapped."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES, MAIN, STEPS, Case, assert_close, make_carry, make_params, make_xs, over, run, weigh
from jax.test_util import check_grads

from rnn_jax.unroll import stream_step, unroll, unroll_carries

carries_of = jax.jit(unroll_carries, static_argnames=("cell", "reverse", "method"))


@over(MAIN)
def test_unroll_equals_a_python_loop_eagerly_and_compiled(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    carry = case.cell.init_carry(params, xs.shape[1:-1])
    ys = []
    for x in xs:
        carry, y = stream_step(case.cell, params, carry, x)
        ys.append(y)
    assert_close(unroll(case.cell, params, xs), (carry, jnp.stack(ys)), rtol=1e-10)
    assert_close(run(case.cell, params, xs), (carry, jnp.stack(ys)), rtol=1e-10)


@over(CASES)
def test_pieces_that_hand_on_their_carry_equal_one_run_and_every_carry_on_the_way(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    carry = make_carry(case, params)
    half = STEPS // 2
    after, ys, carries = carries_of(case.cell, params, xs, carry)
    first, first_ys, first_carries = carries_of(case.cell, params, xs[:half], carry)
    second, second_ys, second_carries = carries_of(case.cell, params, xs[half:], first)
    assert_close(ys, jnp.concatenate([first_ys, second_ys]), rtol=1e-10)
    assert_close(after, second, rtol=1e-10)
    for whole, one, two, end in zip(
        *map(jax.tree.leaves, (carries, first_carries, second_carries, first)), strict=True
    ):
        np.testing.assert_allclose(whole, np.concatenate([one, two]), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(whole[half - 1], end, rtol=1e-10, atol=1e-12)


@over([case for case in MAIN if case.name in ("lstm", "lru", "m_lstm")])
def test_every_carry_equals_the_final_one_of_a_run_cut_after_it(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    lengths = jnp.array([6, 4, 1, 0])
    for reverse in (False, True):
        _, _, carries = carries_of(case.cell, params, xs, lengths=lengths, reverse=reverse)
        for t in range(STEPS):
            kept = np.arange(STEPS) >= t if reverse else np.arange(STEPS) <= t
            after, _ = run(case.cell, params, xs, lengths=lengths, mask=kept, reverse=reverse)
            assert_close(jax.tree.map(lambda leaf, t=t: leaf[t], carries), after, rtol=1e-10)


@over(MAIN)
def test_no_steps_return_the_carry_and_no_outputs(case: Case) -> None:
    params, xs = make_params(case, jnp.float32), make_xs(case, jnp.float32)
    carry = make_carry(case, params, jnp.float32)
    after, ys = run(case.cell, params, xs[:0], carry, lengths=jnp.zeros(4, jnp.int32))
    assert_close(after, carry, rtol=0)
    assert ys.shape == (0, *jax.eval_shape(lambda: unroll(case.cell, params, xs))[1].shape[1:])


@over(MAIN)
def test_no_batch_axis_two_of_them_and_vmap_over_rows_and_seeds_equal_one(case: Case, x64: None) -> None:
    xs, seeds = make_xs(case), [make_params(case, seed=seed) for seed in (0, 1)]
    expected = [run(case.cell, params, xs) for params in seeds]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)

    rows = jax.vmap(lambda params, xs: unroll(case.cell, params, xs), in_axes=(None, 1), out_axes=(0, 1))
    got = jax.jit(jax.vmap(rows, in_axes=(0, None)))(stacked, xs)
    assert_close(got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected), rtol=1e-10)

    carry, ys = run(case.cell, seeds[0], xs.reshape(STEPS, 2, 2, *xs.shape[2:]))
    merged = jax.tree.map(lambda leaf: leaf.reshape(4, *leaf.shape[2:]), carry)
    assert_close((merged, ys.reshape(STEPS, 4, *ys.shape[3:])), expected[0], rtol=1e-10)


@over(MAIN)
def test_outputs_depend_on_the_past_and_on_their_own_row_and_exactly_on_nothing_else(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case, steps=4, batch=2)
    jacobian = jax.jit(jax.jacfwd(lambda xs: unroll(case.cell, params, xs)[1]))(xs)
    rank = xs.ndim - 2
    strength = np.moveaxis(np.abs(jacobian), (rank + 2, rank + 3), (2, 3)).reshape(4, 2, 4, 2, -1).max(-1)
    for t in range(4):
        for s in range(4):
            for b in range(2):
                assert strength[t, b, s, 1 - b] == 0
                assert s <= t or strength[t, b, s, b] == 0
        assert strength[t, :, t].max() > 0
    assert strength[3, :, 0].max() > 0


@over(MAIN)
def test_forward_derivatives_equal_finite_differences(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case, steps=3, batch=1)
    carry = make_carry(case, params, batch=1)

    @jax.jit
    def loss(params: Any, xs: Any, carry: Any) -> Any:
        return weigh(unroll(case.cell, params, xs, carry))

    check_grads(loss, (params, xs, carry), order=1, modes=["fwd"], rtol=1e-5, atol=1e-6, eps=1e-6)


def test_float64_inputs_widen_float32_parameters_and_carries() -> None:
    with jax.enable_x64(True):
        for case in MAIN:
            params, xs = make_params(case, jnp.float32), make_xs(case)
            carry, ys = jax.eval_shape(lambda p, xs, cell=case.cell: unroll(cell, p, xs), params, xs)
            assert ys.dtype == jnp.float64, case
            assert all(leaf.dtype in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves(carry)), case


def test_numpy_inputs_of_any_width_are_taken_as_they_come() -> None:
    case = MAIN[0]
    params, xs = make_params(case, jnp.float32), np.random.default_rng(0).standard_normal((5, 2, 3))
    carry, ys = unroll(case.cell, params, xs, lengths=[5, 2])
    assert ys.dtype == jnp.float32
    assert_close((carry, ys), unroll(case.cell, params, jnp.asarray(xs), lengths=np.array([5, 2])), rtol=0)
    start = case.cell.init_carry(params, (2,))
    assert_close(
        stream_step(case.cell, params, start, xs[0]), stream_step(case.cell, params, start, jnp.asarray(xs[0])), rtol=0
    )
