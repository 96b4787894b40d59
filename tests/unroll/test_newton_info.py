"""What Newton's method says about itself, what it falls back on, and how it takes JAX's other transformations."""

from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, INPUT, assert_close, everything, make_carry, make_params, make_xs, run, weigh
from test_newton import BY_NAME, solve

from rnn_jax.cells import elman, gru, lru, lstm, s_lstm
from rnn_jax.compose import stack
from rnn_jax.dropout import with_dropout
from rnn_jax.gradient_clipping import with_clipped_gradient
from rnn_jax.types import Cell
from rnn_jax.unroll import Newton, NewtonInfo, Scan, unroll, unroll_carries, unroll_newton

LONG = 200
METHODS = pytest.mark.parametrize("method", [Newton(), Newton(jacobian="diagonal")], ids=["dense", "diagonal"])


def tanh_network(gain: float, size: int = 16) -> tuple[Cell, Any]:
    """An Elman network with random weights, and its parameters: chaotic where the gain is well above 1."""
    cell, rng = elman(size), np.random.default_rng(0)
    params = cell.init(jax.random.key(0), INPUT)
    return cell, params._replace(w_h=jnp.asarray(gain * rng.normal(size=(size, size)) / np.sqrt(size)))


scan = jax.jit(
    lambda cell, params, xs, lengths=None: unroll_carries(cell, params, xs, lengths=lengths), static_argnums=0
)
newton = jax.jit(unroll_newton, static_argnames=("cell", "method", "reverse"))


@METHODS
def test_a_chaotic_cell_falls_back_on_the_scan_and_says_so(method: Newton, x64: None) -> None:
    cell, params = tanh_network(2.5)
    method = Newton(method.jacobian, max_iters=5)
    xs = 0.1 * make_xs(BY_NAME["elman"], steps=LONG)
    carry = jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, 16)))
    scene = {"lengths": np.array([LONG, LONG, 3, 0], np.int32)}
    got, info = solve(cell, params, xs, carry, scene, False, method)
    assert info.converged.tolist() == [False, False, True, True]
    assert info.iterations.tolist()[:2] == [5, 5]
    assert info.iterations.tolist()[3] == 0
    assert (info.residual[:2] > 1e-3).all()
    assert_close(got, everything(cell, params, xs, carry, method=Scan(), **scene), rtol=1e-10)
    moved = run(cell, params, xs, carry + 1e-9, **scene)[0]
    assert jnp.abs(moved - got.carry)[:2].max() > 1e-7  # chaotic indeed


def test_iterations_grow_with_the_length_only_where_a_cell_is_chaotic(x64: None) -> None:
    counts = {}
    for gain in (0.5, 2.0):
        cell, params = tanh_network(gain)
        for steps in (50, LONG):
            xs = 0.1 * make_xs(BY_NAME["elman"], steps=steps)
            carry = jnp.ones((BATCH, 16))
            info = newton(cell, params, xs, carry, method=Newton(max_iters=LONG))[3]
            assert info.converged.all()
            counts[gain, steps] = int(info.iterations.max())
    assert counts[0.5, 50] == counts[0.5, LONG] <= 6
    assert counts[2.0, LONG] > 1.5 * counts[2.0, 50] > 10


@METHODS
def test_nan_never_counts_as_converged_and_stays_in_its_row(method: Newton, x64: None) -> None:
    case = BY_NAME["gru"]
    params, carry = make_params(case), make_carry(case, make_params(case))
    xs = make_xs(case).at[3, 1].set(jnp.nan)
    got, info = solve(case.cell, params, xs, carry, {}, False, method)
    assert info.converged.tolist() == [True, False, True, True]
    assert int(info.iterations[1]) == method.max_iters
    assert np.isnan(info.residual).tolist() == [False, True, False, False]
    assert (info.iterations < 8)[np.array([0, 2, 3])].all()
    assert_close(got, everything(case.cell, params, xs, carry, method=Scan()), rtol=1e-10)
    assert np.isfinite(got.ys[:3]).all()
    assert np.isfinite(got.ys[:, ::2]).all()
    assert np.isfinite(got.grads[1][:, ::2]).all()


