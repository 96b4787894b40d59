"""The pure functions of `StreamPool`: some rows of a carry are read, stepped and written back.

A carry of S slots has leaves [S, ...]. `slots` [K] are the rows meant, all different; a number of S or more stands for
a row that only fills up: what it computes is written nowhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import tree
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params
from rnn_jax.unroll import stream_step, unroll

__all__ = ["Program", "compile_program", "initial_rows", "read_slot", "step_slots", "unroll_slots", "write_slot"]

Program: TypeAlias = str | tuple[int, int]
"""A program of a pool: "read", "write", or the numbers of rows and of steps that it runs."""


def initial_rows(cell: Cell | LinearCell, params: Params, batch_shape: tuple[int, ...], dtype: np.dtype) -> Carry:
    """The initial carry [*batch_shape, ...], as wide as inputs of `dtype` make it in `unroll`."""
    return tree.widen(cell.init_carry(params, batch_shape), dtype)


def read_slot(carry: Carry, slot: Array) -> Carry:
    """The carry of one slot [1], without the axis of slots."""
    return jax.tree.map(lambda leaf: leaf[slot[0]], carry)


def write_slot(carry: Carry, slot: Array, row: Carry) -> Carry:
    """The carry with one slot [1] replaced."""
    return jax.tree.map(lambda leaf, new: leaf.at[slot[0]].set(new), carry, row)


def step_slots(cell: Cell | LinearCell, params: Params, carry: Carry, slots: Array, xs: Array) -> tuple[Carry, Array]:
    """One step of some slots; the others keep their carry bit for bit.

    Args:
        cell: the cell.
        params: its parameters.
        carry: leaves [S, ...].
        slots: [K] int32.
        xs: [1, K, *space, I].

    Returns:
        `(carry, ys)`, ys [1, K, *space, O].
    """

    def run(rows: Carry) -> tuple[Carry, Array]:
        rows, y = stream_step(cell, params, rows, xs[0])
        return rows, y[None]

    return _on_rows(run, carry, slots)


def unroll_slots(
    cell: Cell | LinearCell, params: Params, carry: Carry, slots: Array, xs: Array, lengths: Array
) -> tuple[Carry, Array]:
    """Several steps of some slots; the others keep their carry bit for bit.

    Args:
        cell, params, carry, slots: as in `step_slots`.
        xs: [C, K, *space, I].
        lengths: [K] int32, how many of the C steps each of them makes.

    Returns:
        `(carry, ys)`, ys [C, K, *space, O], zero beyond the lengths.
    """
    return _on_rows(lambda rows: unroll(cell, params, xs, rows, lengths=lengths), carry, slots)


def _on_rows(run: Callable[[Carry], tuple[Carry, Array]], carry: Carry, slots: Array) -> tuple[Carry, Array]:
    # Reading a single row would be a slice, which XLA fuses into the write; for the write to be in place it then copies
    # all slots first. With one row too many the read is a gather, which is not fused.
    more = jnp.concatenate([slots, slots[:1]])
    rows = jax.tree.map(lambda leaf: leaf.at[more].get(mode="clip")[:-1], carry)
    rows, ys = run(rows)

    def write(leaf: Array, new: Array) -> Array:
        return leaf.at[slots].set(new, mode="drop", unique_indices=True)

    return jax.tree.map(write, carry, rows), ys


def compile_program(
    key: Program, cell: Cell | LinearCell, params: Params, carry: Carry, row: Carry, x: jax.ShapeDtypeStruct
) -> Any:
    """Compiles one of the functions above for a pool; it can then be called with these shapes only.

    Args:
        key: which one.
        cell: the cell.
        params: its prepared parameters.
        carry: that of all slots. Where a program returns a new one, the old one is donated.
        row: a carry of one slot.
        x: one step of one stream, [*space, I].
    """
    slot = jax.ShapeDtypeStruct((1,), np.int32)
    if key == "read":
        return jax.jit(read_slot).lower(carry, slot).compile()
    if key == "write":
        return jax.jit(write_slot, donate_argnums=0).lower(carry, slot, row).compile()
    rows, steps = key
    slots = jax.ShapeDtypeStruct((rows,), np.int32)
    xs = jax.ShapeDtypeStruct((steps, rows, *x.shape), x.dtype)
    run, lengths = (step_slots, ()) if steps == 1 else (unroll_slots, (slots,))
    return jax.jit(partial(run, cell), donate_argnums=1).lower(params, carry, slots, xs, *lengths).compile()
