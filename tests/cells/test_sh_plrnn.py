"""The shallow PLRNN: the form that is not clipped, the authors' initial values, and life without inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from comparing import jit

from rnn_jax import sh_plrnn, unroll, with_dropout

KEY = jax.random.key(3)


def random_params(params):
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float64), params)


@pytest.mark.parametrize("clipped", [True, False])
def test_both_forms_equal_the_oracle_with_any_number_of_units(clipped, x64):
    cell = sh_plrnn(4, num_basis=7, clipped=clipped)
    params = random_params(cell.init(KEY, 3))
    xs = np.random.default_rng(6).normal(size=(9, 3))
    _, ys = jit(lambda p, xs: unroll(cell, p, xs))(params, jnp.asarray(xs))
    expected, _ = oracles.sh_plrnn(jax.tree.map(np.asarray, params), xs, clipped=clipped)
    np.testing.assert_allclose(ys, expected, rtol=1e-10, atol=1e-12)


def test_orbits_of_the_clipped_form_are_bounded_and_those_of_the_other_need_not_be():
    params = sh_plrnn(3).init(KEY, 1)._replace(diagonal=jnp.full(3, 0.9))
    bound = jnp.abs(params.threshold) @ jnp.abs(params.w_basis) / (1 - 0.9)
    grown = params._replace(w_h=40 * params.w_h, w_basis=20 * params.w_basis)
    for cell, inside in ((sh_plrnn(3), True), (sh_plrnn(3, clipped=False), False)):
        carry, _ = jit(lambda p, cell=cell: unroll(cell, p, jnp.zeros((300, 1)), jnp.full(3, 0.1)))(grown)
        assert bool((jnp.abs(carry) <= 20 * bound).all()) is inside


def test_the_system_may_be_autonomous(x64):
    cell = sh_plrnn(3, num_basis=5)
    params = random_params(cell.init(KEY, 1))
    start = jnp.array([0.3, -0.2, 0.5])
    run = jit(lambda p, xs: unroll(cell, p, xs, start)[1])
    expected = run(params, jnp.zeros((6, 1)))
    alone = params._replace(w_x=cell.init(KEY, 0).w_x)
    assert alone.w_x.shape == (0, 3)
    np.testing.assert_allclose(run(alone, jnp.zeros((6, 0))), expected, rtol=1e-12)
    assert jnp.ptp(expected, axis=0).min() > 1e-3


def test_initial_values_lie_where_the_authors_draw_them():
    many = jit(jax.vmap(lambda key: sh_plrnn(4, num_basis=25).init(key, 2)))(jax.random.split(KEY, 200))
    for leaf, edge in ((many.w_h, 0.5), (many.w_basis, 0.2), (many.threshold, 0.2), (many.w_x, 1.0)):
        assert float(jnp.abs(leaf).max()) == pytest.approx(edge, rel=0.01)
        assert float(jnp.abs(leaf).max()) <= edge
        assert float(leaf.mean()) == pytest.approx(0, abs=0.05 * edge)
    assert not many.b.any()
    assert 0 < many.diagonal.min() < 0.4 < 0.9 < many.diagonal.max() <= 1
    assert not sh_plrnn(4, clipped=False).init(KEY, 2).threshold.any()


def test_recurrent_dropout_finds_the_kernel_that_reads_the_state():
    cell = with_dropout(sh_plrnn(4, num_basis=6), recurrent=0.5)
    params = cell.init(KEY, 2)
    noisy = cell.perturb(jax.random.key(1), params, (5, 3, 2))
    assert noisy.cell.w_h.kernel.shape == (4, 6)
    assert noisy.cell.w_h.mask.shape == (3, 4)


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="`num_basis` must be an integer of at least 1, got int 0"):
        sh_plrnn(4, num_basis=0)