@pytest.fixture
def optimised() -> Iterator[None]:
    """Compiles as users do: a fast maximum over many numbers passes over NaN."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def test_nan_among_many_steps_does_not_count_as_converged_in_an_optimised_program(optimised: None) -> None:
    case = BY_NAME["gru"]
    params, xs = make_params(case, jnp.float32), make_xs(case, jnp.float32, steps=1000)
    xs = xs.at[5, 0].set(jnp.nan).at[-1, 1].set(jnp.nan)
    info = jax.jit(lambda params: unroll_newton(case.cell, params, xs)[3])(params)
    assert info.converged.tolist() == [False, False, True, True]
    assert np.isnan(info.residual).tolist() == [True, True, False, False]


@METHODS
def test_a_warm_start_needs_no_iterations_and_any_guess_ends_at_the_scan(method: Newton, x64: None) -> None:
    case = BY_NAME["lstm"]
    params, xs = make_params(case), make_xs(case, steps=40)
    expected = scan(case.cell, params, xs)
    rng = np.random.default_rng(3)
    perturbed = jax.tree.map(lambda leaf: leaf + 1e-3 * rng.normal(size=leaf.shape), expected[2])
    spoiled = jax.tree.map(lambda leaf: leaf.at[2:5].set(jnp.nan), expected[2])
    huge = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e200), expected[2])
    cold = newton(case.cell, params, xs, method=method)
    counts = []
    for guess in (expected[2], perturbed, spoiled, huge):
        *got, info = newton(case.cell, params, xs, guess=guess, method=method)
        assert info.converged.all()
        assert_close(tuple(got), expected, rtol=1e-10)
        counts.append(int(info.iterations.max()))
    assert counts[0] <= 1 <= counts[1] < int(cold[3].iterations.max())
    flipped = newton(case.cell, params, xs, guess=cold[2], method=method, reverse=True)
    assert_close(flipped[:2], run(case.cell, params, xs, reverse=True), rtol=1e-10)
    again = newton(case.cell, params, xs, guess=flipped[2], method=method, reverse=True)[3]
    assert (again.iterations <= 1).all()


@METHODS
def test_iterates_that_leave_the_range_of_a_step_come_back(method: Newton, x64: None) -> None:
    cell = s_lstm(16, num_heads=2)  # divides by its normaliser, which is negative in some iterates
    params = jax.tree.map(lambda leaf: leaf.astype(float), cell.init(jax.random.key(0), INPUT))
    xs = jax.random.normal(jax.random.key(9), (400, 1, INPUT), float)
    *got, info = newton(cell, params, xs, method=method)
    assert info.converged.all()
    assert_close(tuple(got), scan(cell, params, xs), rtol=1e-10)


def test_no_gradient_flows_into_the_guess(x64: None) -> None:
    case = BY_NAME["gru"]
    params, xs = make_params(case), make_xs(case)
    guess = jnp.ones((*xs.shape[:2], 4))
    gradient = jax.grad(lambda guess: weigh(unroll_newton(case.cell, params, xs, guess=guess)[:3]))(guess)
    np.testing.assert_array_equal(gradient, 0)


@METHODS
def test_other_transformations_give_what_they_give_for_the_scan(method: Newton, x64: None) -> None:
    cell = elman(3)
    params, xs = cell.init(jax.random.key(0), INPUT), make_xs(BY_NAME["elman"], steps=12)
    direction = jax.tree.map(jnp.cos, params)

    def results(method: Any) -> Any:
        def loss(params: Any, xs: Any) -> Any:
            return weigh(unroll(cell, params, xs, method=method))

        forward = jax.jvp(loss, (params, xs), (direction, jnp.sin(xs)))
        second = jax.jvp(lambda p: jax.grad(loss, (0, 1))(p, xs), (params,), (direction,))
        kept_less = jax.grad(jax.checkpoint(loss))(params, xs)
        return forward, second, kept_less

    got, expected = (jax.jit(results, static_argnums=0)(method) for method in (method, Scan()))
    assert_close(got, expected, rtol=1e-10)


@METHODS
def test_vmap_over_parameters_counts_for_each_of_them(method: Newton, x64: None) -> None:
    cell = gru(4)
    xs = make_xs(BY_NAME["gru"], steps=12)
    params = jax.vmap(lambda key: cell.init(key, INPUT))(jax.random.split(jax.random.key(0), 3))
    params = jax.tree.map(lambda leaf: leaf.at[1].multiply(3), params)

    def results(params: Any) -> Any:
        def loss(params: Any) -> Any:
            out = unroll_newton(cell, params, xs, method=method)
            return weigh(out[:2]), out

        return jax.value_and_grad(loss, has_aux=True)(params)

    def scanned(params: Any) -> Any:
        return jax.value_and_grad(lambda params: weigh(unroll(cell, params, xs, method=Scan())))(params)

    (value, (*_, info)), gradient = jax.jit(jax.vmap(results))(params)
    assert_close((value, gradient), jax.jit(jax.vmap(scanned))(params), rtol=1e-10)
    assert info.converged.all()
    alone = jax.jit(results)
    for index in range(3):
        one = alone(jax.tree.map(lambda leaf, index=index: leaf[index], params))[0][1][3]
        assert info.iterations[index].tolist() == one.iterations.tolist()


def test_each_step_gets_its_own_noise(x64: None) -> None:
    cell = with_dropout(lstm(4), inputs=0.3, recurrent=0.2, zoneout_h=0.4, zoneout_c=0.2)
    xs = make_xs(BY_NAME["lstm"], steps=9)
    params = cell.perturb(jax.random.key(1), cell.init(jax.random.key(0), INPUT), xs.shape)

    def results(method: Any, reverse: bool) -> Any:
        def loss(trained: Any, xs: Any) -> Any:
            return weigh(unroll(cell, params._replace(cell=trained), xs, reverse=reverse, method=method))

        return jax.value_and_grad(loss, (0, 1))(params.cell, xs)

    compiled = jax.jit(results, static_argnums=(0, 1))
    for reverse in (False, True):
        assert_close(compiled(Newton(max_iters=9), reverse), compiled(Scan(), reverse), rtol=1e-10)


def test_a_stack_says_it_layer_by_layer(x64: None) -> None:
    cell = stack(gru(4), lru(4), stack(elman(3), lstm(2)))
    params, xs = cell.init(jax.random.key(0), INPUT), make_xs(BY_NAME["gru"], steps=9)
    lengths = np.array([9, 5, 1, 0])
    *got, info = newton(cell, params, xs, lengths=lengths)
    assert_close(tuple(got), scan(cell, params, xs, lengths=lengths), rtol=1e-10)
    flat = (info[0], info[1], *info[2])
    assert (len(info), len(flat)) == (3, 4)
    assert all(isinstance(one, NewtonInfo) for one in flat)
    assert all(one.converged.shape == (4,) and one.converged.all() for one in flat)
    assert flat[0].iterations[0] > 0
    assert flat[0].iterations[3] == 0
    assert not flat[1].iterations.any()
    again = newton(cell, params, xs, guess=got[2], lengths=lengths)[3]
    assert all((leaf.iterations <= 1).all() for leaf in (again[0], again[1], *again[2]))


def test_a_complex_carry_is_two_real_ones(x64: None) -> None:
    def step(params: Any, carry: Any, z: Any) -> Any:
        h = carry["h"] @ params
        shrunk = 1 / (1 + jnp.abs(h))
        h = (h + jax.lax.complex(z, -z)) * jax.lax.complex(shrunk, 0.3 * shrunk)
        carry = {"h": h, "n": jnp.tanh(carry["n"] + h.real)}
        return carry, h.real + carry["n"]

    weights = jnp.asarray(np.random.default_rng(0).normal(size=(2, INPUT, INPUT)))
    cell = Cell(
        init=lambda key, size: jax.lax.complex(*weights),
        init_carry=lambda params, shape=(): {"h": jnp.zeros((*shape, INPUT), complex), "n": jnp.zeros((*shape, INPUT))},
        step=step,
    )
    xs, carry = make_xs(BY_NAME["gru"]), cell.init_carry(None, (BATCH,))
    for method in (Newton(), Newton(jacobian="block", num_blocks=INPUT)):
        got, info = solve(cell, cell.init(None, 0), xs, carry, {}, True, method)
        assert info.converged.all()
        expected = everything(cell, cell.init(None, 0), xs, carry, reverse=True, method=Scan())
        assert_close(got, expected, rtol=1e-10)


@pytest.mark.parametrize("batch", [(), (0,), (2, 3)], ids=str)
def test_any_batch_axes(batch: tuple[int, ...], x64: None) -> None:
    case = BY_NAME["lstm"]
    params = make_params(case)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(5, *batch, INPUT)))
    *got, info = newton(case.cell, params, xs)
    assert_close(tuple(got), scan(case.cell, params, xs), rtol=1e-10)
    assert info.converged.shape == batch
    assert info.converged.all()
    empty = newton(case.cell, params, xs[:0])
    assert empty[1].shape == (0, *batch, 4)
    assert not empty[3].iterations.any()


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 1e-4), (jnp.bfloat16, 2e-2)], ids=["float32", "bfloat16"])
def test_it_converges_in_short_numbers(dtype: Any, rtol: float) -> None:
    case = BY_NAME["gru"]
    params, xs = make_params(case, jnp.float32), make_xs(case, dtype, steps=50)
    carry, ys, _, info = newton(case.cell, params, xs)
    assert info.converged.all()
    assert (ys.dtype, carry.dtype, info.residual.dtype) == (dtype, jnp.float32, jnp.float32)
    expected = unroll(case.cell, params, xs)
    np.testing.assert_allclose(ys.astype(jnp.float32), expected[1].astype(jnp.float32), rtol=rtol, atol=rtol)


def test_what_makes_no_sense_is_refused() -> None:
    cell = lstm(4)
    params, xs = cell.init(jax.random.key(0), INPUT), jnp.ones((5, 2, INPUT))
    carries = unroll_carries(cell, params, xs)[2]
    with pytest.raises(ValueError, match=r"`guess` must have shape \(5, 2, 4\) at .h, got \(4, 2, 4\)"):
        unroll_newton(cell, params, xs, guess=jax.tree.map(lambda leaf: leaf[1:], carries))
    with pytest.raises(ValueError, match="`guess` must have the structure"):
        unroll_newton(cell, params, xs, guess=carries.h)
    with pytest.raises(ValueError, match=r"`method` must be Newton\(\), got Scan"):
        unroll_newton(cell, params, xs, method=cast("Any", Scan()))
    with pytest.raises(ValueError, match="`jacobian` must be one of 'dense', 'diagonal', 'block', got 'diag'; did you"):
        Newton(jacobian=cast("Any", "diag"))
    with pytest.raises(ValueError, match="`max_iters` must be an integer of at least 1, got int 0"):
        Newton(max_iters=0)
    with pytest.raises(ValueError, match="`num_blocks` goes with jacobian='block', got num_blocks=2 and 'dense'"):
        Newton(num_blocks=2)
    with pytest.raises(ValueError, match="`num_blocks` goes with jacobian='block', got num_blocks=None and 'block'"):
        Newton(jacobian="block")
    with pytest.raises(ValueError, match="`num_blocks` must be an integer of at least 1, got int 0"):
        Newton(jacobian="block", num_blocks=0)
    with pytest.raises(ValueError, match=r"`damping` must be a number of at least 0, got float -0\.1"):
        Newton(damping=-0.1)
    with pytest.raises(ValueError, match="`damping` must be a number of at least 0, got float nan"):
        Newton(damping=float("nan"))
    with pytest.raises(ValueError, match=r"`tol` must be a number above 0, got float 0\.0"):
        Newton(tol=0.0)
    with pytest.raises(ValueError, match=r"`num_blocks` must divide the 4 numbers of \.h of a row, got 3"):
        unroll(cell, params, xs, method=Newton(jacobian="block", num_blocks=3))


@pytest.mark.parametrize("limit", ["norm", "value"])
def test_a_step_without_a_forward_derivative_is_refused(limit: Any) -> None:
    cell = with_clipped_gradient(gru(4), 1.0, by=limit)
    params, xs = cell.init(jax.random.key(0), INPUT), jnp.ones((5, 2, INPUT))
    with pytest.raises(ValueError, match=r"`method` Newton\(\) needs forward-mode .* custom_vjp in it, .*Use Scan"):
        unroll(cell, params, xs, method=Newton())
