"""The few types that everything else is made of: `Cell`, `LinearCell`, `Layer`.

A cell is a NamedTuple of pure functions. None of them knows about time: `rnn_jax.unroll` does.

Letters in shapes, here and everywhere: T steps, B batch, I input, H hidden, O output, S source steps,
V vocabulary. Sequences are time-major `[T, B, ..., features]`: the first axis is time, the last one is
features, and every axis between is batch; there may be none or many.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Params = Any
"""A pytree of parameters, usually a NamedTuple."""
Carry = Any
"""A pytree of arrays `[B, ..., features]` that a step hands to the next one."""


def take_x(params: Params, xs: Array) -> Array:
    """The default `project`: the step gets x as it is."""
    del params
    return xs


def take_h(params: Params, hs: Array, xs: Array) -> Array:
    """The default `readout`: the output is h as it is."""
    del params, xs
    return hs


def keep_params(params: Params) -> Params:
    """The default `prepare`: there is nothing to work out from the parameters alone."""
    return params


def no_noise(key: Array, params: Params, shape: tuple[int, ...]) -> Params:
    """The default `perturb`: a cell without noise keeps its parameters."""
    del key, shape
    return params


def example_xs(input_size: int) -> jax.ShapeDtypeStruct:
    """The default `example` of a layer: one step of floating features, with room for spatial axes."""
    return jax.ShapeDtypeStruct((1, 1, 1, 1, 1, input_size), jnp.float32)


class Cell(NamedTuple):
    """A recurrent cell: how to start, one step, and the work around the step that needs no carry.

    `functools.partial(cell.step, params)` is the body of a `lax.scan`. Only the first three functions are
    needed: `Cell(init, init_carry, step)` is a whole cell, and the others default to doing nothing.

    Attributes:
        init: `(key, input_size) -> params`.
        init_carry: `(params, batch_shape=()) -> carry`, leaves `[*batch_shape, ...]`, at least float32.
            It sees the parameters, so a learned initial carry is a parameter.
        step: `(params, carry, z) -> (carry, h)`: the recurrence and nothing else. The carry keeps its dtypes.
        project: `(params, xs) -> zs`, work on x that needs no carry, any leading axes.
        readout: `(params, hs, xs) -> ys`, work on h that feeds no carry, any leading axes.
        prepare: `(params) -> params`, work on the parameters alone (a matrix exponential, say), done once
            before the loop. Applying it twice, or not at all, gives the same numbers.
        perturb: `(key, params, shape) -> params` with the masks and noise of one call drawn in, for xs of that shape
            `[T, *batch, I]`. Per-step masks are `PerStep` leaves `[T, ...]`. Parameters that were not perturbed
            evaluate: a mask is its expectation.
        layers: the cells of a `stack`, bottom first; empty for a single cell. `unroll` runs a stack layer by
            layer, and steps it as one cell when streaming.
        spatial_axes: how many of the last batch axes a step mixes, as a convolution does; all others are rows that
            know nothing of each other.
    """

    init: Callable[..., Params]
    init_carry: Callable[..., Carry]
    step: Callable[[Params, Carry, Any], tuple[Carry, Any]]
    project: Callable[[Params, Array], Any] = take_x
    readout: Callable[[Params, Any, Array], Array] = take_h
    prepare: Callable[[Params], Params] = keep_params
    perturb: Callable[[Array, Params, tuple[int, ...]], Params] = no_noise
    layers: tuple["Cell | LinearCell", ...] = ()
    spatial_axes: int = 0


class LinearCell(NamedTuple):
    """A cell whose recurrence is linear and element-wise: `h_t = a_t * h_{t-1} + b_t`.

    `a` and `b` depend on x and the parameters, never on h, so all steps can be computed at once by an
    associative scan. The carry is the array h `[*batch, N]`, real or complex.

    Attributes:
        init: `(key, input_size) -> params`.
        init_carry: `(params, batch_shape=()) -> h`.
        elements: `(params, xs) -> (a, b)`, both with the leading axes of xs.
        readout: `(params, hs, xs) -> ys`.
        perturb: as in `Cell`.
    """

    init: Callable[..., Params]
    init_carry: Callable[..., Array]
    elements: Callable[[Params, Array], tuple[Array, Array]]
    readout: Callable[[Params, Any, Array], Array] = take_h
    perturb: Callable[[Array, Params, tuple[int, ...]], Params] = no_noise


class Layer(NamedTuple):
    """A map of whole sequences: what needs the future (bidirectional) or no carry at all (an embedding).

    Attributes:
        init: `(key, input_size) -> params`.
        apply: `(params, xs, *, carry=None, lengths=None, mask=None, resets=None, method=Auto())
            -> (final_carry, ys)`. A layer without a recurrence returns `()` as its carry.
        perturb: as in `Cell`.
        example: `(input_size) -> jax.ShapeDtypeStruct` of xs, from which sizes and dtypes downstream are inferred.
    """

    init: Callable[..., Params]
    apply: Callable[..., tuple[Carry, Array]]
    perturb: Callable[[Array, Params, tuple[int, ...]], Params] = no_noise
    example: Callable[[int], jax.ShapeDtypeStruct] = example_xs


class PerStep(NamedTuple):
    """Marks a leaf of perturbed parameters that has one value per step: `value [T, ...]`.

    Where the step is one (streaming), the leaf has no time axis: `tree.at_step(params, t)` takes it off.
    """

    value: Array


def as_cell(linear_cell: LinearCell) -> Cell:
    """The same recurrence as a `Cell`, for streaming, stacks and every strategy that goes step by step.

    Args:
        linear_cell: the linear cell.

    Returns:
        A cell with equal parameters, carry and numbers: `step(params, h, (a, b)) = (a h + b, a h + b)`.

    Example:
        >>> from rnn_jax import lru, as_cell
        >>> cell = as_cell(lru(4))
        >>> isinstance(cell, Cell)
        True
    """

    def step(params: Params, carry: Array, z: tuple[Array, Array]) -> tuple[Array, Array]:
        del params
        a, b = z
        h = a.astype(carry.dtype) * carry + b.astype(carry.dtype)
        return h, h

    return Cell(
        init=linear_cell.init,
        init_carry=linear_cell.init_carry,
        step=step,
        project=linear_cell.elements,
        readout=linear_cell.readout,
        perturb=linear_cell.perturb,
    )
