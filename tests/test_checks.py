"""Every check accepts what it should, and names what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import checks
from rnn_jax.cells import lru, lstm


def test_good_values_pass() -> None:
    checks.positive("n", 1)
    checks.positive("n", np.int64(3))
    checks.fraction("rate", 0)
    checks.fraction("rate", 0.999)
    checks.one_of("merge", "sum", ("sum", "mean"))
    checks.prng_key(jax.random.key(0))
    checks.prng_key(jax.random.PRNGKey(0))
    checks.is_cell(lstm(2))
    checks.is_cell(lru(2))
    checks.features("xs", jnp.zeros((4, 3)), 3)
    checks.sequence("xs", np.zeros((0, 3)))
    checks.batch_prefix("lengths", (), (2, 3))
    checks.carry_like({"h": np.zeros(2)}, {"h": jax.ShapeDtypeStruct((2,), jnp.float32)})


@pytest.mark.parametrize("value", [0, -1, 2.0, True, None, "3"])
def test_positive_refuses(value: Any) -> None:
    with pytest.raises(ValueError, match=f"`n` must be an integer of at least 1, got {type(value).__name__}"):
        checks.positive("n", value)


@pytest.mark.parametrize("value", [1, 1.0, -0.1, True, float("nan"), "0.5"])
def test_fraction_refuses(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`rate` must be a number in \[0, 1\), got"):
        checks.fraction("rate", value)


def test_one_of_suggests_the_closest() -> None:
    with pytest.raises(ValueError, match="`merge` must be one of 'concat', 'sum', got 'concta'; did you mean 'concat'"):
        checks.one_of("merge", "concta", ("concat", "sum"))
    with pytest.raises(ValueError, match=r"got 3$"):
        checks.one_of("merge", 3, ("concat", "sum"))


@pytest.mark.parametrize("value", [0, None, jnp.zeros(2), jnp.zeros((2, 2), jnp.uint32)])
def test_prng_key_refuses(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`seed` must be a PRNG key such as jax.random.key\(0\), got"):
        checks.prng_key(value, "seed")


def test_describe_tells_arrays_from_other_values() -> None:
    assert checks.describe(jnp.zeros((2, 3))) == "float32 of shape (2, 3)"
    assert checks.describe("lstm") == "str 'lstm'"


def test_lengths_are_returned_as_an_array_and_may_be_empty_or_a_scalar() -> None:
    np.testing.assert_array_equal(checks.lengths([3, 0], 3, (2,)), [3, 0])
    assert checks.lengths(2, 3, (2,)).shape == ()
    assert checks.lengths(jnp.zeros(0, jnp.int32), 3, (0,)).shape == (0,)
    with pytest.raises(ValueError, match=r"`lengths` must lie in \[0, T\] with T=3, got 4"):
        checks.lengths([4, 0], 3, (2,))


def test_lengths_known_outside_are_looked_at_inside_jit() -> None:
    good, bad = jnp.array([3, 0]), jnp.array([4, 0])
    np.testing.assert_array_equal(jax.jit(lambda: checks.lengths(good, 3, (2,)))(), [3, 0])
    with pytest.raises(ValueError, match=r"`lengths` must lie in \[0, T\] with T=3, got 4"):
        jax.jit(lambda: checks.lengths(bad, 3, (2,)))()


def test_step_masks_may_leave_out_trailing_batch_axes() -> None:
    for shape in ((5,), (5, 2), (5, 2, 3)):
        assert checks.step_mask("mask", np.ones(shape, bool), 5, (2, 3)).shape == shape
    with pytest.raises(ValueError, match=r"`mask` must have the shape \(5, 2, 3\) .* got \(5, 3\)"):
        checks.step_mask("mask", np.ones((5, 3), bool), 5, (2, 3))


def test_carry_like_names_the_leaf() -> None:
    expected = {"h": jnp.zeros((2, 3)), "c": jnp.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"`carry` must have shape \(2, 3\) at \['c'\], got \(2,\)"):
        checks.carry_like({"h": jnp.zeros((2, 3)), "c": jnp.zeros(2)}, expected)
    with pytest.raises(ValueError, match="`carry` must have the structure"):
        checks.carry_like((jnp.zeros((2, 3)),), expected)
