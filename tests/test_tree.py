"""Operations on trees of arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import tree
from rnn_jax.types import PerStep

MIXED = {"w": jnp.arange(2.0), "step": jnp.arange(2), "on": jnp.array([True]), "c": jnp.array([1 + 2j])}


def test_wide_is_float64_only_where_something_is() -> None:
    assert tree.wide(jnp.bfloat16, jnp.float16) == jnp.float32
    assert tree.wide(jnp.complex64) == jnp.float32
    assert tree.wide(jnp.float32, jnp.complex128) == tree.wide(jnp.float64) == jnp.float64


def test_cast_touches_floating_leaves_only() -> None:
    out = tree.cast(MIXED, jnp.bfloat16)
    assert {k: v.dtype.name for k, v in out.items()} == {
        "w": "bfloat16",
        "step": "int32",
        "on": "bool",
        "c": "complex64",
    }


def test_widen_raises_and_never_lowers() -> None:
    with jax.enable_x64(True):
        leaves = {"h": jnp.zeros(1, jnp.bfloat16), "c": jnp.zeros(1, jnp.complex64), "n": jnp.zeros(1, jnp.int32)}
        names = {k: v.dtype.name for k, v in tree.widen(leaves, jnp.float64).items()}
        assert names == {"h": "float64", "c": "complex128", "n": "int32"}
        names = {k: v.dtype.name for k, v in tree.widen(leaves, jnp.bfloat16).items()}
        assert names == {"h": "float32", "c": "complex64", "n": "int32"}
        assert tree.widen(jnp.zeros(1), jnp.bfloat16).dtype == jnp.float64


def test_where_selects_rows_of_leaves_of_any_rank() -> None:
    mask = jnp.array([True, False])
    out = tree.where(mask, {"a": jnp.ones(2), "b": jnp.ones((2, 3))}, {"a": jnp.zeros(2), "b": 5 * jnp.ones((2, 3))})
    np.testing.assert_array_equal(out["a"], [1, 0])
    np.testing.assert_array_equal(out["b"], [[1, 1, 1], [5, 5, 5]])


def test_size_counts_scalars() -> None:
    assert tree.size({"w": jnp.zeros((2, 3)), "b": (jnp.zeros(3), jnp.zeros(()))}) == 10
    assert tree.size(()) == 0


def test_per_step_leaves_are_found_replaced_and_cut_at_a_step() -> None:
    params = {"w": jnp.ones(2), "noise": PerStep(jnp.arange(6.0).reshape(3, 2)), "more": [PerStep(jnp.arange(3))]}
    values = tree.per_step(params)
    assert [value.shape for value in values] == [(3,), (3, 2)]
    doubled = tree.with_per_step(params, [2 * value for value in values])
    np.testing.assert_array_equal(doubled["noise"].value, 2 * params["noise"].value)
    np.testing.assert_array_equal(doubled["w"], params["w"])
    at = jax.jit(tree.at_step)(params, 1)
    np.testing.assert_array_equal(at["noise"].value, [2, 3])
    np.testing.assert_array_equal(at["more"][0].value, 1)
