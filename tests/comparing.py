"""What tests of composition share: quick compilation, random parameters, comparison of trees."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiling is what takes time


def random_params(model: Any, input_size: int = 4) -> Any:
    """Parameters of the right shapes, none of them zero or one, without running an initialiser."""
    rng = np.random.default_rng(41)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), input_size))
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


def close(ours: Any, expected: Any) -> None:
    """Two trees of arrays have one structure, and values that are close on the scale of each leaf."""
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        scale = max(1.0, float(np.abs(other).max(initial=0.0)))
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6 * scale)
