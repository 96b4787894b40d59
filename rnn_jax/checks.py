"""Checks of what callers pass in. Each raises ValueError naming the argument, what was expected and what came."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.types import Array, Cell, LinearCell


def describe(value: Any) -> str:
    """A short description of a value for an error text: dtype and shape of an array, else type and value."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"


def positive(name: str, value: Any, least: int = 1) -> None:
    """Checks that `value` is an integer of at least 1, or of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {describe(value)}")


def head_size(hidden_size: int, num_heads: Any) -> int:
    """Checks that `num_heads` divides `hidden_size`, and returns the size of a head."""
    positive("num_heads", num_heads)
    if hidden_size % num_heads:
        raise ValueError(f"`num_heads` must divide hidden_size={hidden_size}, got {num_heads}")
    return hidden_size // num_heads


def fraction(name: str, value: Any) -> None:
    """Checks that `value` is a number in [0, 1)."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be a number in [0, 1), got {describe(value)}")


def one_of(name: str, value: Any, options: Sequence[str]) -> None:
    """Checks that `value` is one of `options`, and suggests the closest one."""
    if value in options:
        return
    close = get_close_matches(str(value), options, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"`{name}` must be one of {', '.join(map(repr, options))}, got {value!r}{hint}")


def prng_key(value: Any, name: str = "key") -> None:
    """Checks that `value` is one PRNG key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`)."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key) and value.ndim == 0:
            return
        if dtype == jnp.uint32 and value.ndim == 1:
            return
    raise ValueError(f"`{name}` must be a PRNG key such as jax.random.key(0), got {describe(value)}")


def is_cell(value: Any, name: str = "cell") -> None:
    """Checks that `value` is a `Cell` or a `LinearCell`."""
    if isinstance(value, Cell | LinearCell):
        return
    if callable(value) and hasattr(value, "__name__") and not isinstance(value, type):
        got = f"the function {value.__name__}; call it first, such as lstm(256)"
    else:
        got = describe(value)
    hint = "; make_cell(name, hidden_size) looks a cell up by name" if isinstance(value, str) else ""
    raise ValueError(f"`{name}` must be a Cell or a LinearCell, got {got}{hint}")


def features(name: str, x: Array, size: int) -> None:
    """Checks that the last axis of `x` has `size` features."""
    if x.ndim < 1 or x.shape[-1] != size:
        raise ValueError(f"`{name}` must have {size} features on its last axis, got shape {tuple(x.shape)}")


def sequence(name: str, xs: Any) -> None:
    """Checks that `xs` is a floating array [T, ..., features]."""
    if not hasattr(xs, "shape") or not hasattr(xs, "dtype"):
        raise ValueError(f"`{name}` must be an array [T, ..., features], got {describe(xs)}")
    if xs.ndim < 2:
        raise ValueError(f"`{name}` must be [T, ..., features] with at least 2 axes, got shape {tuple(xs.shape)}")
    if not jnp.issubdtype(xs.dtype, jnp.floating):
        raise ValueError(f"`{name}` must be floating (embed or cast it first), got {describe(xs)}")


def one_step(name: str, x: Array) -> None:
    """Checks that `x` is a floating array [*batch, features]."""
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"`{name}` must be a floating array [*batch, features], got {describe(x)}")


def batch_prefix(name: str, shape: tuple[int, ...], batch_shape: tuple[int, ...]) -> None:
    """Checks that `shape` is a leading part of `batch_shape`."""
    if shape != batch_shape[: len(shape)]:
        raise ValueError(f"`{name}` must have the shape {batch_shape} of the batch or its leading part, got {shape}")


def lengths(value: Any, num_steps: int, batch_shape: tuple[int, ...]) -> Array:
    """Checks `lengths`: integers in [0, T], shaped like the batch or its leading axes.

    Values that are traced cannot be looked at: there a length beyond T counts as T, a negative one as 0.
    """
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"`lengths` must be integers, got {describe(array)}")
    batch_prefix("lengths", array.shape, batch_shape)
    if not isinstance(array, jax.core.Tracer):
        values = np.asarray(array)  # inside jit, jnp would trace what is known here
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high > num_steps:
            worst = low if low < 0 else high
            raise ValueError(f"`lengths` must lie in [0, T] with T={num_steps}, got {worst}")
    return array


def step_mask(name: str, value: Any, num_steps: int, batch_shape: tuple[int, ...]) -> Array:
    """Checks a boolean array over steps: [T, *batch] or [T, *leading batch axes]."""
    array = jnp.asarray(value)
    if array.dtype != jnp.bool_:
        raise ValueError(f"`{name}` must be boolean, got {describe(array)}")
    full = (num_steps, *batch_shape)
    if array.ndim < 1 or array.shape != full[: array.ndim]:
        raise ValueError(f"`{name}` must have the shape {full} (time, batch) or its leading part, got {array.shape}")
    return array


def noise_steps(noise: Sequence[Array], num_steps: int) -> None:
    """Checks that the per-step noise of perturbed parameters was drawn for `num_steps`."""
    for leaf in noise:
        if leaf.shape[0] != num_steps:
            raise ValueError(
                f"`params` were perturbed for {leaf.shape[0]} steps, but xs has T={num_steps}; call cell.perturb with "
                "the shape of xs"
            )


def carry_like(carry: Any, expected: Any, name: str = "carry") -> None:
    """Checks that `carry` has the structure and shapes of `expected` (arrays or shape structs)."""
    got_structure, structure = jax.tree.structure(carry), jax.tree.structure(expected)
    if got_structure != structure:
        raise ValueError(f"`{name}` must have the structure {structure}, got {got_structure}")
    flat, _ = jax.tree.flatten_with_path(expected)
    for (path, leaf), got in zip(flat, jax.tree.leaves(carry), strict=True):
        if tuple(jnp.shape(got)) != tuple(leaf.shape):
            where = jax.tree_util.keystr(path) or "the carry"
            raise ValueError(f"`{name}` must have shape {tuple(leaf.shape)} at {where}, got {tuple(jnp.shape(got))}")
