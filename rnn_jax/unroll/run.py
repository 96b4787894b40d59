"""The ways to run one cell over a sequence. All take and return the same things."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import tree
from rnn_jax.gated_step import GatedStep
from rnn_jax.products import MaskedKernel
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, as_cell
from rnn_jax.unroll.borders import blank
from rnn_jax.unroll.gated import scan_gated
from rnn_jax.unroll.strategies import Associative, Chunked, Scan, Sharded


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
    """The result of a run; `carries` is None unless they were asked for."""

    carry: Carry
    ys: Array
    carries: Carry | None


class Start(NamedTuple):
    """Where a run begins: its carry, and the initial carry of the cell for `fresh` steps."""

    carry: Carry
    initial: Carry


def run_scan(
    cell: Cell, params: Params, sequence: Sequence, start: Start, reverse: bool, keep: bool, unroll: int = 1
) -> Run:
    """Projects all steps, scans, reads all steps out. The definition that the others must equal."""
    params = tree.with_per_step(params, sequence.noise)
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
    if isinstance(cell.step, GatedStep) and not isinstance(cell.step.kernel(params), MaskedKernel):
        options: Any = {"reverse": reverse, "keep": keep, "unroll": unroll}
        carry, (hs, carries) = scan_gated(cell.step, params, start, steps, **options)
    else:
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
) -> Run:
    """Scans over chunks of `size` steps, then over what is left (before them, when walking backwards)."""
    num_steps = sequence.xs.shape[0]
    whole = num_steps - num_steps % size

    def chunk(carry: Carry, part: Sequence) -> tuple[Carry, tuple[Array, Carry | None]]:
        run = run_scan(cell, params, part, Start(carry, start.initial), reverse, keep)
        return run.carry, (run.ys, run.carries)

    if remat:
        chunk = jax.checkpoint(chunk, prevent_cse=False)

    def chunks(carry: Carry) -> tuple[Carry, Any]:
        def split(leaf: Array) -> Array:
            return leaf[:whole].reshape(whole // size, size, *leaf.shape[1:])

        def join(leaf: Array) -> Array:
            return leaf.reshape(whole, *leaf.shape[2:])

        carry, out = lax.scan(chunk, carry, jax.tree.map(split, sequence), reverse=reverse)
        return carry, jax.tree.map(join, out)

    def rest(carry: Carry) -> tuple[Carry, Any]:
        return chunk(carry, jax.tree.map(lambda leaf: leaf[whole:], sequence))

    if whole == num_steps:
        carry, out = chunks(start.carry)
    elif reverse:
        carry, second = rest(start.carry)
        carry, first = chunks(carry)
        out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    else:
        carry, first = chunks(start.carry)
        carry, second = rest(carry)
        out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    ys, carries = out
    return Run(carry=carry, ys=ys, carries=carries)


def run_associative(
    cell: LinearCell, params: Params, sequence: Sequence, start: Start, reverse: bool, keep: bool
) -> Run:
    """Composes the maps h -> a h + b of all steps by an associative scan.

    A step that is not real is the identity (1, 0); a fresh start is a map that ignores h, `(0, a initial + b)`; the
    carry is folded into the first map.
    """
    if sequence.xs.shape[0] == 0:
        return run_scan(as_cell(cell), params, sequence, start, reverse, keep)
    params = tree.with_per_step(params, sequence.noise)
    a, b = step_maps(cell, params, sequence, start)
    first, last = (-1, 0) if reverse else (0, -1)
    b = b.at[first].add(a[first] * start.carry)
    _, hs = lax.associative_scan(compose, (a, b), reverse=reverse)
    ys = blank(sequence.real, cell.readout(params, hs, sequence.xs))
    return Run(carry=hs[last], ys=ys, carries=hs if keep else None)


def step_maps(cell: LinearCell, params: Params, sequence: Sequence, start: Start) -> tuple[Array, Array]:
    """The maps h -> a h + b of all steps, in the dtype of the carry: `(a, b)`, each [T, *batch, N]."""
    a, b = (part.astype(start.carry.dtype) for part in cell.elements(params, sequence.xs))
    if sequence.fresh is not None:
        fresh = tree.expand(sequence.fresh, a)
        a, b = jnp.where(fresh, 0, a), jnp.where(fresh, a * start.initial[None] + b, b)
    if sequence.real is not None:
        real = tree.expand(sequence.real, a)
        a, b = jnp.where(real, a, 1), jnp.where(real, b, 0)
    return a, b


def compose(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
    """The map of two maps in a row."""
    return later[0] * earlier[0], later[0] * earlier[1] + later[1]


def run(
    cell: Cell | LinearCell,
    params: Params,
    sequence: Sequence,
    start: Start,
    reverse: bool,
    keep: bool,
    method: Scan | Chunked | Associative | Sharded,
) -> Run:
    """Dispatches on the strategy."""
    if isinstance(method, Sharded):
        from rnn_jax.unroll.sharded import run_sharded  # which is made of the parts above

        return run_sharded(cell, params, sequence, start, reverse, keep, mesh=method.mesh, axis=method.axis)
    if isinstance(method, Associative):
        if not isinstance(cell, LinearCell):
            raise ValueError(
                "`method` Associative() needs a LinearCell, whose recurrence is h' = a h + b; this cell's step is not "
                "of that form. Use Scan() or Chunked(size)."
            )
        return run_associative(cell, params, sequence, start, reverse, keep)
    stepped = as_cell(cell) if isinstance(cell, LinearCell) else cell
    if isinstance(method, Chunked):
        return run_chunked(stepped, params, sequence, start, reverse, keep, size=method.size, remat=method.remat)
    return run_scan(stepped, params, sequence, start, reverse, keep, unroll=method.unroll)
