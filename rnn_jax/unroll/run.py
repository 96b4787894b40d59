"""The ways to run one cell over a sequence. All take and return the same things."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import tree
from rnn_jax.gated_step import GatedStep, ProductStep, Projection, has_rule
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, as_cell, take_x
from rnn_jax.unroll.borders import blank
from rnn_jax.unroll.gated import scan_gated
from rnn_jax.unroll.gated_gradient import Given, Marks
from rnn_jax.unroll.linear import linear_recurrence
from rnn_jax.unroll.walk import Walk, steps_in_a_turn


class Sequence(NamedTuple):
    """What is walked along: each leaf has time first, or is None.

    Attributes:
        xs: [T, *batch, I], zero where steps are not real.
        real: [T, *leading batch axes] or None.
        fresh: [T, *leading batch axes] or None: steps before which the initial carry comes back.
        noise: the `PerStep` values of the parameters.
    """

    xs: Array
    real: Array | None
    fresh: Array | None
    noise: list[Array]


class Run(NamedTuple):
    """The result of a run; `carries` is None unless they were asked for, `info` is that of Newton's method."""

    carry: Carry
    ys: Array
    carries: Carry | None
    info: Any = None


class Start(NamedTuple):
    """Where a run begins: its carry, the initial carry for `fresh` steps, and the guess of Newton's method."""

    carry: Carry
    initial: Carry
    guess: Carry | None = None


def run_scan(
    cell: Cell,
    params: Params,
    sequence: Sequence,
    start: Start,
    reverse: bool,
    keep: bool,
    unroll: int | None = None,
) -> Run:
    """Projects all steps, scans, reads all steps out. The definition that the others must equal."""
    unroll = unroll or steps_in_a_turn()
    params = tree.with_per_step(params, sequence.noise)
    known = all(isinstance(size, int) for size in sequence.xs.shape) and sequence.xs.shape[0] > 0  # may be exported
    if isinstance(cell.step, GatedStep | ProductStep) and has_rule(cell.step, params) and known:
        step, project, num_steps = cell.step, cell.project, sequence.xs.shape[0]
        if not isinstance(project, Projection):
            all_zs = project(params, sequence.xs)
            project = Projection(take_x, enter=lambda params, xs: all_zs)
        xs = project.enter(params, sequence.xs)
        given = Given(step.kernel(params), step.part(params), project.part(params), (start.carry, start.initial), xs)
        marks = Marks(sequence.real, sequence.fresh)
        num_gates = jax.eval_shape(project.rows, given.inputs, xs).shape[-1]
        num_gates *= 3 if isinstance(step, ProductStep) else 1  # z, all products and their factors are written
        walk = Walk.here(num_steps, sequence.xs.shape[1:-1], num_gates, reverse, unroll)
        carry, (hs, carries) = scan_gated(step, project.rows, given, marks, walk, keep=keep)
        return Run(carry=carry, ys=blank(sequence.real, cell.readout(params, hs, sequence.xs)), carries=carries)
    zs = cell.project(params, sequence.xs)
    if not jax.tree.leaves(start.carry):  # nothing to remember: no loop
        hs = jax.vmap(lambda z: cell.step(params, start.carry, z)[1])(zs)
        ys = blank(sequence.real, cell.readout(params, hs, sequence.xs))
        return Run(carry=start.carry, ys=ys, carries=start.carry if keep else None)

    def body(carry: Carry, step: tuple[Any, Array | None, Array | None]) -> tuple[Carry, Any]:
        z, real, fresh = step
        if fresh is not None:
            carry = tree.where(fresh, start.initial, carry)
        after, h = cell.step(params, carry, z)
        if real is not None:
            after = tree.where(real, after, carry)
        return after, (h, after if keep else None)

    steps = (zs, sequence.real, sequence.fresh)
    carry, (hs, carries) = lax.scan(body, start.carry, steps, reverse=reverse, unroll=unroll)
    ys = blank(sequence.real, cell.readout(params, hs, sequence.xs))
    return Run(carry=carry, ys=ys, carries=carries)


def run_chunked(
    cell: Cell,
    params: Params,
    sequence: Sequence,
    start: Start,
    reverse: bool,
    keep: bool,
    size: int,
    remat: bool,
    inner: tuple[int, ...] = (),
) -> Run:
    """Scans over chunks of `size` steps, then over what is left; `inner` are the sizes of chunks inside of chunks.

    What is left is less than a chunk and comes last, so it is kept for no longer than a chunk is.
    """
    num_steps = sequence.xs.shape[0]
    count, rest = divmod(num_steps, size)

    def run_part(carry: Carry, part: Sequence) -> tuple[Carry, tuple[Array, Carry | None]]:
        begin = Start(carry, start.initial)
        if inner:
            run = run_chunked(cell, params, part, begin, reverse, keep, inner[0], remat, inner[1:])
        else:
            run = run_scan(cell, params, part, begin, reverse, keep)
        return run.carry, (run.ys, run.carries)

    def split(leaf: Array) -> Array:
        leaf = leaf[rest:] if reverse else leaf[: num_steps - rest]
        return leaf.reshape(count, size, *leaf.shape[1:])

    def join(leaf: Array) -> Array:
        return leaf.reshape(count * size, *leaf.shape[2:])

    if count == 0:
        carry, out = run_part(start.carry, sequence)
    else:
        chunk = jax.checkpoint(run_part, prevent_cse=False) if remat else run_part
        carry, out = lax.scan(chunk, start.carry, jax.tree.map(split, sequence), reverse=reverse)
        out = jax.tree.map(join, out)
        if rest:
            left = jax.tree.map(lambda leaf: leaf[:rest] if reverse else leaf[-rest:], sequence)
            carry, more = run_part(carry, left)
            out = jax.tree.map(lambda a, b: jnp.concatenate([b, a] if reverse else [a, b]), out, more)
    ys, carries = out
    return Run(carry=carry, ys=ys, carries=carries)


def run_linear(
    cell: LinearCell,
    params: Params,
    sequence: Sequence,
    start: Start,
    reverse: bool,
    keep: bool,
    parallel: bool | None = None,
) -> Run:
    """Solves the linear recurrence of all steps; `parallel` is that of `linear_recurrence`."""
    if sequence.xs.shape[0] == 0:
        return run_scan(as_cell(cell), params, sequence, start, reverse, keep)
    params = tree.with_per_step(params, sequence.noise)
    a, b = step_maps(cell, params, sequence, start)
    hs = linear_recurrence(a, b, start.carry, reverse=reverse, parallel=parallel)
    ys = blank(sequence.real, cell.readout(params, hs, sequence.xs))
    return Run(carry=hs[0 if reverse else -1], ys=ys, carries=hs if keep else None)


def step_maps(cell: LinearCell, params: Params, sequence: Sequence, start: Start) -> tuple[Array, Array]:
    """The maps h -> a h + b of all steps, in the dtype of the carry: `(a, b)`, each [T, *batch, N].

    A step that is not real is the identity (1, 0); a fresh start is a map that ignores h, `(0, a initial + b)`.
    """
    a, b = (part.astype(start.carry.dtype) for part in cell.elements(params, sequence.xs))
    if sequence.fresh is not None:
        fresh = tree.expand(sequence.fresh, a)
        a, b = jnp.where(fresh, 0, a), jnp.where(fresh, a * start.initial[None] + b, b)
    if sequence.real is not None:
        real = tree.expand(sequence.real, a)
        a, b = jnp.where(real, a, 1), jnp.where(real, b, 0)
    return a, b
