"""flax.linen modules as feed-forward layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rnn_jax import checks
from rnn_jax.types import Array, Layer, Params
from rnn_jax.unroll import Auto, Strategy
from rnn_jax.unroll.borders import blank, real_steps


def from_linen(module: nn.Module, *, example: Callable[[int], jax.ShapeDtypeStruct] | None = None) -> Layer:
    """A flax.linen module (an embedding, a convolution, a norm, an MLP head) as a `Layer` without a recurrence.

        ys = module.apply({"params": params}, xs)

    The module gets the whole sequence [T, *batch, ...] as it is, time first: `nn.Conv(8, (5, 1))` convolves over the
    time of [T, B, I]. Inputs on padding are zero before it and outputs zero after it, whatever stands there. A module
    that is not alone in a `serial` should take any number of batch axes, as those of flax do.

    Integer inputs are tokens [T, *batch] without an axis of features: all their axes but the first are batch, and
    `lengths`, `mask` and `resets` are shaped after those.

    Args:
        module: the module; it may hold the collection "params" and no other.
        example: `(input_size) -> jax.ShapeDtypeStruct` of an input, on whose zeros the module is initialised. By
            default float32 [1, 1, input_size], and int32 [1, 1] for an `nn.Embed`; a module that starts with an
            embedding needs `example=lambda size: jax.ShapeDtypeStruct((1, 1), jnp.int32)`.

    Returns:
        A layer with the module's own dictionary of parameters and the final carry `()`. Its `apply` accepts `carry`,
        `resets` and `method` as every layer does; without a recurrence they change nothing.

    Raises:
        ValueError: if `module` is no linen module; from `init`, if it has another collection.

    Example:
        >>> from rnn_jax import layer, lru, serial
        >>> model = serial(from_linen(nn.Embed(30, 6)), layer(lru(8)), from_linen(nn.Dense(30)))
        >>> params = model.init(jax.random.key(0), 1)
        >>> tokens = jnp.arange(10).reshape(5, 2)
        >>> model.apply(params, tokens, lengths=jnp.array([5, 3]))[1].shape
        (5, 2, 30)
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"`module` must be a flax.linen module, got {type(module).__name__}")
    if example is None:
        example = _tokens if isinstance(module, nn.Embed) else _features
    like = example

    def init(key: Array, input_size: int) -> Params:
        checks.prng_key(key)
        checks.positive("input_size", input_size)
        shape = like(input_size)
        variables = module.init(key, jnp.zeros(shape.shape, shape.dtype))
        others = sorted(set(variables) - {"params"})
        if others:
            raise ValueError(
                f'`module` {type(module).__name__} must keep its variables in the collection "params", got also '
                f"{', '.join(map(repr, others))}"
            )
        return variables.get("params", {})

    def apply(
        params: Params,
        xs: Array,
        *,
        carry: tuple[()] | None = None,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        method: Strategy = Auto(),
    ) -> tuple[tuple[()], Array]:
        del method
        batch_shape = _batch_shape(xs)
        if carry is not None:
            checks.carry_like(carry, ())
        if resets is not None:
            checks.step_mask("resets", resets, xs.shape[0], batch_shape)
        real = real_steps(lengths, mask, xs.shape[0], batch_shape)
        ys: Any = module.apply({"params": params}, blank(real, xs))
        if real is not None and ys.shape[: real.ndim] != real.shape:
            raise ValueError(
                f"`lengths` and `mask` need a module that keeps time and batch {real.shape}, got outputs {ys.shape}"
            )
        return (), blank(real, ys)

    return Layer(init=init, apply=apply, example=like)


def _features(input_size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 1, input_size), jnp.float32)


def _tokens(input_size: int) -> jax.ShapeDtypeStruct:
    del input_size
    return jax.ShapeDtypeStruct((1, 1), jnp.int32)


def _batch_shape(xs: Any) -> tuple[int, ...]:
    """The batch axes of a sequence of features (floating) or of tokens (integer)."""
    if not hasattr(xs, "shape") or not hasattr(xs, "dtype"):
        raise ValueError(f"`xs` must be an array [T, ...], got {checks.describe(xs)}")
    if not jnp.issubdtype(xs.dtype, jnp.integer):
        checks.sequence("xs", xs)
        return xs.shape[1:-1]
    if xs.ndim < 1:
        raise ValueError("`xs` must have a time axis, got shape ()")
    return xs.shape[1:]
