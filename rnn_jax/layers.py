"""Layers: maps of whole sequences, made from cells or from each other."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.types import Array, Carry, Cell, Layer, LinearCell, Params
from rnn_jax.unroll import Auto, Strategy, unroll

MERGES = ("concat", "sum", "mul", "mean")


def layer(cell: Cell | LinearCell, *, reverse: bool = False) -> Layer:
    """A cell as a layer: `apply` is `unroll`.

    Args:
        cell: any cell.
        reverse: walk time backwards.

    Returns:
        A layer with the parameters and the carry of the cell.

    Example:
        >>> from rnn_jax import gru
        >>> encoder = serial(layer(gru(8)), bidirectional(gru(4), gru(4)))
        >>> params = encoder.init(jax.random.key(0), 3)
        >>> encoder.apply(params, jnp.zeros((5, 2, 3)))[1].shape
        (5, 2, 8)
    """
    checks.is_cell(cell)

    def apply(
        params: Params,
        xs: Array,
        *,
        carry: Carry | None = None,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        method: Strategy = Auto(),
    ) -> tuple[Carry, Array]:
        return unroll(
            cell, params, xs, carry, lengths=lengths, mask=mask, resets=resets, reverse=reverse, method=method
        )

    return Layer(init=cell.init, apply=apply, perturb=cell.perturb)


class Directions(NamedTuple):
    """The two halves of what a bidirectional layer holds: parameters, or final carries."""

    forward: Any
    backward: Any


def bidirectional(
    forward: Cell | LinearCell,
    backward: Cell | LinearCell,
    merge: Literal["concat", "sum", "mul", "mean"] = "concat",
) -> Layer:
    """One cell from the first step to the last, another from the last to the first.

    Both directions respect lengths, masks and resets: the backward one starts at the last real step.

    Args:
        forward: the cell that walks forwards.
        backward: the cell that walks backwards, with parameters of its own.
        merge: how the two outputs at a step become one: "concat" on the feature axis, forward first, or "sum", "mul"
            (product) or "mean", which need outputs of equal size.

    Returns:
        A layer with parameters and final carry `Directions(forward, backward)`. The final carry of the backward cell
        is the one after step 0.

    References:
        Schuster & Paliwal, Bidirectional recurrent neural networks, 1997.
    """
    checks.is_cell(forward, "forward")
    checks.is_cell(backward, "backward")
    checks.one_of("merge", merge, MERGES)
    there, back = layer(forward), layer(backward, reverse=True)

    def init(key: Array, input_size: int) -> Directions:
        checks.prng_key(key)
        keys = jax.random.split(key)
        return Directions(forward=forward.init(keys[0], input_size), backward=backward.init(keys[1], input_size))

    def apply(
        params: Directions, xs: Array, *, carry: Directions | None = None, **options: Any
    ) -> tuple[Directions, Array]:
        start = Directions(None, None) if carry is None else carry
        first, ahead = there.apply(params.forward, xs, carry=start.forward, **options)
        last, behind = back.apply(params.backward, xs, carry=start.backward, **options)
        if merge != "concat" and ahead.shape != behind.shape:
            raise ValueError(
                f'`merge` "{merge}" needs outputs of equal size, got {ahead.shape[-1]} forward and '
                f"{behind.shape[-1]} backward"
            )
        return Directions(forward=first, backward=last), _merge(merge, ahead, behind)

    def perturb(key: Array, params: Directions, shape: tuple[int, ...]) -> Directions:
        keys = jax.random.split(key)
        return Directions(
            forward=forward.perturb(keys[0], params.forward, shape),
            backward=backward.perturb(keys[1], params.backward, shape),
        )

    return Layer(init=init, apply=apply, perturb=perturb)


def _merge(merge: str, ahead: Array, behind: Array) -> Array:
    if merge == "concat":
        return jnp.concatenate([ahead, behind], axis=-1)
    if merge == "mul":
        return ahead * behind
    total = ahead + behind
    return total if merge == "sum" else total / 2


def serial(*layers: Layer) -> Layer:
    """Layers one after another.

    Args:
        *layers: first to last; `layer(cell)` makes a layer of a cell.

    Returns:
        A layer whose parameters and final carry are tuples, one entry a layer.
    """
    if not layers:
        raise ValueError("`layers` must be at least one layer, got none")
    for index, one in enumerate(layers):
        if not isinstance(one, Layer):
            hint = "; layer(cell) makes one of a cell" if isinstance(one, Cell | LinearCell) else ""
            raise ValueError(f"`layers[{index}]` must be a Layer, got {type(one).__name__}{hint}")

    def init(key: Array, input_size: int) -> tuple[Params, ...]:
        checks.prng_key(key)
        params, xs = [], layers[0].example(input_size)
        for one_key, one in zip(jax.random.split(key, len(layers)), layers, strict=True):
            params.append(one.init(one_key, input_size))
            xs = jax.eval_shape(lambda p, x, one=one: one.apply(p, x)[1], params[-1], xs)
            input_size = xs.shape[-1]
        return tuple(params)

    def apply(
        params: tuple[Params, ...], xs: Array, *, carry: tuple[Carry, ...] | None = None, **options: Any
    ) -> tuple[tuple[Carry, ...], Array]:
        carries = []
        for index, (one, one_params) in enumerate(zip(layers, params, strict=True)):
            one_carry = None if carry is None else carry[index]
            final, xs = one.apply(one_params, xs, carry=one_carry, **options)
            carries.append(final)
        return tuple(carries), xs

    def perturb(key: Array, params: tuple[Params, ...], shape: tuple[int, ...]) -> tuple[Params, ...]:
        noisy, xs = [], jax.ShapeDtypeStruct(shape, layers[0].example(shape[-1]).dtype)
        for one_key, one, one_params in zip(jax.random.split(key, len(layers)), layers, params, strict=True):
            noisy.append(one.perturb(one_key, one_params, xs.shape))
            xs = jax.eval_shape(lambda p, x, one=one: one.apply(p, x)[1], one_params, xs)
        return tuple(noisy)

    return Layer(init=init, apply=apply, perturb=perturb, example=layers[0].example)
