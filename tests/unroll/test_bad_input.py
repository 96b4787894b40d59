"""What is wrong with the input is said by name, before anything runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.cells import conv_lstm, gru, lru, lstm
from rnn_jax.unroll import stream_step, unroll, unroll_carries

CELL = lstm(4)
PARAMS = CELL.init(jax.random.key(0), 3)
XS = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2, 3)), jnp.float32)


@pytest.mark.parametrize(
    ("xs", "text"),
    [
        (XS[0, 0], r"`xs` must be \[T, ..., features\] with at least 2 axes, got shape \(3,\)"),
        (jnp.zeros((5, 2, 3), jnp.int32), r"`xs` must be floating \(embed or cast it first\), got int32 of shape"),
        ([[1.0, 2.0, 3.0]], r"`xs` must be an array \[T, ..., features\], got list \[\["),
        (XS[..., :2], r"`xs` must have 3 features on its last axis, got shape \(5, 2, 2\)"),
    ],
)
def test_wrong_inputs(xs: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        unroll(CELL, PARAMS, xs)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lengths": [5, 6]}, r"`lengths` must lie in \[0, T\] with T=5, got 6"),
        ({"lengths": [-1, 3]}, r"`lengths` must lie in \[0, T\] with T=5, got -1"),
        ({"lengths": [1.0, 2.0]}, r"`lengths` must be integers, got float32 of shape \(2,\)"),
        ({"lengths": [1, 2, 3]}, r"`lengths` must have the shape \(2,\) of the batch or its leading part, got \(3,\)"),
        (
            {"mask": jnp.ones((5, 3), bool)},
            r"`mask` must have the shape \(5, 2\) \(time, batch\) or its leading part, got \(5, 3\)",
        ),
        ({"mask": jnp.ones((5, 2))}, r"`mask` must be boolean, got float32 of shape \(5, 2\)"),
        ({"mask": jnp.asarray(True)}, r"`mask` must have the shape \(5, 2\)"),
        (
            {"resets": jnp.ones((4, 2), bool)},
            r"`resets` must have the shape \(5, 2\) \(time, batch\) or its leading part, got \(4, 2\)",
        ),
        ({"resets": jnp.ones((5, 2), jnp.int32)}, r"`resets` must be boolean, got int32 of shape \(5, 2\)"),
        ({"carry": jnp.zeros((2, 4))}, r"`carry` must have the structure .*LSTMCarry.*, got PyTreeDef\(\*\)"),
        ({"carry": CELL.init_carry(PARAMS, (3,))}, r"`carry` must have shape \(2, 4\) at \.h, got \(3, 4\)"),
        (
            {"method": "scan"},
            r"`method` must be .*, Cudnn\(\) or Sharded\(mesh, axis\), got str 'scan'",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    for function in (unroll, unroll_carries):
        with pytest.raises(ValueError, match=text):
            function(CELL, PARAMS, XS, **options)


def test_a_carry_that_is_one_array_is_named_as_such() -> None:
    cell = gru(4)
    with pytest.raises(ValueError, match=r"`carry` must have shape \(2, 4\) at the carry, got \(2, 5\)"):
        unroll(cell, cell.init(jax.random.key(0), 3), XS, jnp.zeros((2, 5)))


@pytest.mark.parametrize("function", [unroll, unroll_carries])
def test_a_name_is_not_a_cell(function: Any) -> None:
    with pytest.raises(ValueError, match=r"`cell` must be a Cell or a LinearCell, got str 'lstm'; make_cell\(name,"):
        function("lstm", PARAMS, XS)
    with pytest.raises(ValueError, match=r"must be a Cell or a LinearCell, got the function lstm; call it first"):
        function(lstm, PARAMS, XS)


def test_a_step_is_checked_like_a_sequence() -> None:
    carry = CELL.init_carry(PARAMS, (2,))
    with pytest.raises(ValueError, match="`cell` must be a Cell or a LinearCell, got str 'lstm'"):
        stream_step("lstm", PARAMS, carry, XS[0])
    with pytest.raises(ValueError, match=r"`x` must be a floating array \[\*batch, features\], got .* of shape \(\)"):
        stream_step(CELL, PARAMS, carry, 1.0)
    with pytest.raises(ValueError, match=r"`x` must be a floating array \[\*batch, features\], got int32 of shape"):
        stream_step(CELL, PARAMS, carry, jnp.zeros((2, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"`carry` must have shape \(1, 4\) at \.h, got \(2, 4\)"):
        stream_step(CELL, PARAMS, carry, XS[0, :1])
    with pytest.raises(ValueError, match="must have 3 features on its last axis"):
        stream_step(CELL, PARAMS, carry, XS[0, :, :2])


def test_pictures_without_enough_axes_are_refused() -> None:
    cell = conv_lstm(4)
    params = cell.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"`xs` must have 2 spatial axes before its features, got shape \(5, 3\)"):
        unroll(cell, params, XS[:, 0])
    with pytest.raises(ValueError, match=r"`xs` must have 3 features on its last axis, got shape"):
        unroll(cell, params, jnp.zeros((5, 2, 4, 4, 2)))


@pytest.mark.parametrize("cell", [gru(4), lru(4)], ids=["gru", "lru"])
def test_nan_in_padding_changes_nothing_and_nan_in_a_real_step_is_not_hidden(cell: Any) -> None:
    params, lengths = cell.init(jax.random.key(1), 3), jnp.array([3, 5])
    clean = unroll(cell, params, XS, lengths=lengths)
    spoiled = unroll(cell, params, XS.at[3:, 0].set(jnp.nan), lengths=lengths)
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(spoiled), strict=True):
        np.testing.assert_array_equal(a, b)
    carry, ys = unroll(cell, params, XS.at[2, 0].set(jnp.nan), lengths=lengths)
    assert jnp.isnan(carry[0]).any()
    assert jnp.isnan(ys[2, 0]).any()
    assert not jnp.isnan(ys[:2]).any()
    assert not jnp.isnan(ys[:, 1]).any()
    assert (ys[3:, 0] == 0).all()
