"""Every cell equals a slow float64 loop written from its equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import CASES, MAIN, Case, assert_close, find_oracle, make_params, make_xs, over, plain_carry, run

from rnn_jax.cells import CELLS


def by_oracle(case: Case, params: Any, xs: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """The oracle's outputs [T, B, ...] and carry leaves [B, ...], one row after another."""
    oracle = find_oracle(case.oracle)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    rows = [oracle(p, np.asarray(xs[:, b], np.float64), **case.options) for b in range(xs.shape[1])]
    carry = [np.stack(leaves) for leaves in zip(*(row[1] for row in rows), strict=True)]
    return np.stack([row[0] for row in rows], axis=1), carry


@over(CASES)
def test_outputs_and_final_carry_equal_the_float64_oracle(case: Case, x64: None) -> None:
    params, xs = make_params(case), make_xs(case)
    carry, ys = run(case.cell, params, xs)
    expected_ys, expected_carry = by_oracle(case, params, xs)
    assert ys.dtype == jnp.float64
    assert all(leaf.dtype in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves(carry))
    assert np.abs(expected_ys).max() > 1e-2
    np.testing.assert_allclose(ys, expected_ys, rtol=1e-9, atol=1e-12)
    assert_close(plain_carry(case, carry), expected_carry, rtol=1e-9, atol=1e-12)


@over(CASES)
def test_float32_and_bfloat16_stay_close_to_the_oracle_and_keep_their_dtypes(case: Case) -> None:
    params, xs = make_params(case, jnp.float32), make_xs(case, jnp.float32)
    carry, ys = run(case.cell, params, xs)
    expected_ys, expected_carry = by_oracle(case, params, xs)
    assert ys.dtype == jnp.float32
    np.testing.assert_allclose(ys, expected_ys, rtol=1e-5, atol=2e-6)
    assert_close(plain_carry(case, carry), expected_carry, rtol=1e-5, atol=5e-6)

    half = run(case.cell, params, xs.astype(jnp.bfloat16))
    assert half[1].dtype == jnp.bfloat16
    assert [leaf.dtype for leaf in jax.tree.leaves(half[0])] == [leaf.dtype for leaf in jax.tree.leaves(carry)]
    assert all(leaf.dtype in (jnp.float32, jnp.complex64) for leaf in jax.tree.leaves(carry))
    np.testing.assert_allclose(half[1].astype(jnp.float32), ys, rtol=0.1, atol=0.1)


def test_every_row_of_the_table_has_an_oracle_and_a_missing_one_says_what_to_add() -> None:
    assert set(CELLS) | {"leaky"} == {case.name for case in MAIN}
    for case in CASES:
        assert find_oracle(case.oracle) is getattr(oracles, case.oracle)
    with pytest.raises(
        pytest.fail.Exception, match=r"'new_cell'.* add a function `new_cell\(p, xs\).*tests/oracles.py"
    ):
        find_oracle("new_cell")


@pytest.mark.parametrize("name", ["s_lstm", "m_lstm"])
def test_the_first_write_into_an_empty_memory_counts_however_faint(name: str, x64: None) -> None:
    """exp(-100) underflows in float32; the stabiliser must follow it."""
    (case,) = [case for case in MAIN if case.name == name]
    params = make_params(case)
    field = "b" if name == "s_lstm" else "b_gates"
    bias = getattr(params, field)
    params = params._replace(**{field: bias.at[: bias.size // (4 if name == "s_lstm" else 2)].set(-100.0)})
    xs = make_xs(case)
    expected, _ = by_oracle(case, params, xs)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    ys = run(case.cell, narrow, xs.astype(jnp.float32))[1]
    np.testing.assert_allclose(ys, expected, rtol=1e-4, atol=1e-6)
    if name == "s_lstm":
        assert np.abs(expected[0]).max() > 0.1
