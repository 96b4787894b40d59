"""Time split over devices: each runs its own slice of the steps, and one map per slice is all that they exchange."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnn_jax import tree
from rnn_jax.types import Array, Cell, LinearCell, Params, as_cell
from rnn_jax.unroll.borders import blank
from rnn_jax.unroll.linear import compose, times
from rnn_jax.unroll.run import Run, Sequence, Start, run_scan, step_maps


def run_sharded(
    cell: Cell | LinearCell,
    params: Params,
    sequence: Sequence,
    start: Start,
    reverse: bool,
    keep: bool,
    mesh: Mesh,
    axis: str,
) -> Run:
    """Runs a slice of the steps on each device of a mesh axis; a cell without a carry goes as its xs are laid out.

    Raises:
        ValueError: if the cell has a carry and is not linear.
    """
    if isinstance(cell, Cell) and not jax.tree.leaves(start.carry):
        return run_scan(cell, params, sequence, start, reverse, keep)
    if not isinstance(cell, LinearCell):
        raise ValueError(
            "`method` Sharded(mesh, axis) needs a LinearCell (of a stack, in every layer), whose recurrence is "
            "h' = a h + b, so that a slice of the steps is one such map; the step of this cell, with parameters "
            f"{type(params).__name__}, is not of that form. Use Scan() or Chunked(size)."
        )
    if sequence.xs.shape[0] == 0:
        return run_scan(as_cell(cell), params, sequence, start, reverse, keep)
    absent: list[Any] = [None] * len(sequence.noise)  # per-step parameters go with the sequence, in slices
    return _run_slices(cell, tree.with_per_step(params, absent), sequence, start, reverse, keep, mesh, axis)


@functools.partial(jax.jit, static_argnames=("cell", "reverse", "keep", "mesh", "axis"))
def _run_slices(
    cell: LinearCell,
    params: Params,
    sequence: Sequence,
    start: Start,
    reverse: bool,
    keep: bool,
    mesh: Mesh,
    axis: str,
) -> Run:
    """Compiled, so that calls outside of `jit` do not compile anew."""
    num_steps, last = sequence.xs.shape[0], 0 if reverse else -1
    parallel = mesh.devices.flat[0].platform != "cpu"

    def run_slice(params: Params, sequence: Sequence, start: Start) -> tuple[Array, Array, Array | None]:
        carry = start.carry
        # Marked as different on each device here, the gradients of parameters are summed over devices here, and not
        # where a parameter has already been spread over the steps.
        params, start = jax.tree.map(lambda leaf: lax.pcast(leaf, axis, to="varying"), (params, start))
        params = tree.with_per_step(params, sequence.noise)
        a, b = compose_all(step_maps(cell, params, sequence, start), reverse, parallel)
        totals = _from_every_device(jnp.stack([a[last], b[last]]), mesh, axis)
        carry, entering = lax.scan(lambda h, m: (times(m[0], h) + m[1], h), carry, tuple(totals), reverse=reverse)
        hs = times(a, lax.dynamic_index_in_dim(entering, lax.axis_index(axis))) + b
        ys = blank(sequence.real, cell.readout(params, hs, sequence.xs))
        return carry, ys, hs if keep else None

    carry, *along = jax.shard_map(
        run_slice,
        mesh=mesh,
        in_specs=(P(), P(axis), P()),
        out_specs=(P(), P(axis), P(axis)),
        axis_names={axis},  # other axes of the mesh stay with the partitioner
    )(params, _pad(sequence, -num_steps % mesh.shape[axis]), start)
    ys, carries = jax.tree.map(lambda leaf: leaf[:num_steps], along)
    return Run(carry=carry, ys=ys, carries=carries)


def compose_all(maps: tuple[Array, Array], reverse: bool, parallel: bool) -> tuple[Array, Array]:
    """The map from before all steps to after each of them, in parallel or one after another.

    Args:
        maps: `(a, b)` of each step, [T, *batch, N].
        reverse: whether time is walked backwards.
        parallel: by an associative scan, else by a loop.

    Returns:
        `(a, b)`, of the same shapes.
    """
    if parallel:
        return lax.associative_scan(compose, maps, reverse=reverse)

    def body(total: tuple[Array, Array], step: tuple[Array, Array]) -> tuple[Any, Any]:
        total = compose(total, step)
        return total, total

    a, b = maps
    return lax.scan(body, (jnp.ones_like(a[0]), jnp.zeros_like(b[0])), maps, reverse=reverse)[1]


def _from_every_device(total: Array, mesh: Mesh, axis: str) -> Array:
    """`total` [2, ...] of all devices along an axis, on each of them: [2, devices, ...]."""
    size = mesh.shape[axis]
    if mesh.size == size:
        return lax.all_gather(total, axis, axis=1, to="invarying")
    # Before an all-gather the partitioner would join what other axes of the mesh split, but not before a sum.
    index, total = lax.axis_index(axis), total[:, None]
    mine = tree.expand(jnp.arange(size, dtype=index.dtype)[None] == index, total)
    return lax.psum(jnp.where(mine, total, 0), axis)


def _pad(sequence: Sequence, extra: int) -> Sequence:
    """A sequence with steps at its end that are not real."""
    if extra == 0:
        return sequence
    real = jnp.ones(sequence.xs.shape[:1], bool) if sequence.real is None else sequence.real

    def one(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, extra)] + [(0, 0)] * (leaf.ndim - 1))

    return jax.tree.map(one, sequence._replace(real=real))
