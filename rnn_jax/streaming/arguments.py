"""What a pool is given, checked and brought into the form that its programs take."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from rnn_jax import checks, tree
from rnn_jax.streaming.slots import initial_rows
from rnn_jax.types import Array, Carry, Cell, Layer, LinearCell, Params
from rnn_jax.unroll import stream_step

__all__ = [
    "chunk_lengths",
    "fill",
    "inputs",
    "one_row",
    "program_sizes",
    "step_output",
    "stream_numbers",
    "streaming_cell",
]


def streaming_cell(cell: Any, params: Params) -> None:
    """Checks that a cell with these parameters can run while its inputs arrive."""
    if isinstance(cell, Layer):
        raise ValueError(
            "`cell` must be a Cell or a LinearCell, got a Layer, which is given whole sequences: what it says of one "
            "may depend on later ones, as in a bidirectional layer, so it cannot run while they arrive. Instead of "
            "layer(cell), give the cell"
        )
    checks.is_cell(cell)
    if tree.per_step(params):
        raise ValueError("`params` must not be perturbed: streams evaluate, and have no step in common")


def step_output(cell: Cell | LinearCell, params: Params, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The output of one step of one stream.

    Raises:
        ValueError: the cell cannot make that step.
    """

    def run(params: Params, x: Array) -> Array:
        return stream_step(cell, params, initial_rows(cell, params, x.shape[:-1], x.dtype), x)[1]

    try:
        y = jax.eval_shape(run, params, x)
    except ValueError as error:
        raise ValueError(f"`params`, `input_size`, `space` and `dtype` must fit the cell: {error}") from error
    if y.shape[:-1] != x.shape[:-1]:  # masks or sources drawn in for a batch
        raise ValueError(
            f"`params` must be the same for all streams, as init gives them: of one step {list(x.shape)} they make an "
            f"output {list(y.shape)}"
        )
    return y


def stream_numbers(streams: Any) -> tuple[bool, list[int]]:
    """Whether `streams` is a single stream, and the streams as a list."""
    if isinstance(streams, np.ndarray):
        streams = streams.tolist()
    single = not isinstance(streams, Sequence)
    numbers = [streams] if single else streams
    if not all(isinstance(number, int | np.integer) for number in numbers):
        raise ValueError(f"`streams` must be one stream or a sequence of streams, got {checks.describe(streams)}")
    return single, [int(number) for number in numbers]


def program_sizes(name: str, sizes: Sequence[int], always: int, most: int | None = None) -> tuple[int, ...]:
    """Checks sizes, and sorts them together with the one that is always there."""
    for size in sizes:
        checks.positive(name, size)
        if most is not None and size > most:
            raise ValueError(f"`{name}` must be at most {most}, got {size}")
    return tuple(sorted({*map(int, sizes), always}))


def inputs(xs: ArrayLike, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Checks the shape of xs, and casts real numbers to `dtype`."""
    array = np.asarray(xs)
    if array.shape != shape:
        raise ValueError(f"`xs` must have the shape {shape}, got {array.shape}")
    if array.dtype != dtype:
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise ValueError(f"`xs` must be real numbers, got {checks.describe(array)}")
        array = array.astype(dtype)
    return array


def chunk_lengths(lengths: ArrayLike | None, num_steps: int, count: int) -> np.ndarray:
    """Checks the lengths of a chunk: [K]; None stands for all steps."""
    if lengths is None:
        return np.full(count, num_steps)
    array = np.asarray(lengths)
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"`lengths` must be {count} integers, one for each stream, got {checks.describe(array)}")
    if array.size and not (array.min() >= 0 and array.max() <= num_steps):
        raise ValueError(f"`lengths` must lie in [0, C] with C={num_steps}, got {array.tolist()}")
    return array


def one_row(carry: Carry, like: Carry) -> Carry:
    """Checks that a carry has the structure, shapes and dtypes of a single row."""
    checks.carry_like(carry, like)
    for got, leaf in zip(jax.tree.leaves(carry), jax.tree.leaves(like), strict=True):
        if getattr(got, "dtype", None) != leaf.dtype:
            raise ValueError(f"`carry` must have the dtypes of the pool, {leaf.dtype}, got {checks.describe(got)}")
    return carry


def fill(array: np.ndarray, size: int, axis: int = 0) -> np.ndarray:
    """An array with one axis filled up to `size` by zeros."""
    shape = list(array.shape)
    shape[axis] = size
    filled = np.zeros(shape, array.dtype)
    filled[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
    return filled
