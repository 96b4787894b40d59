"""The ways in which Newton's method may approximate: they end where the scan does, by Jacobians and solvers that equal
slow ones.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, HIDDEN, INPUT, MAIN, STEPS, Case, make_carry, make_params, make_xs, over
from test_lengths_masks_resets import SCENES
from test_newton import BY_NAME, SOLVED, compare

from rnn_jax import Cell, elman, gru, lstm, tree
from rnn_jax.gated_step import GatedStep
from rnn_jax.unroll import Newton, Scan, unroll
from rnn_jax.unroll.block_recurrence import (
    all_at_once,
    damped_all_at_once,
    damped_step_by_step,
    solve_blocks_transposed,
    solve_damped,
    step_by_step,
)
from rnn_jax.unroll.jacobians import Given, Steps, block_jacobians, packing, parts_of
from rnn_jax.unroll.newton import solve_in_time

DIAGONAL = Newton(jacobian="diagonal")
RNG = np.random.default_rng(7)


@over([case for case in SOLVED if case in MAIN])
def test_the_diagonal_alone_ends_at_the_scan_for_every_cell_walking_backwards(case: Case, x64: None) -> None:
    scenes = ("nothing", "all") if case.space else tuple(SCENES)
    assert 1 <= compare(case, Newton(jacobian="diagonal"), reverse=True, scenes=scenes) <= STEPS


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("gru", Newton(damping=0.1)),
        ("lstm", Newton(jacobian="diagonal", damping=0.1)),
        ("conv_lstm_signal", Newton(jacobian="block", num_blocks=5, damping=0.1)),
        ("lstm", Newton(jacobian="block", num_blocks=4)),
        ("s_lstm_heads", Newton(jacobian="block", num_blocks=2)),
    ],
)
def test_damping_and_blocks_end_at_the_scan(name: str, method: Newton, x64: None) -> None:
    most = compare(BY_NAME[name], method, reverse=False, scenes=("nothing", "all"))
    assert 1 <= most <= (method.max_iters if method.damping else STEPS)


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e7])
def test_gradients_by_the_diagonal_are_right_however_large_the_loss_is(scale: float) -> None:
    cell = gru(16)
    params, xs = cell.init(jax.random.key(0), 8), jax.random.normal(jax.random.key(1), (200, 4, 8))

    def loss(params: Any, method: Any) -> Any:
        return scale * jnp.square(unroll(cell, params, xs, method=method)[1]).mean()

    got, expected = (jax.jit(jax.grad(loss), static_argnums=1)(params, method) for method in (DIAGONAL, Scan()))
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * float(jnp.abs(theirs).max()))


def test_products_are_in_full_precision_unless_the_user_says_otherwise() -> None:
    cell = gru(4)
    params, xs = cell.init(jax.random.key(0), 3), jnp.ones((7, 2, 3))

    def precisions() -> set[str]:
        jax.clear_caches()
        program = jax.jit(jax.grad(jax.jit(lambda p: unroll(cell, p, xs, method=Newton())[1].sum())))
        return set(re.findall(r"precision = \[(\w+), ", program.lower(params).as_text()))

    assert precisions() == {"HIGHEST"}
    with jax.default_matmul_precision("high"):
        assert "HIGH" in precisions()


def at_random(case: Case) -> tuple[Any, Any, Any, Any]:
    """A step, what it needs, with borders, and carries [T, B, ...] that are no solution."""
    scene = SCENES["all"]
    params = make_params(case)
    params = case.cell.prepare(params)
    steps = Steps(case.cell.project(params, make_xs(case)), jnp.asarray(scene["mask"]), jnp.asarray(scene["resets"]))
    given = Given(params, case.cell.init_carry(params, (BATCH, *case.space)), make_carry(case, params))
    carries = [make_carry(case, params, seed=t) for t in range(STEPS)]
    return parts_of(case.cell, params), given, steps, jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries)


def test_iterates_equal_those_of_a_plain_loop(x64: None) -> None:
    weights, xs, states = RNG.normal(size=(3, 3)) / 2, RNG.normal(size=(12, 3)), RNG.normal(size=(12, 3))
    start = RNG.normal(size=3)
    cell = Cell(
        init=lambda key, size: (),
        init_carry=lambda params, shape=(): jnp.zeros(3),
        step=lambda params, h, x: (jnp.tanh(h @ params) + x, ()),
    )
    given = Given(jnp.asarray(weights), jnp.asarray(start), jnp.asarray(start))
    steps, guess = Steps(jnp.asarray(xs), None, None), jnp.asarray(states)
    counts = []
    for number in (1, 2, 3):
        h, before, new = start, np.concatenate([start[None], states[:-1]]), []
        for t in range(len(xs)):
            u = before[t] @ weights
            h = np.tanh(u) + xs[t] + (h - before[t]) @ (weights * (1 - np.tanh(u) ** 2))
            new.append(h)
        states = np.array(new)
        after = np.tanh(np.concatenate([start[None], states[:-1]]) @ weights) + xs
        method = Newton(max_iters=number, tol=1e-300)
        got, info = solve_in_time(parts_of(cell, weights), given, steps, (), method, guess, fall_back=False)
        np.testing.assert_allclose(got, after, rtol=1e-10, atol=1e-12)
        residual = (np.abs(after - states) / (1 + np.abs(states))).max()
        np.testing.assert_allclose(info.residual, residual, rtol=1e-6)
        assert not info.converged
        close = Newton(tol=1.01 * residual)
        counts.append(int(solve_in_time(parts_of(cell, weights), given, steps, (), close, guess)[1].iterations))
    assert counts == [1, 2, 3]


NAMES = ["elman", "lstm", "lstm_peephole_coupled", "lstm_everything", "gru", "gru_before", "s_lstm_heads", "m_lstm"]


@pytest.mark.parametrize("kind", ["dense", "diagonal", "block", "units"])
@pytest.mark.parametrize("name", [*NAMES, "sh_plrnn"])
def test_blocks_of_jacobians_equal_those_of_one_step_of_one_row(name: str, kind: str, x64: None) -> None:
    case = BY_NAME[name]
    parts, given, steps, carries = at_random(case)
    num_blocks = {"dense": 1, "diagonal": None, "block": 2, "units": HIDDEN}[kind]
    if num_blocks is not None and any(leaf[0, 0].size % num_blocks for leaf in jax.tree.leaves(carries)):
        pytest.skip("the blocks do not divide it")
    packed = packing(given.carry, (BATCH,), num_blocks)
    states = packed.pack(carries)
    got = jax.jit(lambda states: block_jacobians(parts, packed, given, steps, states))(states)
    one_row = packing(jax.tree.map(lambda leaf: leaf[:1], given.carry), (1,), packed.num_blocks)

    @jax.jit
    @jax.vmap
    @jax.vmap
    def jacobian(state: Any, z: Any, real: Any, fresh: Any, initial: Any) -> Any:
        def step(state: Any) -> Any:
            before = one_row.unpack(state[None])
            before = tree.where(fresh, jax.tree.map(lambda leaf: leaf[None], initial), before)
            after = case.cell.step(given.params, before, jax.tree.map(lambda leaf: leaf[None], z))[0]
            return one_row.pack(tree.where(real, after, before))[0]

        return jax.jacfwd(step)(state)  # [K, d, K, d]

    before = jnp.concatenate([packed.pack(given.carry)[None], states[:-1]])
    initial = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (STEPS, *leaf.shape)), given.initial)
    full = np.asarray(jacobian(before, steps.z, steps.real, steps.fresh, initial))
    expected = np.stack([full[:, :, k, :, k, :] for k in range(full.shape[2])], axis=2)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
    assert not got[np.asarray(steps.real & steps.fresh)].any()
    unseen = np.asarray(~steps.real & ~steps.fresh)
    np.testing.assert_array_equal(got[unseen], np.broadcast_to(np.eye(got.shape[-1]), got[unseen].shape))


def diagonals(cell: Cell, params: Any, zs: Any) -> Any:
    """Those of all steps, at carries of ones."""
    start = cell.init_carry(params)
    packed = packing(start, (), None)
    states = packed.pack(jax.tree.map(lambda leaf: jnp.ones((len(zs), *leaf.shape)), start))
    return block_jacobians(parts_of(cell, params), packed, Given(params, start, start), Steps(zs, None, None), states)


@pytest.mark.parametrize("cell", [elman(64), lstm(64), gru(64)], ids=["elman", "lstm", "gru"])
def test_the_diagonals_of_gated_cells_are_taken_for_all_units_at_once(cell: Cell) -> None:
    params = cell.init(jax.random.key(0), INPUT)

    def loops(cell: Cell) -> int:
        zs = cell.project(params, jnp.ones((9, INPUT)))
        return str(jax.make_jaxpr(lambda params: diagonals(cell, params, zs))(params)).count("scan[")

    assert loops(cell) == 0
    assert loops(cell._replace(step=lambda *args: cell.step(*args))) > 0


def test_a_gated_step_may_carry_more_than_units(x64: None) -> None:
    def after(params: Any, carry: Any, a: Any) -> Any:
        return {"h": jnp.tanh(a) + carry["count"], "count": jnp.cos(carry["count"])}

    gated = GatedStep(lambda params: params, after, lambda carry: carry["h"])
    cell = Cell(
        init=lambda key, size: jnp.asarray(RNG.normal(size=(size, size))),
        init_carry=lambda params, shape=(): {"h": jnp.zeros((*shape, 3)), "count": jnp.zeros((*shape, 1))},
        step=gated,
    )
    params, zs = cell.init(jax.random.key(0), 3), jnp.asarray(RNG.normal(size=(5, 3)))
    plain = cell._replace(step=lambda *args: gated(*args))
    np.testing.assert_allclose(diagonals(cell, params, zs), diagonals(plain, params, zs), rtol=1e-12)


SIZES = pytest.mark.parametrize(("num", "size"), [(1, 4), (3, 2), (5, 1)])


def matrices(num: int, size: int) -> tuple[Any, Any]:
    return RNG.normal(size=(7, 2, num, size, size)), RNG.normal(size=(7, 2, num, size))


@SIZES
@pytest.mark.parametrize("solve", [step_by_step, all_at_once])
def test_linear_recurrences_equal_a_loop(solve: Any, num: int, size: int, x64: None) -> None:
    blocks, r = matrices(num, size)
    d, expected = np.zeros_like(r[0]), []
    for a, b in zip(blocks, r, strict=True):
        d = (a * d[..., None, :]).sum(-1) + b
        expected.append(d)
    np.testing.assert_allclose(jax.jit(solve)(blocks, r), expected, rtol=1e-10, atol=1e-10)


@SIZES
def test_the_transposed_recurrence_equals_the_transposed_matrix_of_all_steps(num: int, size: int, x64: None) -> None:
    blocks, r = matrices(num, size)
    steps = len(r)
    got = np.asarray(jax.jit(solve_blocks_transposed)(blocks, r))
    for row in range(2):
        for k in range(num):
            system = np.eye(steps * size)
            for t in range(1, steps):
                system[t * size : (t + 1) * size, (t - 1) * size : t * size] = -blocks[t, row, k]
            expected = np.linalg.solve(system.T, r[:, row, k].ravel()).reshape(steps, size)
            np.testing.assert_allclose(got[:, row, k], expected, rtol=1e-10, atol=1e-10)


@SIZES
@pytest.mark.parametrize("solve", [damped_step_by_step, damped_all_at_once])
def test_the_damped_recurrence_equals_a_kalman_filter(solve: Any, num: int, size: int, x64: None) -> None:
    blocks, r = matrices(num, size)
    eye, damping = np.eye(size), 0.7
    mean, covariance, expected = np.zeros_like(r[0]), np.zeros_like(blocks[0]), []
    for a, b in zip(blocks, r, strict=True):
        predicted = a @ covariance @ np.swapaxes(a, -1, -2) + eye
        gain = predicted @ np.linalg.inv(predicted + eye / damping)
        mean = (a * mean[..., None, :]).sum(-1) + b
        mean = mean - (gain * mean[..., None, :]).sum(-1)
        covariance = predicted - gain @ predicted
        expected.append(mean)
    np.testing.assert_allclose(jax.jit(solve, static_argnums=2)(blocks, r, damping), expected, rtol=1e-9, atol=1e-9)


def test_weak_damping_becomes_none(x64: None) -> None:
    blocks, r = matrices(3, 2)
    np.testing.assert_allclose(solve_damped(blocks, r, 1e-12), step_by_step(blocks, r), rtol=1e-6)
