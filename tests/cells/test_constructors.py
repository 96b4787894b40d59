"""Constructors are cached and check their options; initial parameters and carries are what the docstrings say."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import HIDDEN, MAIN, Case, make_params, over

from rnn_jax.cells import CELLS, conv_lstm, gru, lru, lstm, m_lstm, make_cell, mgu, orthogonal_rnn, rg_lru, s5, s_lstm
from rnn_jax.initializers import orthogonal
from rnn_jax.types import Cell, LinearCell, keep_params


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_built_again_is_the_same_object(name: str) -> None:
    build = CELLS[name]
    assert build(HIDDEN) is build(HIDDEN) is make_cell(name, HIDDEN)
    assert build(HIDDEN) != build(HIDDEN + 2)
    assert hash(build(HIDDEN)) == hash(build(HIDDEN))
    assert isinstance(build(HIDDEN), Cell | LinearCell)


def test_options_make_another_cell_and_the_same_options_the_same_one() -> None:
    assert lstm(4, peephole=True) is lstm(4, peephole=True) is make_cell("lstm", 4, peephole=True)
    assert lstm(4, peephole=True) != lstm(4)
    assert lstm(4) is lstm(hidden_size=4) is lstm(4, peephole=False)
    assert gru(4, reset="before", kernel_init=orthogonal) is gru(4, kernel_init=orthogonal, reset="before")


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("size", [0, -1, 2.5, "8", True])
def test_sizes_that_are_not_positive_integers_are_refused(name: str, size: Any) -> None:
    with pytest.raises(ValueError, match="`hidden_size` must be an integer of at least 1, got"):
        CELLS[name](size)


@pytest.mark.parametrize("name", CELLS)
def test_init_asks_for_a_key_and_a_size(name: str) -> None:
    cell = CELLS[name](HIDDEN)
    with pytest.raises(ValueError, match=r"`key` must be a PRNG key such as jax.random.key\(0\), got int 0"):
        cell.init(0, 3)
    with pytest.raises(ValueError, match=r"`key` must be a PRNG key .*, got key<fry> of shape \(2,\)"):
        cell.init(jax.random.split(jax.random.key(0)), 3)
    with pytest.raises(ValueError, match="`input_size` must be an integer of at least 0, got int -1"):
        cell.init(jax.random.key(0), -1)
    with pytest.raises(ValueError, match=r"`input_size` must be an integer of at least 0, got tuple \(5, 3\)"):
        cell.init(jax.random.key(0), (5, 3))


def test_unknown_names_come_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"`name` must be one of 'elman', .*, got 'lstmm'; did you mean 'lstm'"):
        make_cell("lstmm", 4)
    with pytest.raises(ValueError, match=r"got 'transformer'$"):
        make_cell("transformer", 4)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: lstm(4, projection=0), "`projection` must be an integer of at least 1, got int 0"),
        (lambda: lstm(4, cell_clip=0.0), r"`cell_clip` must be a number above 0, got 0\.0"),
        (lambda: lstm(4, cell_clip="a"), "`cell_clip` must be a number above 0, got 'a'"),
        (lambda: conv_lstm(4, kernel_size=[3, 3]), r"`kernel_size` of conv_lstm must be hashable, got \[3, 3\]"),
        (lambda: gru(4, reset="befor"), "`reset` must be one of 'after', 'before', got 'befor'; did you mean 'before'"),
        (lambda: lru(4, r_min=0.9, r_max=0.8), r"0 <= r_min < r_max <= 1, got 0\.9 and 0\.8"),
        (lambda: lru(4, r_max=1.5), "0 <= r_min < r_max <= 1"),
        (lambda: lru(4, state_size=0), "`state_size` must be an integer of at least 1, got int 0"),
        (lambda: s5(4, state_size=-2), "`state_size` must be an integer of at least 1, got int -2"),
        (lambda: s5(4, dt_min=0.0), r"0 < dt_min <= dt_max, got 0\.0 and 0\.1"),
        (lambda: s5(4, dt_min=0.2), r"0 < dt_min <= dt_max, got 0\.2 and 0\.1"),
        (lambda: s_lstm(4, num_heads=3), "`num_heads` must divide hidden_size=4, got 3"),
        (lambda: s_lstm(4, num_heads=0), "`num_heads` must be an integer of at least 1"),
        (lambda: m_lstm(4, num_heads=8), "`num_heads` must divide hidden_size=4, got 8"),
        (lambda: m_lstm(4, num_heads=0), "`num_heads` must be an integer of at least 1"),
        (lambda: conv_lstm(4, kernel_size=()), r"`kernel_size` must be a tuple of one number for each .*, got \(\)"),
        (lambda: conv_lstm(4, kernel_size=3), "`kernel_size` must be a tuple of one number for each .*, got 3"),
        (lambda: conv_lstm(4, kernel_size=(3, 0)), "`kernel_size` must be an integer of at least 1, got int 0"),
        (lambda: orthogonal_rnn(4, transform="exp"), "`transform` must be one of 'expm', 'cayley', got 'exp'"),
    ],
)
def test_options_that_make_no_sense_are_refused(build: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()


@over(MAIN)
def test_initial_parameters_and_carries_are_finite_wide_and_reproducible(case: Case) -> None:
    init = jax.jit(case.cell.init, static_argnums=1)
    params, again, other = (init(jax.random.key(seed), case.input_size) for seed in (0, 0, 1))
    for leaf, same in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()
        np.testing.assert_array_equal(leaf, same)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(other), strict=True))
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    for leaf in jax.tree.leaves(case.cell.init_carry(narrow, (2, *case.space))):
        assert leaf.dtype in (jnp.float32, jnp.complex64)
        assert leaf.shape[: 1 + len(case.space)] == (2, *case.space)


@over([case for case in MAIN if isinstance(case.cell, Cell) and case.cell.prepare is not keep_params])
def test_preparing_parameters_twice_or_not_at_all_changes_no_number(case: Case, x64: None) -> None:
    params = make_params(case)
    once = case.cell.prepare(params)
    carry = case.cell.init_carry(params, (2, *case.space))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, *case.space, case.input_size)))
    z = case.cell.project(params, x)
    expected = case.cell.step(params, carry, z)
    for prepared in (once, case.cell.prepare(once)):
        got = case.cell.step(prepared, carry, z)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_forget_biases_are_initial_values_by_gate() -> None:
    key = jax.random.key(0)
    np.testing.assert_array_equal(lstm(2).init(key, 3).b, [0, 0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(lstm(2, coupled=True).init(key, 3).b, [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(mgu(2).init(key, 3).b, [-1, -1, 0, 0])
    np.testing.assert_array_equal(gru(2).init(key, 3).b, np.zeros(6))
    np.testing.assert_allclose(m_lstm(6, num_heads=3).init(key, 2).b_gates, [0, 0, 0, 3, 4.5, 6])


def test_every_gate_of_every_recurrent_kernel_starts_orthogonal() -> None:
    key, eye = jax.random.key(0), np.eye(4)
    for cell, gates in ((lstm(4), 4), (gru(4), 3), (mgu(4), 2)):
        for w in np.split(np.asarray(cell.init(key, 3).w_h), gates, axis=-1):
            np.testing.assert_allclose(w @ w.T, eye, atol=1e-5)
    for head in np.asarray(s_lstm(8, num_heads=2).init(key, 3).w_h):
        for w in np.split(head, 4, axis=-1):
            np.testing.assert_allclose(w @ w.T, eye, atol=1e-5)
    prepared = orthogonal_rnn(4).prepare(orthogonal_rnn(4).init(key, 3))
    np.testing.assert_allclose(prepared.w_h @ prepared.w_h.T, eye, atol=1e-5)


def test_linear_cells_start_with_the_spectra_of_their_papers() -> None:
    key, xs = jax.random.key(0), jnp.zeros((1, 1, 3))
    params = lru(64, r_min=0.8, r_max=0.95).init(key, 3)
    a, _ = lru(64, r_min=0.8, r_max=0.95).elements(params, xs)
    assert 0.8 <= np.abs(a).min()
    assert np.abs(a).max() <= 0.95
    np.testing.assert_allclose(np.exp(params.gamma_log), np.sqrt(1 - np.abs(a[0, 0]) ** 2), rtol=1e-4)
    params = rg_lru(64).init(key, 3)
    open_gate = np.exp(-8 * np.log1p(np.exp(np.asarray(params.decay, np.float64))))
    assert 0.9 <= open_gate.min() < 0.92
    assert 0.98 < open_gate.max() <= 0.999
    params = s5(64, dt_min=0.01, dt_max=0.2).init(key, 3)
    assert 0.01 <= np.exp(params.log_step).min()
    assert np.exp(params.log_step).max() <= 0.2001
    np.testing.assert_allclose(params.lambda_re, -0.5, atol=1e-5)


@over(MAIN)
def test_many_seeds_at_once_give_the_parameters_of_each(case: Case, x64: None) -> None:
    keys = jax.random.split(jax.random.key(4), 2)
    together = jax.jit(lambda k: jax.vmap(lambda one: case.cell.init(one, 3))(k))(keys)
    alone = jax.jit(lambda k: case.cell.init(k, 3))(keys[1])
    for many, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        assert one.dtype == jnp.float64
        np.testing.assert_allclose(many[1], one, rtol=1e-9, atol=1e-12)
